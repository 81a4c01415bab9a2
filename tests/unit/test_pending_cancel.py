"""How `status` explains a cancel that was requested and is still pending."""

from dataclasses import replace
from typing import Any, cast

import pytest

from orchestrator.cli.diagnosis.blocked_reason import BlockedReason, Reason
from orchestrator.cli.diagnosis.saga import SagaDiagnosis
from orchestrator.protocol.commands import Phase


class Row:
    """The columns of a saga's row that the diagnosis reads."""

    def __init__(self, phase: Phase, ends_as: Phase | None = None, pivot: int | None = None) -> None:
        self.phase, self.ends_as, self.pivot = phase, ends_as, pivot
        self.is_stuck = self.is_waiting = False
        self.blocked_by = ()


def diagnose(row: Row | None, kind: BlockedReason, *, asked: bool = True) -> SagaDiagnosis:
    reason = Reason(kind, "its workflow task fails", is_cancel_requested=asked)
    return SagaDiagnosis("Nap", "one", "Nap/event/one", "link", cast(Any, row), reason, is_only=True)


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        (None, BlockedReason.NO_WORKER, "a cancellation is pending; no worker has picked up the task"),
        (Row(Phase.FORWARD), BlockedReason.WORKING, "a cancellation is pending; it is being carried out"),
        (
            Row(Phase.FORWARD),
            BlockedReason.BUG,
            "because its workflow task fails. Recovery, which runs every 30 seconds",
        ),
        (Row(Phase.UNDOING, Phase.CANCELLED), BlockedReason.RETRYING, "a compensation fails and is retried"),
        (
            Row(Phase.FORWARD, pivot=2),
            BlockedReason.WORKING,
            "step 2 cannot be undone, so the saga continues until it completes",
        ),
    ],
)
def test_a_pending_cancel_is_reported_with_its_reason(row: Row | None, kind: BlockedReason, message: str) -> None:
    assert message in (diagnose(row, kind).pending_cancel or "")


@pytest.mark.parametrize(
    "row",
    [Row(Phase.CANCELLED), Row(Phase.UNDOING, Phase.FAILED), Row(Phase.COMPLETED)],
    ids=lambda row: row.phase.value,
)
def test_no_pending_cancel_is_reported_where_none_is_pending(row: Row) -> None:
    assert diagnose(row, BlockedReason.WORKING).pending_cancel is None


def test_a_bug_without_a_cancel_undoes_nothing() -> None:
    diagnosis = diagnose(Row(Phase.FORWARD), BlockedReason.BUG, asked=False)

    assert diagnosis.pending_cancel is None
    assert "Nothing is undone; deploy a fix" in (diagnosis.why or "")
    assert "Nothing is undone" not in (replace(diagnosis, reason=diagnose(None, BlockedReason.BUG).reason).why or "")
