"""Converts an author's values to JSON, and rejects values that would not be read back unchanged."""
