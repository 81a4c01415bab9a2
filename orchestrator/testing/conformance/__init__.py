"""The conformance kit: every fault at every step of an orchestrator's examples, on every database."""
