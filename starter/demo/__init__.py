"""`make demo`: shows SmartExpense's processes on a real server with a real worker, which is killed on the way."""
