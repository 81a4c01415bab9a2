"""External steps on both databases, against a payment service of its own process: concurrent drivers, every order."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client

from orchestrator import ExternalCall, external_operation
from orchestrator.definition.catalog import Catalog
from orchestrator.drive.driver import SagaStuck
from orchestrator.protocol.commands import Decided, Outcome, Phase, StepDone
from orchestrator.store.external.undo import OrphanedEffect, orphaned_effects, undo_orphan
from orchestrator.store.saga.intervention import Skip, skip_step
from orchestrator.store.saga.steps import StoreSteps
from orchestrator.worker.recovery.limits import Limits
from orchestrator.worker.recovery.sweep import Recovery
from orchestrator.worker.search_attributes import ensure_search_attributes
from orchestrator.workflow.system.recovery import Action
from tests.cast import Script, refuses
from tests.external.driving import Ground, statements
from tests.external.orchestrators import PAYMENTS, Parcel, ParcelRequested, Payment, PaymentRequested
from tests.external.wire import Died, Hold, Wire, breaks, dies, once
from tests.store.lost_answers import answers_to_commits_lost

begun: list[str] = []


@external_operation(retriable=True, time_limit=timedelta(microseconds=1))
async def hurry(call: ExternalCall) -> None:
    """Its time is up before it can begin."""
    begun.append(call.idempotency_key)


CHARGE, FIND, REFUND = "charge_card", "find_charge", "refund"


async def ends(driving: "asyncio.Task[Outcome]") -> str:
    """How a driver's saga ended."""
    return (await driving).phase.value


async def worker_dies(ground: Ground, point: dict[str, Any], name: str) -> None:
    """A driver's process ends at a point of the wire."""
    point[name] = dies
    with pytest.raises(Died):
        await ground.driver().drive()
    point.pop(name)


async def held(ground: Ground, hold: Hold, point: dict[str, Any], name: str) -> "asyncio.Task[Outcome]":
    """A driver that is held at a point of the wire; whoever comes later passes."""
    point[name] = once(hold)
    driving = ground.driving()
    await hold.reached.wait()
    return driving


class TestForward:
    """Before anything is undone."""

    async def test_a_charge_is_made_once_and_recorded(self, ground: Ground) -> None:
        outcome = await ground.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert ground.charged_and_refunded == (1, 0)
        row = await ground.step()
        assert (row.kind, row.state, row.attempts) == ("external", "done", 1)
        assert ground.service.entries("charges")[0]["key"] == row.idempotency_key

    async def test_a_worker_that_dies_before_it_records_the_charge_charges_once(self, ground: Ground) -> None:
        await worker_dies(ground, Wire.after, CHARGE)
        assert await ground.states() == ["done", "attempting"]

        outcome = await ground.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert [charge["requests"] for charge in ground.service.entries("charges")] == [1]

    @pytest.mark.parametrize("commit", range(1, 6))
    async def test_a_charge_is_made_once_whichever_commit_loses_its_answer(
        self, ground: Ground, kind: str, commit: int
    ) -> None:
        if kind == "sqlite":
            pytest.skip("SQLite has no connection that another ends")
        asked: list[str] = []

        async def ask() -> None:
            asked.append(FIND)

        Wire.before[FIND] = ask
        with answers_to_commits_lost(ground.database, {commit}) as lost:
            outcome = await ground.driver().drive()

        assert (outcome.phase, lost) == (Phase.COMPLETED, [commit])
        assert [charge["requests"] for charge in ground.service.entries("charges")] == [1]
        # The second is the claim's: its repeat meets a row of which nobody has seen the end, and asks before it calls.
        assert bool(asked) is (commit == 2)

    async def test_a_verification_that_says_no_has_the_charge_made_again(self, ground: Ground) -> None:
        Wire.before[CHARGE] = breaks(2)

        outcome = await ground.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert ground.charged_and_refunded == (1, 0)
        assert (await ground.step()).attempts == 3

    async def test_two_drivers_that_call_at_once_send_one_key_and_charge_once(self, ground: Ground) -> None:
        hold = Hold()
        first = await held(ground, hold, Wire.before, CHARGE)
        second = await ground.driver().drive()

        hold.opened.set()

        assert (await ends(first), second.phase.value) == ("completed", "completed")
        assert [charge["requests"] for charge in ground.service.entries("charges")] == [2]

    async def test_a_reply_that_comes_too_late_is_asked_for(self, ground: Ground) -> None:
        ground.event = PaymentRequested(card="visa charges:late", amount=10)

        outcome = await ground.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert [charge["requests"] for charge in ground.service.entries("charges")] == [1]

    async def test_a_refusal_is_recorded_and_the_coins_are_put_back(self, ground: Ground) -> None:
        ground.event = PaymentRequested(card="declined", amount=10)

        first, second = await ground.driver().drive(), await ground.driver().drive()

        assert first == second
        assert (first.phase, first.error_code) == (Phase.FAILED, "card.declined")
        assert await ground.states() == ["undone", "refused"]
        assert ground.charged_and_refunded == (0, 0)
        assert await ground.coins() == 1_000

    async def test_a_call_whose_time_was_up_before_it_began_is_not_made(self, ground: Ground) -> None:
        """A process that stood still after it wrote the attempt down: who undoes counts the time from there."""
        catalog = Catalog.of(orchestrators=[Payment], operations=[hurry])
        command = ground.command().model_copy(
            update={"number": 1, "operation": hurry.name, "arguments": {}, "opening": ground.opening}
        )

        with pytest.raises(TimeoutError):
            await StoreSteps(ground.database, catalog).run(command, timedelta(minutes=5))

        assert begun == []
        assert await ground.states() == ["attempting"]


