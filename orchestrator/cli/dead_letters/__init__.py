"""`orchestrator dead-letters`: lists, shows, edits, replays and drops messages that could not be read or routed."""
