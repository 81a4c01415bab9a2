"""The worker process: manager, supervisor, watchdog, command line."""
