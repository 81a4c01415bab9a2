"""The plan of faults follows from its seed, is spread over the run, and has enough of everything."""

from collections import Counter

import pytest

from tests.chaos.load import ACCOUNTS, BALANCE, orders
from tests.chaos.plan import FULL_MINUTES, FULL_SAGAS, Act, Dialect, Target, minima, plan

DATABASES: tuple[Dialect, ...] = ("postgresql", "sqlite")


@pytest.mark.parametrize("database", DATABASES)
def test_a_seed_determines_the_plan_and_another_seed_gives_another_plan(database: Dialect) -> None:
    planned = plan(seed=7, minutes=3, sagas=2000, database=database)

    assert planned == plan(seed=7, minutes=3, sagas=2000, database=database)
    assert planned != plan(seed=8, minutes=3, sagas=2000, database=database)


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize(("sagas", "minutes"), [(60, 0.3), (2000, 3.0), (10_000, 12.0)])
def test_a_plan_has_more_of_everything_than_the_run_needs(database: Dialect, sagas: int, minutes: float) -> None:
    planned = plan(seed=1, minutes=minutes, sagas=sagas, database=database)
    least = minima(planned, minutes=minutes, sagas=sagas)

    counted = Counter((fault.act, fault.target) for fault in planned)
    assert all(counted[Act.KILL, Target(part)] >= count for part, count in least.kills.items())
    terminations = counted[Act.TERMINATE, Target.SAGA] + counted[Act.TERMINATE, Target.PARTITION]
    assert terminations >= least.terminations
    assert counted[Act.FAIL_OVER, Target.POSTGRESQL] >= least.failovers
    assert all(0 <= fault.at <= minutes * 60 for fault in planned)
    assert all(fault.seconds <= 15 for fault in planned)
    assert list(planned) == sorted(planned)


def test_the_minimum_counts_are_full_for_a_full_run() -> None:
    planned = plan(seed=1, minutes=FULL_MINUTES, sagas=FULL_SAGAS, database="postgresql")

    least = minima(planned, minutes=FULL_MINUTES, sagas=FULL_SAGAS)

    assert least.is_full
    assert least.kills == {"worker": 10, "temporal": 10, "postgresql": 10}
    assert (least.cancelled, least.late, least.terminations) == (0.05, 50, 20)
    assert least.failovers == 3
    assert not minima(planned, minutes=FULL_MINUTES, sagas=FULL_SAGAS - 1).is_full


def test_a_seed_determines_the_load_and_one_client_publishes_a_keys_events_in_order() -> None:
    load = orders(seed=3, sagas=500, seconds=10, clients=3, writes_alone=False)

    assert load == orders(seed=3, sagas=500, seconds=10, clients=3, writes_alone=False)
    by_key: dict[str, list[tuple[int, int]]] = {}
    for order in load:
        if order.event.key is not None:
            by_key.setdefault(order.event.key, []).append((order.client, order.event.sequence))
    assert len(by_key) > 1
    for published in by_key.values():
        assert len({client for client, _ in published}) == 1
        assert [sequence for _, sequence in published] == list(range(1, len(published) + 1))


def test_a_transfer_that_is_refused_for_too_little_money_adds_money_nowhere_before() -> None:
    """Sagas see each other's effects: money that does not exist could be passed on and then not be taken back."""
    events = [order.event for order in orders(seed=14, sagas=10_000, seconds=720, clients=3, writes_alone=False)]

    too_much = [event for event in events if event.amount > BALANCE * len(ACCOUNTS)]
    assert len(too_much) > 100
    assert "parallel" not in {event.shape for event in too_much}
    assert max(event.amount for event in events if event not in too_much) <= 100
