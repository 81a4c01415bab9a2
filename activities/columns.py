"""Column types the domains share beside the engine's `UtcTime`: both databases give back exactly what was written."""

from decimal import Decimal

from sqlalchemy import Dialect, String, TypeDecorator


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal kept as text, digit for digit: SQLite would make a float of it."""

    impl = String(64)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else f"{value:f}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        """From the database."""
        return None if value is None else Decimal(value)
