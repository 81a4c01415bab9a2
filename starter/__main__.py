"""`python -m starter COMMAND`: SmartExpense's own commands."""

from starter.commands import app

if __name__ == "__main__":
    app(prog_name="python -m starter")
