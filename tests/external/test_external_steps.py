"""External steps against a payment service in its own process, with concurrent drivers in every order."""

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
from tests.external.orchestrators import PAYMENTS, Parcel, ParcelRequested, Payment, PaymentRequested
from tests.external.scenario import PaymentScenario, statements
from tests.external.wire import Died, Hold, Wire, breaks, dies, once
from tests.store.lost_answers import answers_to_commits_lost

begun: list[str] = []


@external_operation(retriable=True, time_limit=timedelta(microseconds=1))
async def hurry(call: ExternalCall) -> None:
    """An operation whose time limit is over before it can begin."""
    begun.append(call.idempotency_key)


CHARGE, FIND, REFUND = "charge_card", "find_charge", "refund"


async def ends(driving: "asyncio.Task[Outcome]") -> str:
    """The phase in which a driver's saga has ended."""
    return (await driving).phase.value


async def worker_dies(scenario: PaymentScenario, point: dict[str, Any], name: str) -> None:
    """Run a driver whose process dies before or after a request."""
    point[name] = dies
    with pytest.raises(Died):
        await scenario.driver().drive()
    point.pop(name)


async def start_held(
    scenario: PaymentScenario, hold: Hold, point: dict[str, Any], name: str
) -> "asyncio.Task[Outcome]":
    """Start a driver whose request waits before or after it is sent; later requests pass."""
    point[name] = once(hold)
    driving = scenario.driving()
    await hold.reached.wait()
    return driving


class TestForward:
    """External steps of a saga that goes forward."""

    async def test_a_charge_is_made_once_and_recorded(self, scenario: PaymentScenario) -> None:
        outcome = await scenario.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert scenario.charged_and_refunded == (1, 0)
        row = await scenario.step()
        assert (row.kind, row.state, row.attempts) == ("external", "done", 1)
        assert scenario.service.entries("charges")[0]["key"] == row.idempotency_key

    async def test_a_worker_that_dies_before_it_records_the_charge_charges_once(
        self, scenario: PaymentScenario
    ) -> None:
        await worker_dies(scenario, Wire.after, CHARGE)
        assert await scenario.states() == ["done", "attempting"]

        outcome = await scenario.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert [charge["requests"] for charge in scenario.service.entries("charges")] == [1]

    @pytest.mark.parametrize("commit", range(1, 6))
    async def test_a_charge_is_made_once_whichever_commit_loses_its_answer(
        self, scenario: PaymentScenario, kind: str, commit: int
    ) -> None:
        if kind == "sqlite":
            pytest.skip("SQLite has no connection that another process can end")
        asked: list[str] = []

        async def ask() -> None:
            asked.append(FIND)

        Wire.before[FIND] = ask
        with answers_to_commits_lost(scenario.database, {commit}) as lost:
            outcome = await scenario.driver().drive()

        assert (outcome.phase, lost) == (Phase.COMPLETED, [commit])
        assert [charge["requests"] for charge in scenario.service.entries("charges")] == [1]
        # The second commit is the claim. Its repeat finds an attempt of unknown result and verifies before it calls.
        assert bool(asked) is (commit == 2)

    async def test_a_charge_is_made_again_if_the_verification_does_not_find_it(self, scenario: PaymentScenario) -> None:
        Wire.before[CHARGE] = breaks(2)

        outcome = await scenario.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert scenario.charged_and_refunded == (1, 0)
        assert (await scenario.step()).attempts == 3

    async def test_two_concurrent_calls_send_one_key_and_charge_once(self, scenario: PaymentScenario) -> None:
        hold = Hold()
        first = await start_held(scenario, hold, Wire.before, CHARGE)
        second = await scenario.driver().drive()

        hold.opened.set()

        assert (await ends(first), second.phase.value) == ("completed", "completed")
        assert [charge["requests"] for charge in scenario.service.entries("charges")] == [2]

    async def test_a_charge_whose_reply_is_late_is_verified(self, scenario: PaymentScenario) -> None:
        scenario.event = PaymentRequested(card="visa charges:late", amount=10)

        outcome = await scenario.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert [charge["requests"] for charge in scenario.service.entries("charges")] == [1]

    async def test_a_refusal_is_recorded_and_the_coins_are_put_back(self, scenario: PaymentScenario) -> None:
        scenario.event = PaymentRequested(card="declined", amount=10)

        first, second = await scenario.driver().drive(), await scenario.driver().drive()

        assert first == second
        assert (first.phase, first.error_code) == (Phase.FAILED, "card.declined")
        assert await scenario.states() == ["undone", "refused"]
        assert scenario.charged_and_refunded == (0, 0)
        assert await scenario.coins() == 1_000

    async def test_a_call_whose_time_limit_is_over_before_it_begins_is_not_made(
        self, scenario: PaymentScenario
    ) -> None:
        """A process may be suspended after it records the attempt; an undo counts the time limit from that moment."""
        catalog = Catalog.of(orchestrators=[Payment], operations=[hurry])
        command = scenario.command().model_copy(
            update={"number": 1, "operation": hurry.name, "arguments": {}, "opening": scenario.opening}
        )

        with pytest.raises(TimeoutError):
            await StoreSteps(scenario.database, catalog).run(command, timedelta(minutes=5))

        assert begun == []
        assert await scenario.states() == ["attempting"]


