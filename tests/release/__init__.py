"""The package as it is released: what it contains, and a project of its own that is made with it."""
