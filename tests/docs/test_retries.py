"""docs/retries.md is true: its code is declared rightly, and its defaults are the engine's."""

from types import ModuleType
from typing import Any

from orchestrator import Retry
from orchestrator.definition.operations import problems_of_operation
from tests.docs.markdown import Document

RETRIES = Document("docs/retries.md")


def test_its_code_passes_the_checks_before_a_worker_starts() -> None:
    [block] = RETRIES.of("python")
    shown: Any = ModuleType("retries")
    exec(compile(block.text, "docs/retries.md", "exec"), shown.__dict__)

    assert [*problems_of_operation(shown.charge_card), *problems_of_operation(shown.reserve)] == []


def test_its_defaults_are_the_engines() -> None:
    default = Retry()

    assert f"| `first_wait` | {default.first_wait.total_seconds()} s |" in RETRIES.text
    assert f"| `factor` | {default.factor:.0f} |" in RETRIES.text
    assert f"| `maximum_wait` | {default.maximum_wait.total_seconds():.0f} s |" in RETRIES.text
    assert "| `attempts` | no limit |" in RETRIES.text
    assert default.attempts is None
