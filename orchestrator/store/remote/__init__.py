"""Remote steps, which run in a database other than home: the row there decides, and the row at home follows."""
