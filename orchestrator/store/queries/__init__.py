"""Queries for people and clients. They change nothing and create nothing."""
