"""SmartExpense's event contracts, a file a domain. Knows the engine's event half and nothing else of it."""