class TestUndoing:
    """Each completed charge is refunded once, and no other."""

    async def test_a_refusal_after_the_charge_refunds_it_once(self, scenario: PaymentScenario) -> None:
        Script.before["write_note"] = refuses("note.too_long")

        outcome = await scenario.driver().drive()

        assert (outcome.phase, outcome.error_code) == (Phase.FAILED, "note.too_long")
        assert scenario.charged_and_refunded == (1, 1)
        [charge], [refund] = scenario.service.entries("charges"), scenario.service.entries("refunds")
        assert refund["charge"] == charge["id"]
        assert refund["key"] != charge["key"]
        assert await scenario.coins() == 1_000

    async def test_an_undo_before_the_call_arrives_bars_it_and_refunds_nothing(self, scenario: PaymentScenario) -> None:
        await worker_dies(scenario, Wire.before, CHARGE)

        outcome = await scenario.cancel()

        assert outcome.phase is Phase.CANCELLED
        assert await scenario.states() == ["undone", "barred"]
        assert scenario.charged_and_refunded == (0, 0)

    async def test_an_undo_waits_for_a_call_that_may_be_in_flight_and_verifies_again(
        self, scenario: PaymentScenario
    ) -> None:
        hold, asked = Hold(), list[str]()
        late = await start_held(scenario, hold, Wire.before, CHARGE)

        async def release_call() -> None:
            asked.append(FIND)
            hold.opened.set()

        Wire.after[FIND] = release_call
        cancelled = await scenario.cancel()

        assert (cancelled.phase.value, await ends(late)) == ("cancelled", "cancelled")
        assert asked == [FIND, FIND]
        assert scenario.charged_and_refunded == (1, 1)

    async def test_a_call_that_arrives_after_the_undo_barred_it_is_refunded_once(
        self, scenario: PaymentScenario
    ) -> None:
        hold = Hold(deaf=True)
        late = await start_held(scenario, hold, Wire.before, CHARGE)
        cancelled = await scenario.cancel()
        barred = await scenario.states()

        hold.opened.set()

        assert (cancelled.phase.value, await ends(late)) == ("cancelled", "cancelled")
        assert barred == ["undone", "barred"]
        assert await scenario.states() == ["undone", "undone"]
        assert scenario.charged_and_refunded == (1, 1)

    async def test_a_late_call_that_returns_before_the_end_is_undone_with_the_saga(
        self, scenario: PaymentScenario
    ) -> None:
        hold = Hold(deaf=True)
        await worker_dies(scenario, Wire.before, CHARGE)
        Wire.before[CHARGE] = hold
        late = scenario.late()
        await hold.reached.wait()
        await scenario.begin_undo()
        await scenario.steps.undo(scenario.undo_command(), "payments.refund")
        barred = await scenario.states()

        hold.opened.set()
        reply = await late
        outcome = await scenario.cancel()

        assert barred == ["done", "barred"]
        assert reply == Decided(phase=Phase.UNDOING)
        assert outcome.phase is Phase.CANCELLED
        assert await scenario.states() == ["undone", "undone"]
        assert scenario.charged_and_refunded == (1, 1)

    async def test_two_concurrent_undos_send_one_key_and_refund_once(self, scenario: PaymentScenario) -> None:
        await worker_dies(scenario, Wire.after, CHARGE)
        hold = Hold()
        Wire.before[REFUND] = once(hold)
        first = asyncio.create_task(scenario.cancel())
        await hold.reached.wait()
        second = await scenario.cancel()

        hold.opened.set()

        assert (await ends(first), second.phase.value) == ("cancelled", "cancelled")
        assert [refund["requests"] for refund in scenario.service.entries("refunds")] == [2]
        assert scenario.charged_and_refunded == (1, 1)

    async def test_a_charge_whose_reply_is_lost_for_good_is_found_and_refunded_once(
        self, scenario: PaymentScenario
    ) -> None:
        scenario.event = PaymentRequested(card="visa charges:lose-always", amount=10)
        Wire.before[FIND] = breaks(2)

        outcome = await scenario.driver().drive()

        assert (outcome.phase, outcome.error_code) == (Phase.FAILED, "operation.failed")
        assert await scenario.states() == ["undone", "undone"]
        assert scenario.charged_and_refunded == (1, 1)

    async def test_a_refund_whose_reply_is_lost_is_retried_and_made_once(self, scenario: PaymentScenario) -> None:
        scenario.event = PaymentRequested(card="visa refunds:lose", amount=10)
        await worker_dies(scenario, Wire.after, CHARGE)
        with pytest.raises(Exception, match="closed connection"):
            await scenario.cancel()
        counted = (await scenario.step()).undo_attempts

        outcome = await scenario.cancel()

        assert outcome.phase is Phase.CANCELLED
        assert counted == 1
        assert [refund["requests"] for refund in scenario.service.entries("refunds")] == [2]

    async def test_while_the_service_is_down_an_attempt_stays_unknown(self, scenario: PaymentScenario) -> None:
        await worker_dies(scenario, Wire.after, CHARGE)
        await scenario.age()
        await scenario.service.down()
        with pytest.raises(ConnectionRefusedError):
            await scenario.cancel()
        unknown = await scenario.states()
        await scenario.service.up()

        outcome = await scenario.cancel()

        assert unknown == ["done", "attempting"]
        assert outcome.phase is Phase.CANCELLED
        assert scenario.charged_and_refunded == (1, 1)

    async def test_a_late_attempt_of_an_undoing_saga_leaves_the_refund_to_the_undo(
        self, scenario: PaymentScenario
    ) -> None:
        await worker_dies(scenario, Wire.before, CHARGE)
        await scenario.late()
        await scenario.begin_undo()

        reply = await scenario.late()

        assert reply == Decided(phase=Phase.UNDOING)
        assert await scenario.states() == ["done", "done"]
        assert scenario.charged_and_refunded == (1, 0)

    async def test_a_late_attempt_of_a_completed_saga_refunds_nothing(self, scenario: PaymentScenario) -> None:
        await scenario.driver().drive()

        reply = await scenario.late()

        assert reply == Decided(phase=Phase.COMPLETED)
        assert scenario.charged_and_refunded == (1, 0)
        assert await scenario.states() == ["done", "done", "done"]

    async def test_an_undo_of_a_completed_saga_refunds_nothing(self, scenario: PaymentScenario) -> None:
        await scenario.driver().drive()

        reply = await scenario.steps.undo(scenario.undo_command(), "payments.refund")

        assert reply == Decided(phase=Phase.COMPLETED)
        assert scenario.charged_and_refunded == (1, 0)

    async def test_a_success_after_a_refusal_is_refunded_and_the_refusal_stays(self, scenario: PaymentScenario) -> None:
        """Two concurrent attempts of a service that does not repeat its first answer."""
        hold = Hold()
        late = await start_held(scenario, hold, Wire.before, CHARGE)
        Wire.before[CHARGE] = refuses_call
        refused = await scenario.driver().drive()

        hold.opened.set()

        assert (refused.error_code, await ends(late)) == ("card.declined", "failed")
        assert await scenario.states() == ["undone", "refused"]
        assert scenario.charged_and_refunded == (1, 1)


