"""docs/testing.md is true: its test runs, its lists are those of the code, and its report is the kit's."""

import pytest

from orchestrator.testing import Example
from orchestrator.testing.conformance.databases import KINDS
from orchestrator.testing.conformance.report import Verdict
from orchestrator.testing.conformance.runners import FAULTS
from orchestrator.testing.conformance.suite import Suite, run_suite
from tests.docs.markdown import Document, code_in
from tests.docs.project import Project, check_commands
from tests.testing import wrong
from tests.testing.test_catches import CATALOG, TEN

STEPS = 5
"""The number of steps of the transfer in the document."""
DOCUMENT = Document("docs/testing.md")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project with the document's test."""
    return Project.copied(tmp_path_factory.mktemp("testing") / "project", DOCUMENT)


async def test_the_first_command_works_and_prints_what_is_shown(project: Project) -> None:
    """The second command runs every fault, which takes too long here; only its number of cells is checked."""
    first, full = DOCUMENT.commands

    assert await check_commands(project, [first]) == []
    assert full.line.endswith("-m orchestrator.testing tests.app.test_transfers_conform")
    cells = len(KINDS) * sum(STEPS * fault.at_steps + fault.at_the_end for fault in FAULTS.values())
    assert full.shown[-1] == f"cells tried {cells}: hit …, declared …, failed 0"


async def test_the_files_to_copy_have_the_projects_style(project: Project) -> None:
    files = " ".join(DOCUMENT.files)
    style = await project.type(f".venv/bin/ruff check {files} && .venv/bin/ruff format --check {files}")

    assert style.exit_code == 0, style.output


def test_every_fault_is_listed_in_order_with_its_explanation() -> None:
    assert DOCUMENT.table("fault") == [[fault.name, fault.explains] for fault in FAULTS.values()]


def test_every_field_of_an_example_is_listed() -> None:
    listed = [code_in(row[0])[0] for row in DOCUMENT.table("field")]

    assert sorted(listed) == sorted(Example.__dataclass_fields__)


async def test_the_report_is_the_one_that_the_kit_prints() -> None:
    [shown] = [block.text for block in DOCUMENT.of("text")]
    suite = Suite(
        orchestrator=wrong.SetsBack,
        examples=[TEN],
        catalog=CATALOG,
        tables=wrong.tables,
        databases=("sqlite",),
        faults=["another saga between"],
    )

    [result] = await run_suite(suite)

    assert result.verdict is Verdict.FAILED
    assert str(result) == shown.strip()


def test_the_other_blocks_run() -> None:
    for block in DOCUMENT.of("python"):
        exec(compile(block.text, f"docs/testing.md:{block.line}", "exec"), {"__name__": "docs"})
