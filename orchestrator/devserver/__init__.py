"""The embedded mode: Temporal's development server as a child process, on free ports of this machine."""
