"""Commands about sagas: show, diagnose, cancel, retry, skip, recover."""
