"""Outcomes of sagas for clients, read from the tables or from executions."""
