"""Checks of what an application declares, as a whole."""
