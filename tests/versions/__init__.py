"""One application before and after its contracts changed: the same names, another version."""
