"""What a process writes for people and machines: standard streams, and later metrics, traces and logs."""
