"""Validation of what an author declares, and the catalog of everything that is found. None of it needs a server."""
