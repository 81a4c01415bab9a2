"""How an author's values become JSON and are read back as the same values, or are refused where they arise."""
