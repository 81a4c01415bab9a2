"""SmartExpense's operations and tables, one module per domain. No domain imports another one or its tables.

Only the database connects the domains. Its foreign keys refer to tables of other domains, so that a mistake in an
operation cannot leave an orphaned row.
"""
