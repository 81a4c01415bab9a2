"""What runs inside Temporal: deterministic and light. Imports no database, no network, no worker and no client."""
