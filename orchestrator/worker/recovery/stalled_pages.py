"""Reads the stalled sagas page by page within the limits of a sweep, and remembers where the sweep stopped."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from orchestrator.store.recovery import RecordedSaga, stalled_sagas
from orchestrator.worker.recovery.limits import SweepState

_PAGE = 200
_LOOKS_APART = timedelta(seconds=30)
"""The shortest time between two checks of a saga that waits for locks. Hundreds may wait, and asking the server about
each of them would be most of a sweep's work."""

LookAtAll = Callable[[Sequence[RecordedSaga]], Awaitable[Any]]


class StalledPages:
    """Pages of one application's stalled sagas, across all sweeps of this process.

    A sweep continues where the previous one stopped, and starts over after the last page. If every sweep began with the
    oldest stalled saga, thousands of waiting sagas with a live driver would keep it from reaching the others.

    Args:
        from_future: whether to read the sagas whose last progress lies in the future, written by a wrong clock, instead
            of the stalled ones.
    """

    def __init__(self, *, from_future: bool) -> None:
        self._from_future = from_future
        self._stopped_after: RecordedSaga | None = None
        """The last saga of the previous sweep, or None if that sweep reached the end."""

    async def look(self, sweep: SweepState, look_at_all: LookAtAll, *, now: datetime) -> bool:
        """Check the sagas that have made no progress for the grace time.

        Args:
            sweep: the sweep, with its limits and the sagas it has seen.
            look_at_all: checks a page of sagas, and skips the rest once the sweep has checked enough.
            now: the current time of the database's clock.

        Returns:
            Whether sagas remain for the next sweep.
        """
        begin = self._stopped_after
        quiet = now - sweep.limits.grace
        waiting = quiet - min(_LOOKS_APART, sweep.limits.grace * 8)
        for first in (None,) if begin is None else (begin, None):
            last = first
            while page := await stalled_sagas(
                sweep.database,
                before=quiet,
                now=now,
                waiting_before=waiting,
                from_future=self._from_future,
                after=last,
                limit=_PAGE,
            ):
                if begin is not None and first is None and _position(page[0]) > _position(begin):
                    break  # this sweep began here, so it has already checked the rest
                if not sweep.has_looked_enough:
                    await look_at_all([recorded for recorded in page if recorded.id not in sweep.seen])
                for before, recorded in zip((last, *page), page, strict=False):
                    if recorded.id not in sweep.seen:
                        self._stop(sweep, before)
                        return True
                last = page[-1]
        self._stop(sweep, None)
        return False

    def _stop(self, sweep: SweepState, after: RecordedSaga | None) -> None:
        if not sweep.dry_run:
            self._stopped_after = after


def _position(recorded: RecordedSaga) -> tuple[datetime, int]:
    return recorded.progressed_at, recorded.id.int
