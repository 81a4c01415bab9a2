"""Each stable error code of the engine has a heading in docs/errors.md, and each heading a code in the engine."""

import ast
import re
from collections.abc import Iterator

from orchestrator.cli.terminal.exit_codes import Exit
from orchestrator.definition.atomic import ATOMIC, UNDO_ATOMIC
from orchestrator.drive.driven_saga import SLEEP, WAIT_FOR
from orchestrator.operation import PIVOT
from orchestrator.protocol import names
from orchestrator.workflow.system.lookup import LOOK_UP
from orchestrator.workflow.system.publish import PUBLISH_EVENT
from orchestrator.workflow.system.recovery import RECOVER
from orchestrator.workflow.system.scheduled import PUBLISH_SCHEDULED
from tests.docs.markdown import ROOT, Document

ERRORS = Document("docs/errors.md")
_CODE = re.compile(r"(event|signal|saga|operation|publish|database|definition|settings)\.[a-z_]+")
_ACTIVITIES = {
    names.BEGIN_UNDO,
    names.FINISH,
    names.MARK_STUCK,
    names.DEAD_LETTER,
    names.BEGIN_WAIT,
    names.END_WAIT,
    names.DRIVE_WAVE,
    LOOK_UP,
    RECOVER,
    PUBLISH_SCHEDULED,
    PUBLISH_EVENT,
}
_STEPS = {PIVOT.name, ATOMIC.name, UNDO_ATOMIC, SLEEP, WAIT_FOR}
_DECLARATIONS = "definition"
"""Modules that check declarations mention `event.…` in their messages but raise no codes."""


def codes_in_the_engine() -> set[str]:
    """Find texts that look like the engine's codes, and every code that the command line reports."""
    codes: set[str] = set()
    for file in sorted((ROOT / "orchestrator").rglob("*.py")):
        if file.stem.startswith(_DECLARATIONS):
            continue
        codes |= set(_codes(ast.parse(file.read_text())))
    return codes - _ACTIVITIES - _STEPS


def _codes(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if _CODE.fullmatch(text):
                yield text
            case ast.Call(func=ast.Name(id="ReportedFailure"), args=[_, ast.Constant(value=str(text)), *_]):
                yield text
            case ast.Dict(keys=[ast.Constant(value="code"), *_], values=[ast.Constant(value=str(text)), *_]):
                yield text
            case _:
                pass


def test_each_code_has_a_heading_and_each_heading_a_code() -> None:
    documented = {heading.strip("`") for heading in ERRORS.headings() if heading.startswith("`")}

    assert documented == codes_in_the_engine()


def test_each_code_has_its_cause_and_what_to_do() -> None:
    sections = re.split(r"^### ", ERRORS.text, flags=re.M)[1:]

    assert len(sections) > 20
    assert [
        text.splitlines()[0] for text in sections if "\nCause: " not in text or " Do:" not in text.replace("\n", " ")
    ] == []


def test_known_codes_are_found() -> None:
    assert {"event.invalid", "signal.unknown", "operation.failed", "saga.cancelled", "bug"} <= codes_in_the_engine()


def test_each_exit_code_is_documented_with_its_name() -> None:
    documented = {int(row[0]): row[1] for row in ERRORS.table("code")}

    assert documented == {int(code): code.name.lower().replace("_", " ") for code in Exit}
