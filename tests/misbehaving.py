"""Orchestrators whose `handle` breaks the rules, in a module that also declares tables."""

import random
from datetime import datetime

from sqlalchemy import Column, Index, MetaData, String, Table
from sqlmodel import Field, SQLModel

from orchestrator import Orchestrator, Saga
from tests.cast import take
from tests.misbehaving_events import (
    ClockCompleted,
    ClockFailed,
    ClockRequested,
    DiceCompleted,
    DiceFailed,
    DiceRequested,
)

MISBEHAVIOUR = MetaData()
THROWS = Table("throws", MISBEHAVIOUR, Column("throw", String, primary_key=True))
Index("ix_throws", THROWS.c.throw)


class Misdeed(SQLModel, table=True):
    """A table in an orchestrator's module, which a process can declare only once."""

    metadata = MISBEHAVIOUR
    what: str = Field(primary_key=True)


class Clock(Orchestrator[ClockRequested, ClockCompleted, ClockFailed]):
    """Reads the clock, which gives another value at each replay."""

    async def handle(self, event: ClockRequested, saga: Saga) -> ClockCompleted:
        await saga.execute(take("a", datetime.now().second))  # noqa: DTZ005
        return ClockCompleted()


class Dice(Orchestrator[DiceRequested, DiceCompleted, DiceFailed]):
    """Throws dice, which gives another value at each replay."""

    async def handle(self, event: DiceRequested, saga: Saga) -> DiceCompleted:
        await saga.execute(take("a", random.randint(1, 6)))
        return DiceCompleted()
