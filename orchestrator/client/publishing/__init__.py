"""Publishing: an event is checked, delivered to its listeners or, if it is rejected, stored as a dead letter."""
