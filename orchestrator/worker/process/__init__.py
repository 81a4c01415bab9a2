"""The worker process: its manager, supervisor, watchdog and command line."""
