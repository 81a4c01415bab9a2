"""What `orchestrator dev` notices: sagas that start and end, the lines of a worker's log, and changed code."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest

from orchestrator.cli.embedded.live_view import SagaLines, WorkerLog
from orchestrator.cli.embedded.reload import watch_code
from orchestrator.cli.embedded.show import Show
from tests.cast import Script, refuses
from tests.cast_events import CoinsMoveRequested
from tests.house import House, new_id

PATIENCE = 20


class Lines(Show):
    """Remembers the lines of sagas."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[tuple[str, str]] = []

    def state(self, at: datetime, state: str, text: str) -> None:
        self.states.append((state, text))


async def end_a_saga(house: House) -> str:
    """Let a saga run to its end, and return its event's id."""
    event_id = new_id()
    [handle] = await house.bus.publish(CoinsMoveRequested(source="a", target="b", coins=1), event_id=event_id)
    await handle.outcome()
    return event_id


async def test_a_saga_has_a_line_when_it_starts_and_one_when_it_ends_but_none_from_before(house: House) -> None:
    lines = Lines()
    sagas = SagaLines(house.database, lines)
    await end_a_saga(house)
    await sagas.print_changes()
    assert lines.states == []

    completed = await end_a_saga(house)
    await sagas.print_changes()
    Script.before["put"] = refuses()
    failed = await end_a_saga(house)
    await sagas.print_changes()
    await sagas.print_changes()

    assert [(state, text[: len(f"CoinsMove  {completed}")]) for state, text in lines.states] == [
        ("started", f"CoinsMove  {completed}"),
        ("completed", f"CoinsMove  {completed}"),
        ("started", f"CoinsMove  {failed}"),
        ("failed", f"CoinsMove  {failed}"),
    ]
    assert lines.states[1][1].endswith(" s")
    assert "box.refused: " in lines.states[3][1]


def test_a_workers_log_is_shown_in_whole_lines_without_the_block_it_begins_with(tmp_path: Path) -> None:
    file = tmp_path / "worker.log"
    log = WorkerLog(file)
    assert log.new_lines() == []

    file.write_text("a warning\nWorker ready on task queue 'x'\n  orchestrators  Order\nCtrl-C drains.\nfirst\nsec")
    begin = log.new_lines()
    with file.open("a") as more:
        more.write("ond\n")

    assert begin == ["a warning", "first"]
    assert log.new_lines() == ["second"]
    assert log.new_lines() == []


@asynccontextmanager
async def watching(folder: Path) -> AsyncGenerator["asyncio.Queue[Path]"]:
    """Collect what is reported, from the moment on in which changes are seen."""
    reported: asyncio.Queue[Path] = asyncio.Queue()
    task = asyncio.create_task(watch_code(folder, reported.put_nowait))
    try:
        async with asyncio.timeout(PATIENCE):
            number = 0
            while reported.empty():  # nothing says when the watch has begun, so a file is changed until it is seen
                number += 1
                (folder / "probe.py").write_text(str(number))
                await asyncio.sleep(0.05)
        yield reported
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def reports(reported: "asyncio.Queue[Path]", file: Path) -> None:
    """Wait until a file is reported."""
    async with asyncio.timeout(PATIENCE):
        while await reported.get() != file:
            pass


async def test_changed_code_is_reported_and_nothing_else(tmp_path: Path) -> None:
    for folder in ("shop", "tests", ".venv", "env"):
        (tmp_path / folder).mkdir()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    async with watching(tmp_path) as reported:
        for ignored in ("tests/test_shop.py", ".venv/module.py", "env/module.py", "shop/notes.txt", "README.md"):
            (tmp_path / ignored).write_text("changed")
        (tmp_path / "shop" / "order.py").write_text("changed")
        await reports(reported, tmp_path / "shop" / "order.py")

        (tmp_path / "pyproject.toml").write_text("changed")
        await reports(reported, tmp_path / "pyproject.toml")

        seen = {tmp_path / "probe.py", tmp_path / "shop" / "order.py", tmp_path / "pyproject.toml"}
        assert {reported.get_nowait() for _ in range(reported.qsize())} <= seen


@pytest.mark.exhaustive
async def test_a_folder_of_code_that_is_added_is_watched_too(tmp_path: Path) -> None:
    async with watching(tmp_path) as reported:
        (tmp_path / "billing").mkdir()
        await reports(reported, tmp_path / "billing")

        number = 0
        async with asyncio.timeout(PATIENCE):
            while True:
                number += 1
                (tmp_path / "billing" / "invoice.py").write_text(str(number))
                await asyncio.sleep(0.1)
                if tmp_path / "billing" / "invoice.py" in {reported.get_nowait() for _ in range(reported.qsize())}:
                    break
