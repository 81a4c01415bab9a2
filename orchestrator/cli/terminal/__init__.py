"""What all commands share: output, options, confirmation, exit codes."""
