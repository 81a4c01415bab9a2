"""Column types that the domains share, besides the engine's `UtcTime`. Both databases return what was written."""

from decimal import Decimal

from sqlalchemy import Dialect, String, TypeDecorator


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal stored as text, because SQLite would turn it into a float."""

    impl = String(64)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        """Convert a decimal to its stored text."""
        return None if value is None else f"{value:f}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        """Convert a stored text to its decimal."""
        return None if value is None else Decimal(value)
