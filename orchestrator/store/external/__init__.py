"""Steps at external services: attempted, verified, undone."""
