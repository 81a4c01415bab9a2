"""Orchestrators that start each other: by an outcome, by an event with two listeners, and by either of two outcomes."""

from orchestrator import DomainEvent, FailureEvent, Orchestrator, Refused, Saga
from orchestrator.definition.catalog import Catalog
from tests import cast
from tests.cast import put, take, write_note


class LinkRequested(DomainEvent):
    """Begin a chain."""

    refuse: bool = False
    """Whether the second link refuses."""
    key: str | None = None


class LinkCompleted(DomainEvent):
    """The first link has completed."""

    refuse: bool


class LinkFailed(FailureEvent):
    """The first link has failed."""


class FirstLink(Orchestrator[LinkRequested, LinkCompleted, LinkFailed]):
    """Its outcome event starts the second link."""

    def ordering_key(self, event: LinkRequested) -> str | None:
        """The event's key."""
        return event.key

    async def handle(self, event: LinkRequested, saga: Saga) -> LinkCompleted:
        await saga.execute(take("a", 1))
        return LinkCompleted(refuse=event.refuse)


class LinkWatched(DomainEvent):
    """The event has been noted."""


class LinkUnwatched(FailureEvent):
    """The event could not be noted."""


class Watching(Orchestrator[LinkRequested, LinkWatched, LinkUnwatched]):
    """Listens to the event that starts the first link, too."""

    async def handle(self, event: LinkRequested, saga: Saga) -> LinkWatched:
        await saga.execute(write_note("seen"))
        return LinkWatched()


class SecondLinkCompleted(DomainEvent):
    """The second link has completed."""


class SecondLinkFailed(FailureEvent):
    """The second link has failed."""


class SecondLink(Orchestrator[LinkCompleted, SecondLinkCompleted, SecondLinkFailed]):
    """Completes or fails; either outcome event starts the third link."""

    async def handle(self, event: LinkCompleted, saga: Saga) -> SecondLinkCompleted:
        await saga.execute(put("b", 1))
        if event.refuse:
            raise Refused("link.refused", "the event asks to be refused")
        return SecondLinkCompleted()


class ThirdLinkCompleted(DomainEvent):
    """The last link has completed."""

    after: str


class ThirdLinkFailed(FailureEvent):
    """The third link has failed."""


class ThirdLink(Orchestrator[SecondLinkCompleted | SecondLinkFailed, ThirdLinkCompleted, ThirdLinkFailed]):
    """Starts on either outcome event of the second link."""

    async def handle(self, event: SecondLinkCompleted | SecondLinkFailed, saga: Saga) -> ThirdLinkCompleted:
        after = event.error_code if isinstance(event, SecondLinkFailed) else "well"
        await saga.execute(write_note(f"ended {after}"))
        return ThirdLinkCompleted(after=after)


ORCHESTRATORS = (FirstLink, Watching, SecondLink, ThirdLink)
CATALOG = Catalog.of(orchestrators=ORCHESTRATORS, operations=[cast.take, cast.put, cast.write_note])
EVENT = LinkRequested()
