"""SmartExpense's operations and tables, a file a domain; domains know neither each other nor each other's tables.

Only the database does: its foreign keys name tables of other domains, so that no mistake here leaves a row astray.
"""