class TestUndoing:
    """Each done charge is refunded once, and no other."""

    async def test_what_is_done_after_the_charge_and_refused_has_it_refunded_once(self, ground: Ground) -> None:
        Script.before["write_note"] = refuses("note.too_long")

        outcome = await ground.driver().drive()

        assert (outcome.phase, outcome.error_code) == (Phase.FAILED, "note.too_long")
        assert ground.charged_and_refunded == (1, 1)
        [charge], [refund] = ground.service.entries("charges"), ground.service.entries("refunds")
        assert refund["charge"] == charge["id"]
        assert refund["key"] != charge["key"]
        assert await ground.coins() == 1_000

    async def test_an_undo_before_the_call_arrived_bars_it_and_refunds_nothing(self, ground: Ground) -> None:
        await worker_dies(ground, Wire.before, CHARGE)

        outcome = await ground.cancel()

        assert outcome.phase is Phase.CANCELLED
        assert await ground.states() == ["undone", "barred"]
        assert ground.charged_and_refunded == (0, 0)

    async def test_an_undo_waits_out_a_call_that_may_be_under_way_and_asks_again(self, ground: Ground) -> None:
        hold, asked = Hold(), list[str]()
        late = await held(ground, hold, Wire.before, CHARGE)

        async def answered_no() -> None:
            asked.append(FIND)
            hold.opened.set()

        Wire.after[FIND] = answered_no
        cancelled = await ground.cancel()

        assert (cancelled.phase.value, await ends(late)) == ("cancelled", "cancelled")
        assert asked == [FIND, FIND]
        assert ground.charged_and_refunded == (1, 1)

    async def test_a_call_that_arrives_after_the_undo_barred_it_is_refunded_once(self, ground: Ground) -> None:
        hold = Hold(deaf=True)
        late = await held(ground, hold, Wire.before, CHARGE)
        cancelled = await ground.cancel()
        barred = await ground.states()

        hold.opened.set()

        assert (cancelled.phase.value, await ends(late)) == ("cancelled", "cancelled")
        assert barred == ["undone", "barred"]
        assert await ground.states() == ["undone", "undone"]
        assert ground.charged_and_refunded == (1, 1)

    async def test_a_late_call_that_comes_back_before_the_end_is_undone_with_the_saga(self, ground: Ground) -> None:
        hold = Hold(deaf=True)
        await worker_dies(ground, Wire.before, CHARGE)
        Wire.before[CHARGE] = hold
        late = ground.late()
        await hold.reached.wait()
        await ground.begin_undo()
        await ground.steps.undo(ground.undo_command(), "payments.refund")
        barred = await ground.states()

        hold.opened.set()
        reply = await late
        outcome = await ground.cancel()

        assert barred == ["done", "barred"]
        assert reply == Decided(phase=Phase.UNDOING)
        assert outcome.phase is Phase.CANCELLED
        assert await ground.states() == ["undone", "undone"]
        assert ground.charged_and_refunded == (1, 1)

    async def test_two_that_undo_at_once_send_one_key_and_refund_once(self, ground: Ground) -> None:
        await worker_dies(ground, Wire.after, CHARGE)
        hold = Hold()
        Wire.before[REFUND] = once(hold)
        first = asyncio.create_task(ground.cancel())
        await hold.reached.wait()
        second = await ground.cancel()

        hold.opened.set()

        assert (await ends(first), second.phase.value) == ("cancelled", "cancelled")
        assert [refund["requests"] for refund in ground.service.entries("refunds")] == [2]
        assert ground.charged_and_refunded == (1, 1)

    async def test_a_charge_whose_reply_is_lost_for_good_is_found_and_refunded_once(self, ground: Ground) -> None:
        ground.event = PaymentRequested(card="visa charges:lose-always", amount=10)
        Wire.before[FIND] = breaks(2)

        outcome = await ground.driver().drive()

        assert (outcome.phase, outcome.error_code) == (Phase.FAILED, "operation.failed")
        assert await ground.states() == ["undone", "undone"]
        assert ground.charged_and_refunded == (1, 1)

    async def test_a_refund_whose_reply_is_lost_is_tried_again_and_made_once(self, ground: Ground) -> None:
        ground.event = PaymentRequested(card="visa refunds:lose", amount=10)
        await worker_dies(ground, Wire.after, CHARGE)
        with pytest.raises(Exception, match="closed connection"):
            await ground.cancel()
        counted = (await ground.step()).undo_attempts

        outcome = await ground.cancel()

        assert outcome.phase is Phase.CANCELLED
        assert counted == 1
        assert [refund["requests"] for refund in ground.service.entries("refunds")] == [2]

    async def test_while_the_service_is_down_nothing_is_believed(self, ground: Ground) -> None:
        await worker_dies(ground, Wire.after, CHARGE)
        await ground.age()
        await ground.service.down()
        with pytest.raises(ConnectionRefusedError):
            await ground.cancel()
        unknown = await ground.states()
        await ground.service.up()

        outcome = await ground.cancel()

        assert unknown == ["done", "attempting"]
        assert outcome.phase is Phase.CANCELLED
        assert ground.charged_and_refunded == (1, 1)

    async def test_a_late_attempt_of_an_undoing_saga_leaves_the_refund_to_its_undoing(self, ground: Ground) -> None:
        await worker_dies(ground, Wire.before, CHARGE)
        await ground.late()
        await ground.begin_undo()

        reply = await ground.late()

        assert reply == Decided(phase=Phase.UNDOING)
        assert await ground.states() == ["done", "done"]
        assert ground.charged_and_refunded == (1, 0)

    async def test_a_late_attempt_of_a_completed_saga_refunds_nothing(self, ground: Ground) -> None:
        await ground.driver().drive()

        reply = await ground.late()

        assert reply == Decided(phase=Phase.COMPLETED)
        assert ground.charged_and_refunded == (1, 0)
        assert await ground.states() == ["done", "done", "done"]

    async def test_an_undo_that_comes_to_a_completed_saga_refunds_nothing(self, ground: Ground) -> None:
        await ground.driver().drive()

        reply = await ground.steps.undo(ground.undo_command(), "payments.refund")

        assert reply == Decided(phase=Phase.COMPLETED)
        assert ground.charged_and_refunded == (1, 0)

    async def test_a_success_that_comes_after_a_refusal_is_refunded_and_the_refusal_stays(self, ground: Ground) -> None:
        """Two attempts at once, and a service that does not answer a repeat with its first answer."""
        hold = Hold()
        late = await held(ground, hold, Wire.before, CHARGE)
        Wire.before[CHARGE] = refuses_call
        refused = await ground.driver().drive()

        hold.opened.set()

        assert (refused.error_code, await ends(late)) == ("card.declined", "failed")
        assert await ground.states() == ["undone", "refused"]
        assert ground.charged_and_refunded == (1, 1)


