"""SmartExpense's orchestrators, one per file. They import neither Temporal nor a database; they only call steps."""
