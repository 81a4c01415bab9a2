"""One application before and after a change of its contracts: the same names with another version."""
