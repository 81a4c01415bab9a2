"""SmartExpense's operations and tables, a file a domain; domains know neither each other nor each other's tables."""
