"""Driving: moves a saga forward or undoes it, step by step, without Temporal and without SQL.

A driver runs in a saga's own execution, in a wave or in a test. It reaches the database through a `Steps` port, and
follows what the database decides.
"""
