"""Tests that the documents are true: what they show works, and what they name exists."""