class TestDeathAfterTheEnd:
    """A late attempt that dies before its refund, when nobody drives its saga any more."""

    async def barred_and_charged(self, ground: Ground) -> None:
        """The late call has come back, its row is done again, and its worker died before the refund."""
        hold = Hold(deaf=True)
        late = await held(ground, hold, Wire.before, CHARGE)
        await ground.cancel()
        Wire.before[REFUND] = dies
        hold.opened.set()
        with pytest.raises(Died):
            await late
        Wire.before.pop(REFUND)
        assert await ground.states() == ["undone", "done"]
        assert ground.charged_and_refunded == (1, 0)

    async def test_the_next_attempt_refunds(self, ground: Ground) -> None:
        await self.barred_and_charged(ground)

        reply = await ground.late()

        assert reply == Decided(phase=Phase.CANCELLED)
        assert await ground.states() == ["undone", "undone"]
        assert ground.charged_and_refunded == (1, 1)

    async def test_who_looks_for_it_finds_it_when_its_own_attempt_had_time_and_refunds_once(
        self, ground: Ground
    ) -> None:
        await self.barred_and_charged(ground)
        now = datetime.now(UTC)

        too_soon = await orphaned_effects(ground.database, now=now)
        [left] = await orphaned_effects(ground.database, now=now + timedelta(minutes=1))
        taken = await asyncio.gather(*(undo_orphan(ground.database, PAYMENTS, left) for _ in range(2)))

        assert (len(too_soon), taken) == (0, [True, True])
        assert await ground.states() == ["undone", "undone"]
        assert ground.charged_and_refunded == (1, 1)
        assert await orphaned_effects(ground.database, now=now + timedelta(hours=1)) == []

    async def test_recovery_refunds_it_and_a_dry_run_only_says_so(self, ground: Ground, client: Client) -> None:
        await self.barred_and_charged(ground)
        await ensure_search_attributes(client)
        recovery = Recovery(client, ground.database, PAYMENTS, task_queue="nobodys", limits=Limits(timedelta(0)))

        said = await recovery.sweep(dry_run=True)
        assert (said.counts[Action.TAKE_BACK], ground.charged_and_refunded) == (1, (1, 0))
        done = await recovery.sweep()
        again = await recovery.sweep()

        assert (done.counts[Action.TAKE_BACK], again.counts[Action.TAKE_BACK]) == (1, 0)
        assert await ground.states() == ["undone", "undone"]
        assert ground.charged_and_refunded == (1, 1)

    async def test_a_refund_that_cannot_be_made_stays_to_be_found(self, ground: Ground) -> None:
        await self.barred_and_charged(ground)
        later = datetime.now(UTC) + timedelta(minutes=1)
        Wire.before[REFUND] = breaks()

        [left] = await orphaned_effects(ground.database, now=later)
        with pytest.raises(ConnectionResetError):
            await undo_orphan(ground.database, PAYMENTS, left)

        assert await orphaned_effects(ground.database, now=later) == [left]
        assert (await ground.step()).undo_error == "ConnectionResetError: the wire is broken by the test"

    async def test_a_second_look_at_what_was_barred_settles_it(self, ground: Ground) -> None:
        await worker_dies(ground, Wire.before, CHARGE)
        await ground.cancel()
        later = datetime.now(UTC) + timedelta(hours=1)

        [left] = await orphaned_effects(ground.database, now=later)
        found = await undo_orphan(ground.database, PAYMENTS, left)

        assert not found
        assert await ground.states() == ["undone", "barred"]
        assert await orphaned_effects(ground.database, now=later) == []

    async def test_a_success_after_a_refusal_that_was_not_refunded_is_found(self, ground: Ground) -> None:
        hold = Hold()
        late = await held(ground, hold, Wire.before, CHARGE)
        Wire.before[CHARGE] = refuses_call
        await ground.driver().drive()
        Wire.before[REFUND] = dies
        hold.opened.set()
        with pytest.raises(Died):
            await late
        Wire.clear()

        [left] = await orphaned_effects(ground.database, now=datetime.now(UTC) + timedelta(minutes=1))
        await undo_orphan(ground.database, PAYMENTS, left)

        assert await ground.states() == ["undone", "refused"]
        assert ground.charged_and_refunded == (1, 1)

    async def test_nothing_is_left_of_sagas_that_ended_well(self, ground: Ground) -> None:
        await ground.driver().drive()

        assert await orphaned_effects(ground.database, now=datetime.now(UTC) + timedelta(hours=1)) == []
        assert (await ground.step()).attempted_at is None

    async def test_pages_go_on_where_the_last_one_ended(self, ground: Ground) -> None:
        for event_id in ("one", "two", "three"):
            ground.event_id = event_id
            await worker_dies(ground, Wire.before, CHARGE)
            await ground.age()
            await ground.cancel()
        later = datetime.now(UTC) + timedelta(hours=1)

        seen: list[OrphanedEffect] = []
        while page := await orphaned_effects(ground.database, now=later, after=seen[-1] if seen else None, limit=2):
            seen += page

        assert sorted(left.saga.event_id for left in seen) == ["one", "three", "two"]


