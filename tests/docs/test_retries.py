"""docs/retries.md is true: its code is declared rightly, and its defaults are the engine's."""

from types import ModuleType

from orchestrator import Operation, Retry
from orchestrator.definition.operations import problems_of_operation
from tests.docs.markdown import Document

RETRIES = Document("docs/retries.md")


def test_its_code_passes_the_checks_before_a_worker_starts() -> None:
    [block] = RETRIES.of("python")
    shown = ModuleType("retries")
    exec(compile(block.text, "docs/retries.md", "exec"), shown.__dict__)
    declared = [value for value in vars(shown).values() if isinstance(value, Operation)]

    assert len(declared) == 2
    assert [problem for one in declared for problem in problems_of_operation(one)] == []


def test_its_defaults_are_the_engines() -> None:
    default = Retry()

    assert f"| `first_wait` | {default.first_wait.total_seconds()} s |" in RETRIES.text
    assert f"| `factor` | {default.factor:.0f} |" in RETRIES.text
    assert f"| `maximum_wait` | {default.maximum_wait.total_seconds():.0f} s |" in RETRIES.text
    assert "| `attempts` | no limit |" in RETRIES.text
    assert default.attempts is None