class TestDeathAfterTheEnd:
    """A late attempt dies before its refund, when its saga no longer has a driver."""

    async def barred_and_charged(self, scenario: PaymentScenario) -> None:
        """Let a late call return after the undo and its worker die before the refund, so that the row is done again."""
        hold = Hold(deaf=True)
        late = await start_held(scenario, hold, Wire.before, CHARGE)
        await scenario.cancel()
        Wire.before[REFUND] = dies
        hold.opened.set()
        with pytest.raises(Died):
            await late
        Wire.before.pop(REFUND)
        assert await scenario.states() == ["undone", "done"]
        assert scenario.charged_and_refunded == (1, 0)

    async def test_the_next_attempt_refunds(self, scenario: PaymentScenario) -> None:
        await self.barred_and_charged(scenario)

        reply = await scenario.late()

        assert reply == Decided(phase=Phase.CANCELLED)
        assert await scenario.states() == ["undone", "undone"]
        assert scenario.charged_and_refunded == (1, 1)

    async def test_an_orphaned_effect_is_found_after_its_time_limit_and_refunded_once(
        self, scenario: PaymentScenario
    ) -> None:
        await self.barred_and_charged(scenario)
        now = datetime.now(UTC)

        too_soon = await orphaned_effects(scenario.database, now=now)
        [effect] = await orphaned_effects(scenario.database, now=now + timedelta(minutes=1))
        undone = await asyncio.gather(*(undo_orphan(scenario.database, PAYMENTS, effect) for _ in range(2)))

        assert (len(too_soon), undone) == (0, [True, True])
        assert await scenario.states() == ["undone", "undone"]
        assert scenario.charged_and_refunded == (1, 1)
        assert await orphaned_effects(scenario.database, now=now + timedelta(hours=1)) == []

    async def test_recovery_refunds_an_orphaned_effect_and_a_dry_run_only_reports_it(
        self, scenario: PaymentScenario, client: Client
    ) -> None:
        await self.barred_and_charged(scenario)
        await ensure_search_attributes(client)
        recovery = Recovery(client, scenario.database, PAYMENTS, task_queue="nobodys", limits=Limits(timedelta(0)))

        planned = await recovery.sweep(dry_run=True)
        assert (planned.counts[Action.TAKE_BACK], scenario.charged_and_refunded) == (1, (1, 0))
        done = await recovery.sweep()
        again = await recovery.sweep()

        assert (done.counts[Action.TAKE_BACK], again.counts[Action.TAKE_BACK]) == (1, 0)
        assert await scenario.states() == ["undone", "undone"]
        assert scenario.charged_and_refunded == (1, 1)

    async def test_an_orphaned_effect_whose_refund_fails_is_found_again(self, scenario: PaymentScenario) -> None:
        await self.barred_and_charged(scenario)
        later = datetime.now(UTC) + timedelta(minutes=1)
        Wire.before[REFUND] = breaks()

        [effect] = await orphaned_effects(scenario.database, now=later)
        with pytest.raises(ConnectionResetError):
            await undo_orphan(scenario.database, PAYMENTS, effect)

        assert await orphaned_effects(scenario.database, now=later) == [effect]
        assert (await scenario.step()).undo_error == "ConnectionResetError: the wire is broken by the test"

    async def test_a_second_verification_settles_a_barred_attempt(self, scenario: PaymentScenario) -> None:
        await worker_dies(scenario, Wire.before, CHARGE)
        await scenario.cancel()
        later = datetime.now(UTC) + timedelta(hours=1)

        [effect] = await orphaned_effects(scenario.database, now=later)
        found = await undo_orphan(scenario.database, PAYMENTS, effect)

        assert not found
        assert await scenario.states() == ["undone", "barred"]
        assert await orphaned_effects(scenario.database, now=later) == []

    async def test_a_success_after_a_refusal_that_was_not_refunded_is_found(self, scenario: PaymentScenario) -> None:
        hold = Hold()
        late = await start_held(scenario, hold, Wire.before, CHARGE)
        Wire.before[CHARGE] = refuses_call
        await scenario.driver().drive()
        Wire.before[REFUND] = dies
        hold.opened.set()
        with pytest.raises(Died):
            await late
        Wire.clear()

        [effect] = await orphaned_effects(scenario.database, now=datetime.now(UTC) + timedelta(minutes=1))
        await undo_orphan(scenario.database, PAYMENTS, effect)

        assert await scenario.states() == ["undone", "refused"]
        assert scenario.charged_and_refunded == (1, 1)

    async def test_a_completed_saga_has_no_orphaned_effects(self, scenario: PaymentScenario) -> None:
        await scenario.driver().drive()

        assert await orphaned_effects(scenario.database, now=datetime.now(UTC) + timedelta(hours=1)) == []
        assert (await scenario.step()).attempted_at is None

    async def test_each_page_of_orphaned_effects_begins_where_the_last_one_ended(
        self, scenario: PaymentScenario
    ) -> None:
        for event_id in ("one", "two", "three"):
            scenario.event_id = event_id
            await worker_dies(scenario, Wire.before, CHARGE)
            await scenario.age()
            await scenario.cancel()
        later = datetime.now(UTC) + timedelta(hours=1)

        seen: list[OrphanedEffect] = []
        while page := await orphaned_effects(scenario.database, now=later, after=seen[-1] if seen else None, limit=2):
            seen += page

        assert sorted(effect.saga.event_id for effect in seen) == ["one", "three", "two"]


