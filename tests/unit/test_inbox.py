"""What an execution's inbox remembers about events."""

from orchestrator.protocol import names
from orchestrator.protocol.messages.envelope import wrap
from orchestrator.workflow.inbox import Inbox
from orchestrator.workflow.own_execution import raw_json
from tests.cast_events import NothingRequested

EVENT = NothingRequested(refuse=True)
SENT = raw_json(wrap(EVENT, event_id="sent", source="tests").text.encode())


async def test_an_event_that_an_earlier_run_received_is_dropped_when_it_is_repeated() -> None:
    inbox = Inbox((NothingRequested,))

    inbox.received("sent", EVENT)
    inbox.receive(names.EVENT_SIGNAL, [SENT])
    await inbox.sort()

    assert inbox.take_unawaited() == ([], [])
    assert inbox.is_empty


async def test_an_event_that_no_wait_has_received_is_kept() -> None:
    inbox = Inbox((NothingRequested,))

    inbox.receive(names.EVENT_SIGNAL, [SENT])
    await inbox.sort()

    letters, faults = inbox.take_unawaited()
    assert [letter.envelope.event_id for letter in letters] == ["sent"]
    assert faults == []
