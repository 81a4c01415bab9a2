"""Walks through the silent sagas page by page, as far as one sweep goes, and remembers where it stopped."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from orchestrator.store.recovery import RecordedSaga, overdue_sagas
from orchestrator.worker.recovery.limits import Sweeping

_PAGE = 200
_LOOKS_APART = timedelta(seconds=30)
"""Of a saga that waits for locks. Hundreds may, and to ask the server for each in every sweep is most of its work."""

LookAtAll = Callable[[Sequence[RecordedSaga]], Awaitable[Any]]


class SilentPages:
    """The silent sagas of one application, over all sweeps of this process.

    A sweep begins where the last one stopped and then starts over. If each began with the longest silent saga, some
    thousands that are alive and wait would hide all others.

    Args:
        from_future: instead of silent sagas those whose last progress lies in the future: a wrong clock wrote it.
    """

    def __init__(self, *, from_future: bool) -> None:
        self._from_future = from_future
        self._stopped_after: RecordedSaga | None = None
        """The last saga of the sweep before; None if that came to the end."""

    async def look(self, sweeping: Sweeping, look_at_all: LookAtAll, *, now: datetime) -> bool:
        """Look at the sagas that have made no progress for the grace time.

        Args:
            sweeping: the sweep; it says when it has looked at enough, and which sagas it has seen.
            look_at_all: looks at a page, and skips what comes after enough was looked at.
            now: the time by the database's clock.

        Returns:
            Whether some are left for the next sweep.
        """
        begin = self._stopped_after
        quiet = now - sweeping.limits.grace
        waiting = quiet - min(_LOOKS_APART, sweeping.limits.grace * 8)
        for first in (None,) if begin is None else (begin, None):
            last = first
            while page := await overdue_sagas(
                sweeping.database,
                before=quiet,
                now=now,
                waiting_before=waiting,
                from_future=self._from_future,
                after=last,
                limit=_PAGE,
            ):
                if begin is not None and first is None and _position(page[0]) > _position(begin):
                    break  # this sweep began there
                if not sweeping.has_looked_enough:
                    await look_at_all([recorded for recorded in page if recorded.id not in sweeping.seen])
                for before, recorded in zip((last, *page), page, strict=False):
                    if recorded.id not in sweeping.seen:
                        self._stop(sweeping, before)
                        return True
                last = page[-1]
        self._stop(sweeping, None)
        return False

    def _stop(self, sweeping: Sweeping, after: RecordedSaga | None) -> None:
        if not sweeping.dry_run:
            self._stopped_after = after


def _position(recorded: RecordedSaga) -> tuple[datetime, int]:
    return recorded.progressed_at, recorded.id.int
