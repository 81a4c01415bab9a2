"""SmartExpense's manager worker: `python worker.py` finds, registers and runs every orchestrator in this project."""

from orchestrator.worker import Manager

if __name__ == "__main__":
    Manager().main()
