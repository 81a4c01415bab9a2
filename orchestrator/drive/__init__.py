"""Driving: takes a saga forward or back, step by step. Knows neither Temporal nor SQL.

Whoever drives, a workflow, a wave, a test, brings a `Steps` port; the database behind it decides.
"""