class TestCost:
    """The statements and commits of an external step."""

    async def test_a_charge_costs_two_transactions_of_one_statement_and_a_refund_one_more_read(
        self, scenario: PaymentScenario
    ) -> None:
        await scenario.take_coins()
        steps = StoreSteps(scenario.database, PAYMENTS)
        with statements(scenario.database) as forward:
            await steps.run(scenario.command(), timedelta(minutes=5))
        await scenario.begin_undo()
        with statements(scenario.database) as back:
            await steps.undo(scenario.undo_command(), "payments.refund")

        # Before a transaction that is not repeated, a PostgreSQL connection is checked.
        checks = ["SELECT"] if scenario.database.dialect == "postgresql" else []
        assert forward == ["INSERT", "COMMIT", *checks, "UPDATE", "COMMIT"]
        assert [statement for statement in back if statement != "SELECT"] == ["UPDATE", "COMMIT"]
        assert back.count("SELECT") == 1 + 2 * len(checks)


class TestSkip:
    """A person skips a step whose result is unknown."""

    async def test_a_skipped_attempt_is_not_undone_even_if_its_call_returns_late(
        self, scenario: PaymentScenario
    ) -> None:
        hold = Hold(deaf=True)
        late = await start_held(scenario, hold, Wire.before, CHARGE)
        await scenario.begin_undo()
        Wire.before[FIND] = breaks()
        with pytest.raises(ConnectionResetError):
            await scenario.cancel()
        skipped = await skip_step(
            scenario.database, PAYMENTS, Skip(saga_id=scenario.ref.id, number=2, by="ada", reason="asked the bank")
        )
        cancelled = await scenario.cancel()

        hold.opened.set()

        assert not skipped.before
        assert (cancelled.phase.value, await ends(late)) == ("cancelled", "cancelled")
        assert await scenario.states() == ["undone", "skipped"]
        assert scenario.charged_and_refunded == (1, 0)

    async def test_a_late_attempt_of_a_skipped_step_reports_that_the_saga_is_being_undone(
        self, scenario: PaymentScenario
    ) -> None:
        hold = Hold(deaf=True)
        await worker_dies(scenario, Wire.before, CHARGE)
        Wire.before[CHARGE] = hold
        late = scenario.late()
        await hold.reached.wait()
        await scenario.begin_undo()
        await skip_step(scenario.database, PAYMENTS, Skip(saga_id=scenario.ref.id, number=2, by="ada", reason="x"))

        hold.opened.set()

        assert await late == Decided(phase=Phase.UNDOING)


