"""What must be true of categories and months; a part of `invariants`, which is where to ask."""

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
    """Every sentence that does not hold.

    Checks that each category's value is the sum of what its records added since its last reset, in the display
    currency, but for the rounding of changes of currency; that amounts follow from recorded rates; that no record is
    claimed by a removal; and that months add up.

    Args:
        categories: rows of their table, as all the others.
        conversions: changes of currency.
        records: the activity log.
        metadata: users' settings.
        months: months that were saved.
        month_categories: what each category had then.
        removals: how many records each user has removed.
    """
    changes: dict[str, list[Row]] = defaultdict(list)
    for change in sorted(conversions, key=lambda one: one["currency_epoch"]):
        changes[change["user_id"]].append(change)
    category_records = [one for one in records if one["kind"] == RecordKind.CATEGORY_VALUE_CHANGE]
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
    found: list[str] = []
    for category in categories:
        of_user = changes.get(category["user_id"], ())
        counted = [one for one in by_category[category["id"]] if one["reset_epoch"] >= category["counted_from"]]
        due = sum((_today(one, of_user) for one in counted), Fraction())
        allowed = _rounding(of_user, removals.get(category["user_id"], 0))
        if abs(category["value"] - due) > allowed:
            shown = f"{float(due):g}" if of_user else str(due)
            found.append(
                f"category {category['id']} has gathered {category['value']!r} and its records add up to {shown}"
            )
    return found


def _today(record: Row, changes: Sequence[Row]) -> Fraction:
    """What a record adds today, exactly: through each change of currency since, without rounding."""
    amount = Fraction(record["converted"])
    for change in changes:
        if change["currency_epoch"] > record["currency_epoch"]:
            amount *= _minor_units(change)
    return amount


def _rounding(changes: Sequence[Row], removals: int) -> Fraction:
    """How far rounding may have led: half a minor unit a change, and as much for each removal after it.

    What was half a unit at one change is as much in the units of the next.
    """
    most = Fraction()
    for change in changes:
        most = most * _minor_units(change) + Fraction(1 + removals, 2)
    return most


def _minor_units(change: Row) -> Fraction:
    """How many of the new minor units one of the old ones is."""
    digits = Currency(change["currency_to"]).minor_digits - Currency(change["currency_from"]).minor_digits
    return Fraction(Decimal(change["rate"])) * Fraction(10) ** digits


def _categories_are_in_the_display_currency(
    categories: Sequence[Row], metadata: Sequence[Row], changes: Mapping[str, Sequence[Row]]
) -> list[str]:
    shown = {one["user_id"]: one["display_currency"] for one in metadata}
    found: list[str] = []
    for category in categories:
        user, name = category["user_id"], f"category {category['id']}"
        if category["currency"] != shown.get(user):
            found.append(f"{name} is kept in {category['currency']} and {user} sees {shown.get(user)}")
        newest = max((change["currency_epoch"] for change in changes.get(user, ())), default=0)
        if category["currency_epoch"] != newest:
            found.append(f"{name} is of currency epoch {category['currency_epoch']}, and the newest change is {newest}")
    systems = Counter((one["user_id"], one["budget_type"]) for one in categories if one["is_system"])
    return found + [
        f"user {user} has {systems[user, budget_type]} system categories for {budget_type}"
        for user in sorted({one["user_id"] for one in categories})
        for budget_type in BudgetType
        if systems[user, budget_type] != 1
    ]


def _records_follow_from_their_rates(records: Sequence[Row]) -> list[str]:
    found: list[str] = []
    for record in records:
        name = f"record {record['id']}"
        if record["removing"] is not None:
            found.append(f"{name} is claimed by {record['removing']}, whose removal was neither completed nor undone")
        source, target = Currency(record["currency"]), Currency(record["converted_currency"])
        if record["rate"] is None and source != target:
            found.append(f"{name} has {target} for {source} and no rate")
            continue
        worth = minor_units_between(record["amount"], source, target, record["rate"] or Decimal(1))
        if worth != record["converted"]:
            found.append(f"{name}: {record['amount']} of {source} is {worth} of {target}, not {record['converted']}")
    return found


def _months_add_up(months: Sequence[Row], month_categories: Sequence[Row]) -> list[str]:
    sums: Counter[tuple[str, str, str]] = Counter()
    for one in month_categories:
        sums[one["user_id"], one["month"], one["budget_type"]] += one["value"]
    found: list[str] = []
    for one in months:
        income, expense = (sums[one["user_id"], one["month"], budget_type] for budget_type in BudgetType)
        if (one["income"], one["expense"], one["month_balance"]) != (income, expense, income - expense):
            found.append(
                f"month {one['month']} of {one['user_id']} says {one['income']} - {one['expense']} = "
                f"{one['month_balance']}, and its categories {income} - {expense}"
            )
    return found
