"""The application beside the reference model: the same events to both, and every table of both after each.

The application runs on the engine as it is: its drivers, its steps, its outcomes, on a SQLite file. Only Temporal is
not there, as it decides nothing.
"""
