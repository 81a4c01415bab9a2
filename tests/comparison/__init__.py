"""Compares the application with the reference model: both get the same events, and all tables are compared after each.

The application runs on the real engine, with its drivers, steps and outcomes, on a SQLite file. Only Temporal is
missing, because it decides nothing.
"""
