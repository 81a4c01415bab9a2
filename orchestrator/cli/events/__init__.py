"""Commands about events and their contracts: publish, show, check, document."""
