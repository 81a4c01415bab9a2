"""SmartExpense's client scripts: the demo's data, the checker of its invariants, and what a person runs."""
