"""The mailbox: events that were sent to a running saga, until it waits for them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow

from orchestrator.envelope import Envelope
from orchestrator.event import DomainEvent


@dataclass(frozen=True, slots=True)
class Letter:
    """An event in the mailbox, with the message that it came in."""

    position: int
    door: str
    envelope: Envelope
    event: DomainEvent


class Mailbox:
    """Events in the order of arrival, each once.

    Args:
        sort: called before the mailbox is looked into; puts in it what has arrived.
    """

    def __init__(self, sort: Callable[[], None]) -> None:
        self._sort = sort
        self._letters: list[Letter] = []
        self._seen: set[str] = set()

    def put(self, letter: Letter) -> None:
        """Add an event; one that came before is dropped."""
        if letter.envelope.event_id not in self._seen:
            self._seen.add(letter.envelope.event_id)
            self._letters.append(letter)

    def forget(self, event_id: str) -> None:
        """Drop an event that the saga has taken, here or in another execution."""
        self._sort()
        self._seen.add(event_id)
        self._letters = [letter for letter in self._letters if letter.envelope.event_id != event_id]

    def empty(self) -> list[Letter]:
        """Take out everything."""
        self._sort()
        letters, self._letters = self._letters, []
        return letters

    async def take(
        self, event: type[DomainEvent], matching: Callable[[DomainEvent], bool], timeout: timedelta, *, summary: str
    ) -> Envelope | None:
        """Wait for the first event of a class that matches; None if none came in time.

        Raises:
            Exception: what `matching` raised.
        """
        found: list[Letter] = []
        faults: list[Exception] = []

        def arrived() -> bool:
            self._sort()
            for letter in self._letters:
                try:
                    if type(letter.event) is event and matching(letter.event):
                        found.append(letter)
                        return True
                except Exception as fault:  # an author's code; in a wait condition it would hide as a task failure
                    faults.append(fault)
                    return True
            return False

        if not arrived():
            if timeout <= timedelta(0):
                return None
            try:
                await workflow.wait_condition(arrived, timeout=timeout, timeout_summary=summary)
            except TimeoutError:
                return None
        if faults:
            raise faults[0]
        self.forget(found[0].envelope.event_id)
        return found[0].envelope