class TestIrreversible:
    """External steps that cannot be undone: a parcel is the pivot."""

    @pytest.fixture
    def scenario(self, scenario: PaymentScenario) -> PaymentScenario:
        """The scenario with a parcel that can be looked up."""
        scenario.orchestrator, scenario.event = Parcel, ParcelRequested(card="visa", amount=10)
        return scenario

    async def test_a_parcel_is_sent_once_and_then_the_customer_is_notified(self, scenario: PaymentScenario) -> None:
        outcome = await scenario.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert (scenario.service.done("parcels"), scenario.service.done("messages")) == (1, 1)

    async def test_a_parcel_that_was_not_sent_is_barred_and_the_coins_are_put_back(
        self, scenario: PaymentScenario
    ) -> None:
        Wire.before["send_parcel"] = breaks()

        outcome = await scenario.driver().drive()

        assert (outcome.phase, outcome.error_code) == (Phase.FAILED, "operation.failed")
        assert await scenario.states() == ["undone", "barred"]
        assert (scenario.service.done("parcels"), await scenario.coins()) == (0, 1_000)

    async def test_a_parcel_whose_reply_is_lost_for_good_is_found_and_the_saga_completes(
        self, scenario: PaymentScenario
    ) -> None:
        scenario.event = ParcelRequested(card="visa parcels:lose-always", amount=10)
        Wire.before["find_parcel"] = breaks(2)

        outcome = await scenario.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert [parcel["requests"] for parcel in scenario.service.entries("parcels")] == [1]

    async def test_a_parcel_that_cannot_be_looked_up_is_assumed_to_be_sent(self, scenario: PaymentScenario) -> None:
        scenario.event = ParcelRequested(card="visa parcels:lose-always", amount=10, can_be_found=False)

        with pytest.raises(SagaStuck, match="cannot be undone"):
            await scenario.driver().drive()

        assert await scenario.states() == ["done", "attempting"]
        assert scenario.service.done("parcels") == 1
        assert await scenario.coins() == 990

    async def test_a_parcel_that_cannot_be_looked_up_is_the_pivot_once_an_attempt_succeeds(
        self, scenario: PaymentScenario
    ) -> None:
        scenario.event = ParcelRequested(card="visa parcels:lose", amount=10, can_be_found=False)
        Wire.before["drop_parcel"] = breaks(2)

        outcome = await scenario.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert scenario.service.done("parcels") == 1

    async def test_a_message_after_the_pivot_is_retried_until_it_succeeds(self, scenario: PaymentScenario) -> None:
        Wire.before["send_message"] = breaks(2)

        outcome = await scenario.driver().drive()

        assert outcome.phase is Phase.COMPLETED
        assert scenario.service.done("messages") == 1

    async def test_an_attempt_that_begins_while_another_is_given_up_is_not_barred(
        self, scenario: PaymentScenario
    ) -> None:
        """While one driver verifies before it gives up, another sends the parcel; barring it would lose the parcel."""
        hold, sending = Hold(), Hold(deaf=True)
        await worker_dies(scenario, Wire.before, "send_parcel")
        await scenario.age()
        Wire.after["find_parcel"] = once(hold)
        settling = asyncio.create_task(scenario.steps.settle(scenario.command("payments.send_parcel")))
        await hold.reached.wait()
        other = await start_held(scenario, sending, Wire.before, "send_parcel")

        hold.opened.set()
        await asyncio.wait([settling], timeout=0.2)
        states = await scenario.states()
        sending.opened.set()

        assert states == ["done", "attempting"]
        assert await ends(other) == "completed"
        assert isinstance(await settling, StepDone)


async def refuses_call() -> None:
    """Refuse the call, as a service that does not know the first attempt."""
    await refuses("card.declined")(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
