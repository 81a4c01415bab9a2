"""docs/dead-letters.md is true: its file and its commands run, and its Python code can be imported."""

import pytest

from tests.docs.markdown import Document
from tests.docs.project import Project, check_commands
from tests.sources.garbage import KINDS

DOCUMENT = Document("docs/dead-letters.md")


async def test_every_command_works_and_prints_what_is_shown(tmp_path_factory: pytest.TempPathFactory) -> None:
    project = Project.copied(tmp_path_factory.mktemp("letters") / "project", DOCUMENT)

    async with project.running():
        assert await check_commands(project, DOCUMENT.commands) == []


def test_the_other_block_uses_names_that_exist() -> None:
    [block] = [block for block in DOCUMENT.of("python") if block.path is None]
    names: dict[str, object] = {"__name__": "docs"}

    exec(compile(block.text, f"{DOCUMENT.path}:{block.line}", "exec"), names)

    assert callable(names["replay_all"])
    assert len(KINDS) >= 40