class TestCost:
    """What a step outside asks of the database."""

    async def test_a_charge_is_two_transactions_of_one_statement_and_a_refund_one_read_more(
        self, ground: Ground
    ) -> None:
        await ground.take_coins()
        steps = StoreSteps(ground.database, PAYMENTS)
        with statements(ground.database) as forward:
            await steps.run(ground.command(), timedelta(minutes=5))
        await ground.begin_undo()
        with statements(ground.database) as back:
            await steps.undo(ground.undo_command(), "payments.refund")

        # Where nobody repeats a transaction, a PostgreSQL connection is tried out before it.
        tried_out = ["SELECT"] if ground.database.dialect == "postgresql" else []
        assert forward == ["INSERT", "COMMIT", *tried_out, "UPDATE", "COMMIT"]
        assert [one for one in back if one != "SELECT"] == ["UPDATE", "COMMIT"]
        assert back.count("SELECT") == 1 + 2 * len(tried_out)


class TestSkip:
    """A person leaves a step of an unknown fate as it is."""

    async def test_a_skipped_attempt_is_not_undone_and_its_late_call_is_left(self, ground: Ground) -> None:
        hold = Hold(deaf=True)
        late = await held(ground, hold, Wire.before, CHARGE)
        await ground.begin_undo()
        Wire.before[FIND] = breaks()
        with pytest.raises(ConnectionResetError):
            await ground.cancel()
        skipped = await skip_step(
            ground.database, PAYMENTS, Skip(saga_id=ground.ref.id, number=2, by="ada", reason="asked the bank")
        )
        cancelled = await ground.cancel()

        hold.opened.set()

        assert not skipped.before
        assert (cancelled.phase.value, await ends(late)) == ("cancelled", "cancelled")
        assert await ground.states() == ["undone", "skipped"]
        assert ground.charged_and_refunded == (1, 0)

    async def test_a_late_attempt_of_a_skipped_step_answers_that_the_saga_was_undone(self, ground: Ground) -> None:
        hold = Hold(deaf=True)
        await worker_dies(ground, Wire.before, CHARGE)
        Wire.before[CHARGE] = hold
        late = ground.late()
        await hold.reached.wait()
        await ground.begin_undo()
        await skip_step(ground.database, PAYMENTS, Skip(saga_id=ground.ref.id, number=2, by="ada", reason="x"))

        hold.opened.set()

        assert await late == Decided(phase=Phase.UNDOING)


