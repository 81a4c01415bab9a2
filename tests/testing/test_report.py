"""The report of a run: its counts add up, and it has an exit code."""

import pytest

from orchestrator.testing import Report
from orchestrator.testing.conformance.report import Cell, Result, Verdict


def a_result(verdict: Verdict, detail: str = "", fault: str = "refused") -> Result:
    cell = Cell(orchestrator="Right", example="ten", fault=fault, location="step 1, wrong.take", database="sqlite")
    return Result(cell, verdict, detail)


def test_trimmed_cells_are_neither_tried_nor_hit() -> None:
    report = Report([a_result(Verdict.HIT), a_result(Verdict.DECLARED, "a query"), a_result(Verdict.TRIMMED, "later")])

    assert report.tried == 2
    assert report.last_line == "cells tried 2: hit 1, declared 1, failed 0"
    assert report.exit_code == 0


def test_a_failed_cell_fails_the_run_and_so_does_a_run_of_nothing() -> None:
    assert Report([a_result(Verdict.HIT), a_result(Verdict.FAILED, "a description")]).exit_code == 1
    assert Report([a_result(Verdict.TRIMMED, "later")]).exit_code == 1


def test_a_report_shows_failures_and_reasons_and_the_counts_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report(
        [
            a_result(Verdict.HIT),
            a_result(Verdict.FAILED, "  found     box a: coins is 1 and must be 2"),
            a_result(Verdict.DECLARED, "a query has nothing to undo", fault="undone twice"),
            a_result(Verdict.TRIMMED, "later", fault="reset"),
        ]
    )

    report.show()

    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "refused at step 1, wrong.take of Right (ten) on SQLite: failed" in lines
    assert "found     box a: coins is 1 and must be 2" in lines
    assert "declared    1: a query has nothing to undo" in lines
    assert "trimmed     1: later" in lines
    assert any(line.split("│")[1:3] == [" refused      ", " 1 / 0 / 1 "] for line in lines)
    assert lines[-1] == "cells tried 3: hit 1, declared 1, failed 1"
