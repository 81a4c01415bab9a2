"""Checks of every document: its links work, its code is valid, and it contains no path of a machine."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from tests.docs.markdown import ROOT, Document, every_document

DOCUMENTS = every_document()
HOME = Document("docs/index.md")


def test_the_documents_exist() -> None:
    assert {
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/errors.md",
        "docs/guarantees.md",
        "docs/tutorial/new-orchestrator.md",
        "docs/pattern.md",
    } <= set(DOCUMENTS)
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    assert len([path for path in DOCUMENTS if path.startswith("docs/decisions/")]) >= 4


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_exist(path: str) -> None:
    document = Document(path)
    broken: list[str] = []
    for link in document.links:
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / path).parent / file if file else ROOT / path
        if not target.exists():
            broken.append(link)
        elif anchor:
            linked = Document(str(target.resolve().relative_to(ROOT)))
            if anchor not in {_anchor(heading) for heading in linked.headings()}:
                broken.append(link)

    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS)
def test_code_blocks_are_valid(path: str) -> None:
    for block in Document(path).blocks:
        match block.language:
            case "python":
                compile(block.text, f"{path}:{block.line}", "exec")
            case "json":
                json.loads(block.text)
            case "console":
                assert block.text.startswith("$ "), f"{path}:{block.line} shows no command"
            case language:
                assert language in ("mermaid", "text"), f"{path}:{block.line} has the language {language!r}"


@pytest.mark.parametrize("path", [*DOCUMENTS, "LICENSE"])
def test_lines_have_no_trailing_spaces_and_no_path_of_a_machine(path: str) -> None:
    text = (ROOT / path).read_text()

    assert re.findall(r"(?:^|[\s`(])/(?:home|Users|root|work|tmp|mnt)/\S*", text) == []
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    assert "TODO" not in text


@pytest.mark.parametrize("line", [command.line for command in Document("CONTRIBUTING.md").commands])
def test_the_contributor_guides_commands_exist(line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M)
        return
    assert program == ".venv/bin/pytest"

    # Only collected, because the suite that this test is part of runs them.
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert collected.returncode == 0, collected.stdout + collected.stderr
    assert " tests collected" in collected.stdout or "::" in collected.stdout


def test_the_diagrams_of_the_home_page_are_well_formed() -> None:
    pictures = HOME.of("mermaid")

    assert len(pictures) == 2
    flow, states = pictures[0].text, pictures[1].text
    assert flow.startswith("flowchart ")
    assert flow.count("subgraph ") == len(re.findall(r"^\s*end$", flow, re.M))
    for opening, closing in ("[]", "()", "{}"):
        assert flow.count(opening) == flow.count(closing)
    assert flow.count('"') % 2 == 0
    for phase in ("forward", "undoing", "completed", "failed", "cancelled"):
        assert phase in states


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
