"""`orchestrator dead-letters`: list, show, edit, replay and drop messages that could not be read."""