class TestIrreversible:
    """A parcel cannot come back."""

    @pytest.fixture
    def ground(self, ground: Ground) -> Ground:
        """A parcel, which can be looked up."""
        ground.orchestrator, ground.event = Parcel, ParcelRequested(card="visa", amount=10)
        return ground

    async def test_a_parcel_is_sent_once_and_then_the_customer_is_told(self, ground: Ground) -> None:
        outcome = await ground.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert (ground.service.done("parcels"), ground.service.done("messages")) == (1, 1)

    async def test_a_parcel_that_was_not_sent_is_barred_and_the_coins_are_put_back(self, ground: Ground) -> None:
        Wire.before["send_parcel"] = breaks()

        outcome = await ground.driver().drive()

        assert (outcome.phase, outcome.error_code) == (Phase.FAILED, "operation.failed")
        assert await ground.states() == ["undone", "barred"]
        assert (ground.service.done("parcels"), await ground.coins()) == (0, 1_000)

    async def test_a_parcel_whose_reply_is_lost_for_good_is_found_and_the_saga_goes_on(self, ground: Ground) -> None:
        ground.event = ParcelRequested(card="visa parcels:lose-always", amount=10)
        Wire.before["find_parcel"] = breaks(2)

        outcome = await ground.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert [parcel["requests"] for parcel in ground.service.entries("parcels")] == [1]

    async def test_a_parcel_that_nobody_can_look_up_is_taken_for_sent(self, ground: Ground) -> None:
        ground.event = ParcelRequested(card="visa parcels:lose-always", amount=10, can_be_found=False)

        with pytest.raises(SagaStuck, match="cannot be undone"):
            await ground.driver().drive()

        assert await ground.states() == ["done", "attempting"]
        assert ground.service.done("parcels") == 1
        assert await ground.coins() == 990

    async def test_a_parcel_that_nobody_can_look_up_and_answers_at_last_is_the_pivot(self, ground: Ground) -> None:
        ground.event = ParcelRequested(card="visa parcels:lose", amount=10, can_be_found=False)
        Wire.before["drop_parcel"] = breaks(2)

        outcome = await ground.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert ground.service.done("parcels") == 1

    async def test_a_message_after_the_pivot_is_tried_until_it_is_done(self, ground: Ground) -> None:
        Wire.before["send_message"] = breaks(2)

        outcome = await ground.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert ground.service.done("messages") == 1

    async def test_an_attempt_that_begins_while_it_is_given_up_is_not_barred(self, ground: Ground) -> None:
        """Who gives the parcel up asks; meanwhile another driver sends it: barred, it could not come back."""
        hold, sending = Hold(), Hold(deaf=True)
        await worker_dies(ground, Wire.before, "send_parcel")
        await ground.age()
        Wire.after["find_parcel"] = once(hold)
        settling = asyncio.create_task(ground.steps.settle(ground.command("payments.send_parcel")))
        await hold.reached.wait()
        other = await held(ground, sending, Wire.before, "send_parcel")

        hold.opened.set()
        await asyncio.wait([settling], timeout=0.2)
        states = await ground.states()
        sending.opened.set()

        assert states == ["done", "attempting"]
        assert await ends(other) == "completed"
        assert isinstance(await settling, StepDone)


async def refuses_call() -> None:
    """As a service that refuses what it knows nothing of."""
    await refuses("card.declined")(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
