"""SmartExpense's orchestrators, a file each. No Temporal and no database in here: only what happens, in which order."""
