"""Published contracts: the JSON schemas of events, which changes to them are allowed, and samples of stored events.

This package depends on events only, and neither on Temporal nor on SQL.
"""
