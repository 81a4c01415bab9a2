"""`make chaos`: a bank at work while everything under it is killed, stopped and meddled with; then the audit."""
