"""Published contracts: JSON schemas of events, what of them may change, and samples of what was stored.

Knows events alone: no Temporal and no SQL.
"""
