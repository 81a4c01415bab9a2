"""The engine's own workflows: recovery, publishing, schedules, lookups."""
