"""Steps in another database than home: the row there decides, and the row at home follows."""
