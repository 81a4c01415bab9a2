"""The engine's own workflows for recovery, publishing, schedules and lookups."""
