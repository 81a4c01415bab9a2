"""The output of a process: its standard streams."""
