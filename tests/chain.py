"""Orchestrators that start each other: by what one ends with, on an event of two, and on either of two events."""

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Refused, Saga
from orchestrator.definition.catalog import Catalog
from tests import cast
from tests.cast import put, take, write_note


class LinkRequested(DomainEvent):
    """Begin a chain."""

    refuse: bool = False
    """Whether its second link says no."""
    key: str | None = None


class LinkCompleted(DomainEvent):
    """The first link is done."""

    refuse: bool


class LinkFailed(FailureEvent):
    """The first link is not done."""


class FirstLink(Orchestrator[LinkRequested, LinkCompleted, LinkFailed]):
    """Starts the second by what it ends with."""

    def ordering_key(self, event: LinkRequested) -> str | None:
        """The event's own."""
        return event.key

    async def handle(self, event: LinkRequested, saga: Saga) -> LinkCompleted:
        """Take."""
        await saga.execute(take("a", 1))
        return LinkCompleted(refuse=event.refuse)


class LinkWatched(DomainEvent):
    """Somebody saw it."""


class LinkUnwatched(FailureEvent):
    """Nobody saw it."""


class Watching(Orchestrator[LinkRequested, LinkWatched, LinkUnwatched]):
    """Starts on what starts the first link, too."""

    async def handle(self, event: LinkRequested, saga: Saga) -> LinkWatched:
        """Note it."""
        await saga.execute(write_note("seen"))
        return LinkWatched()


class SecondLinkCompleted(DomainEvent):
    """The second link is done."""


class SecondLinkFailed(FailureEvent):
    """The second link is not done."""


class SecondLink(Orchestrator[LinkCompleted, SecondLinkCompleted, SecondLinkFailed]):
    """Goes well or not; either starts the third."""

    async def handle(self, event: LinkCompleted, saga: Saga) -> SecondLinkCompleted:
        """Put, or say no."""
        await saga.execute(put("b", 1))
        if event.refuse:
            raise Refused("link.refused", "as it was asked to")
        return SecondLinkCompleted()


class ThirdLinkCompleted(DomainEvent):
    """The chain is done."""

    after: str


class ThirdLinkFailed(FailureEvent):
    """The third link is not done."""


class ThirdLink(Orchestrator[SecondLinkCompleted | SecondLinkFailed, ThirdLinkCompleted, ThirdLinkFailed]):
    """Starts on either event."""

    async def handle(self, event: SecondLinkCompleted | SecondLinkFailed, saga: Saga) -> ThirdLinkCompleted:
        """Note which."""
        after = event.error_code if isinstance(event, SecondLinkFailed) else "well"
        await saga.execute(write_note(f"ended {after}"))
        return ThirdLinkCompleted(after=after)


ORCHESTRATORS = (FirstLink, Watching, SecondLink, ThirdLink)
CATALOG = Catalog.of(orchestrators=ORCHESTRATORS, operations=[cast.take, cast.put, cast.write_note])
EVENT = LinkRequested()
