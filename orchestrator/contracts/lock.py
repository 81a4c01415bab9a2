"""The contract lock: a file of published schemas to compare the code with, and samples that the code must read.

Only the accepting command changes the file, and it rejects every incompatible change of a published version.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import unified_diff
from pathlib import Path
from typing import Any

from orchestrator.contracts.compatibility import incompatibilities, without_descriptions
from orchestrator.contracts.schemas import sample_event, schema_of
from orchestrator.definition.catalog import Catalog
from orchestrator.event import DomainEvent, upcasters_of
from orchestrator.protocol.messages.envelope import UnreadableEvent, read, wrap
from orchestrator.protocol.messages.unwrapping import unwrap

Published = dict[str, dict[str, Any]]
"""JSON schemas, keyed by event type and version."""
_SAMPLED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between the published schemas and the code."""

    event_type: str
    text: str
    """What has changed, and what to do."""
    is_refused: bool
    """Whether the difference must not be accepted."""
    difference: str = ""
    """The two schemas' difference, line by line."""


def read_lock(file: Path) -> Published:
    """Read the published schemas. A missing file means that nothing is published yet.

    Raises:
        ValueError: the file is not JSON.
    """
    return json.loads(file.read_text(encoding="utf-8"))["events"] if file.exists() else {}


def findings(catalog: Catalog, published: Published, payloads: Path) -> list[Finding]:
    """Find every difference between the code and the published schemas, and every sample that cannot be read."""
    found = [finding for event in catalog.events.values() for finding in _of_event(event, published)]
    for name in sorted(set(published) - set(catalog.events)):
        text = (
            "was published but is no longer in the code, so stored events of this type cannot be read. Restore its "
            "class or, if no such event is stored anywhere, remove the type from the file by hand"
        )
        found.append(Finding(name, text, is_refused=True))
    return [*found, *_of_payloads(catalog, published, payloads)]


def accept(catalog: Catalog, published: Published, file: Path, payloads: Path) -> list[Finding]:
    """Write the current schemas into the file, and a sample of each new version.

    Returns:
        The findings that cannot be accepted, in which case nothing was written; otherwise those that need more work.
    """
    if refused := [finding for finding in findings(catalog, published, payloads) if finding.is_refused]:
        return refused
    events = {name: dict(versions) for name, versions in published.items()}
    remaining: list[Finding] = []
    for name, event in catalog.events.items():
        events.setdefault(name, {})[str(event.version)] = schema_of(event)
        if not _samples(payloads, name, event.version):
            generated = sample_event(event)
            if generated is None:
                remaining.append(Finding(name, _no_sample(payloads, name, event.version), is_refused=True))
                continue
            sample = payloads / name / f"v{event.version}.json"
            sample.parent.mkdir(parents=True, exist_ok=True)
            envelope = wrap(generated, event_id="sample", source="orchestrator/contracts", time=_SAMPLED_AT)
            sample.write_text(_pretty(json.loads(envelope.text)), encoding="utf-8")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_pretty({"events": events}), encoding="utf-8")
    return remaining


def _of_event(event: type[DomainEvent], published: Published) -> Iterator[Finding]:
    name, version = event.type_name(), event.version
    versions = published.get(name, {})
    newest = max(map(int, versions), default=0)
    upcasters = upcasters_of(event)
    now = schema_of(event)
    if version < newest:
        text = f"is version {version}, but version {newest} was published: write `version = {newest}`"
        yield Finding(name, text, is_refused=True)
        return
    for old in sorted(map(int, versions)):
        if old < version and (missing := [step for step in range(old, version) if step not in upcasters]):
            text = f"has no upcaster from version {missing[0]}, but events of version {old} may be stored: write one"
            yield Finding(name, text, is_refused=True)
            return
    if str(version) not in versions:
        what = "is new" if not versions else f"has a new version, {version}"
        yield Finding(name, f"{what}: accept it", is_refused=False)
        return
    was = versions[str(version)]
    if was == now:
        return
    difference = _difference(was, now)
    if broken := incompatibilities(was, now):
        text = (
            f"has changed incompatibly, and version {version} was published: {'; '.join(broken)}. Write "
            f"`version = {version + 1}` and an upcaster, `@staticmethod @upcaster({version})`, that converts the old "
            "fields to the new ones; or revert the change"
        )
        yield Finding(name, text, is_refused=True, difference=difference)
        return
    text = "has changed descriptions: accept them"
    if without_descriptions(was) != without_descriptions(now):
        text = (
            "has changed compatibly, so stored events can be read. Workers with the old code do not know the change "
            "and store such events as dead letters: deploy the workers first, or raise the version, so that they "
            "wait. Accept the change"
        )
    yield Finding(name, text, is_refused=False, difference=difference)


def _of_payloads(catalog: Catalog, published: Published, payloads: Path) -> Iterator[Finding]:
    for name, versions in published.items():
        event = catalog.events.get(name)
        if event is None:
            continue
        for version in versions:
            samples = _samples(payloads, name, int(version))
            if not samples:
                yield Finding(name, _no_sample(payloads, name, int(version)), is_refused=int(version) < event.version)
            for sample in samples:
                try:
                    unwrap(read(sample.read_bytes()), event)
                except UnreadableEvent as fault:
                    text = f"the stored event {sample} can no longer be read: {fault}. Fix its contract"
                    yield Finding(name, text, is_refused=True)


def _samples(payloads: Path, name: str, version: int) -> list[Path]:
    folder = payloads / name
    return [*folder.glob(f"v{version}.json"), *sorted(folder.glob(f"v{version}-*.json"))]


def _no_sample(payloads: Path, name: str, version: int) -> str:
    return (
        f"has no sample of version {version}: save a stored envelope as {payloads / name}/v{version}.json, or write "
        "an `example()` of the event and accept again"
    )


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    before, after = (_pretty(schema).splitlines() for schema in (was, now))
    return "\n".join(unified_diff(before, after, "published", "code", lineterm="", n=2))


def _pretty(value: Any) -> str:
    return f"{json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)}\n"
