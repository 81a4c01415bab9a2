"""Connections to PostgreSQL and SQLite: addresses, settings, poolers, startup checks, errors."""
