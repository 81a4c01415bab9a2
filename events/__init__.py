"""SmartExpense's event contracts, one module per domain. They import only the engine's event module."""
