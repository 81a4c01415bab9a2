"""The invariants of categories and months. `starter.invariants` checks them together with all others."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from activities.activity_log_model import RecordKind
from events.category import BudgetType
from events.money import Currency, minor_units_between

Row = Mapping[str, Any]


def category_violations(
    *,
    categories: Sequence[Row],
    conversions: Sequence[Row],
    records: Sequence[Row],
    metadata: Sequence[Row],
    months: Sequence[Row],
    month_categories: Sequence[Row],
    removals: Mapping[str, int],
) -> list[str]:
    """Return one sentence for each invariant that is violated.

    Each category's value is the sum of its records since its last reset, in the display currency, except for the
    rounding of currency changes. Amounts follow from recorded rates, no record is claimed by a removal, and months add
    up.

    Args:
        categories: all rows of the table `category`.
        conversions: all rows of the table `category_conversion`.
        records: all rows of the table `activity_record`.
        metadata: all rows of the table `user_metadata`.
        months: all rows of the table `month_snapshot`.
        month_categories: all rows of the table `month_category`.
        removals: the number of removed records, by user.
    """
    changes: dict[str, list[Row]] = defaultdict(list)
    for change in sorted(conversions, key=lambda row: row["currency_epoch"]):
        changes[change["user_id"]].append(change)
    category_records = [record for record in records if record["kind"] == RecordKind.CATEGORY_VALUE_CHANGE]
    return [
        *_values_follow_from_records(categories, category_records, changes, removals),
        *_categories_are_in_the_display_currency(categories, metadata, changes),
        *_records_follow_from_their_rates(category_records),
        *_months_add_up(months, month_categories),
    ]


def _values_follow_from_records(
    categories: Sequence[Row],
    records: Sequence[Row],
    changes: Mapping[str, Sequence[Row]],
    removals: Mapping[str, int],
) -> list[str]:
    by_category: dict[str, list[Row]] = defaultdict(list)
    for record in records:
        by_category[record["category_id"]].append(record)
    violated: list[str] = []
    for category in categories:
        user_changes = changes.get(category["user_id"], ())
        counted = [row for row in by_category[category["id"]] if row["reset_epoch"] >= category["counted_from"]]
        expected = sum((_today(record, user_changes) for record in counted), Fraction())
        allowed = _rounding(user_changes, removals.get(category["user_id"], 0))
        if abs(category["value"] - expected) > allowed:
            shown = f"{float(expected):g}" if user_changes else str(expected)
            violated.append(
                f"category {category['id']} has the value {category['value']!r}, but its records add up to {shown}"
            )
    return violated


def _today(record: Row, changes: Sequence[Row]) -> Fraction:
    """Return what a record contributes today: converted exactly by each change of currency since, without rounding."""
    amount = Fraction(record["converted"])
    for change in changes:
        if change["currency_epoch"] > record["currency_epoch"]:
            amount *= _minor_units(change)
    return amount


def _rounding(changes: Sequence[Row], removals: int) -> Fraction:
    """Return the largest possible rounding error: half a minor unit per change, and as much per removal after it.

    The error of one change is converted by the next one, too.
    """
    most = Fraction()
    for change in changes:
        most = most * _minor_units(change) + Fraction(1 + removals, 2)
    return most


def _minor_units(change: Row) -> Fraction:
    """Return how many new minor units one old minor unit is worth."""
    digits = Currency(change["currency_to"]).minor_digits - Currency(change["currency_from"]).minor_digits
    return Fraction(Decimal(change["rate"])) * Fraction(10) ** digits


def _categories_are_in_the_display_currency(
    categories: Sequence[Row], metadata: Sequence[Row], changes: Mapping[str, Sequence[Row]]
) -> list[str]:
    display_currencies = {row["user_id"]: row["display_currency"] for row in metadata}
    violated: list[str] = []
    for category in categories:
        user, name = category["user_id"], f"category {category['id']}"
        if category["currency"] != display_currencies.get(user):
            violated.append(f"{name} is kept in {category['currency']}, but {user} sees {display_currencies.get(user)}")
        newest = max((change["currency_epoch"] for change in changes.get(user, ())), default=0)
        if category["currency_epoch"] != newest:
            violated.append(
                f"{name} has the currency epoch {category['currency_epoch']}, but the newest change is {newest}"
            )
    systems = Counter((row["user_id"], row["budget_type"]) for row in categories if row["is_system"])
    return violated + [
        f"user {user} has {systems[user, budget_type]} system categories for {budget_type}"
        for user in sorted({row["user_id"] for row in categories})
        for budget_type in BudgetType
        if systems[user, budget_type] != 1
    ]


def _records_follow_from_their_rates(records: Sequence[Row]) -> list[str]:
    violated: list[str] = []
    for record in records:
        name = f"record {record['id']}"
        if record["removing"] is not None:
            violated.append(
                f"{name} is claimed by {record['removing']}, whose removal was neither completed nor undone"
            )
        source, target = Currency(record["currency"]), Currency(record["converted_currency"])
        if record["rate"] is None and source != target:
            violated.append(f"{name} has {target} for {source} and no rate")
            continue
        worth = minor_units_between(record["amount"], source, target, record["rate"] or Decimal(1))
        if worth != record["converted"]:
            violated.append(f"{name}: {record['amount']} of {source} is {worth} of {target}, not {record['converted']}")
    return violated


def _months_add_up(months: Sequence[Row], month_categories: Sequence[Row]) -> list[str]:
    sums: Counter[tuple[str, str, str]] = Counter()
    for row in month_categories:
        sums[row["user_id"], row["month"], row["budget_type"]] += row["value"]
    violated: list[str] = []
    for month in months:
        income, expense = (sums[month["user_id"], month["month"], budget_type] for budget_type in BudgetType)
        if (month["income"], month["expense"], month["month_balance"]) != (income, expense, income - expense):
            violated.append(
                f"month {month['month']} of {month['user_id']} says {month['income']} - {month['expense']} = "
                f"{month['month_balance']}, but its categories say {income} - {expense}"
            )
    return violated
