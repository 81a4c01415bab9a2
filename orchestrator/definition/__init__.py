"""Validation of what an author declares, and the catalog of everything that is found. Asks no server."""
