"""The lock: published schemas in a file, held against today's code; and samples of stored payloads that must be read.

The file changes by the accepting command alone, and that takes no incompatible change of a published version.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import unified_diff
from pathlib import Path
from typing import Any

from orchestrator.contracts.compatibility import incompatibilities, without_words
from orchestrator.contracts.schemas import sample_event, schema_of
from orchestrator.definition.catalog import Catalog
from orchestrator.event import DomainEvent, upcasters_of
from orchestrator.protocol.envelope import UnreadableEvent, read, wrap
from orchestrator.protocol.unwrapping import unwrap

Published = dict[str, dict[str, Any]]
"""By event type, by version: the JSON schema."""
_SAMPLED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between what was published and the code."""

    event_type: str
    text: str
    """What has changed, and what to do."""
    is_refused: bool
    """It cannot be accepted as it is."""
    difference: str = ""
    """Of the two schemas, line by line."""


def read_lock(file: Path) -> Published:
    """What was published; nothing if there is no file yet.

    Raises:
        ValueError: the file is no JSON.
    """
    return json.loads(file.read_text(encoding="utf-8"))["events"] if file.exists() else {}


def findings(catalog: Catalog, published: Published, payloads: Path) -> list[Finding]:
    """Everything in which the code differs from what was published, and every kept payload that cannot be read."""
    found = [one for event in catalog.events.values() for one in _of_event(event, published)]
    for name in sorted(set(published) - set(catalog.events)):
        text = (
            "was published and is gone from the code: what is stored of it cannot be read. Put its class back; or, "
            "when nothing of it is left anywhere, take it out of the file by hand"
        )
        found.append(Finding(name, text, is_refused=True))
    return [*found, *_of_payloads(catalog, published, payloads)]


def accept(catalog: Catalog, published: Published, file: Path, payloads: Path) -> list[Finding]:
    """Write today's schemas into the file, and a sample of each version that is new.

    Returns:
        What stands in the way; then nothing was written. And what is left to do after it was.
    """
    if refused := [one for one in findings(catalog, published, payloads) if one.is_refused]:
        return refused
    events = {name: dict(versions) for name, versions in published.items()}
    left: list[Finding] = []
    for name, event in catalog.events.items():
        events.setdefault(name, {})[str(event.version)] = schema_of(event)
        if not _samples(payloads, name, event.version):
            made = sample_event(event)
            if made is None:
                left.append(Finding(name, _no_sample(payloads, name, event.version), is_refused=True))
                continue
            sample = payloads / name / f"v{event.version}.json"
            sample.parent.mkdir(parents=True, exist_ok=True)
            envelope = wrap(made, event_id="sample", source="orchestrator/contracts", time=_SAMPLED_AT)
            sample.write_text(_pretty(json.loads(envelope.text)), encoding="utf-8")
    file.write_text(_pretty({"events": events}), encoding="utf-8")
    return left


def _of_event(event: type[DomainEvent], published: Published) -> Iterator[Finding]:
    name, version = event.type_name(), event.version
    versions = published.get(name, {})
    newest = max(map(int, versions), default=0)
    upcasters = upcasters_of(event)
    now = schema_of(event)
    if version < newest:
        text = f"is version {version}, and version {newest} was published: write `version = {newest}`"
        yield Finding(name, text, is_refused=True)
        return
    for old in sorted(map(int, versions)):
        if old < version and (missing := [one for one in range(old, version) if one not in upcasters]):
            text = f"has no upcaster from version {missing[0]}: version {old} was published, and is stored; write one"
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
            f"`version = {version + 1}` and an upcaster, `@staticmethod @upcaster({version})`, that makes the old "
            "fields into the new ones; or take the change back"
        )
        yield Finding(name, text, is_refused=True, difference=difference)
        return
    text = "has other words for people: accept them"
    if without_words(was) != without_words(now):
        text = (
            "has changed compatibly: what is stored can be read. Workers of the code before do not know it and put "
            "such events among the dead letters: deploy workers first, or raise its version, and they wait. Accept it"
        )
    yield Finding(name, text, is_refused=False, difference=difference)


def _of_payloads(catalog: Catalog, published: Published, payloads: Path) -> Iterator[Finding]:
    for name, versions in published.items():
        event = catalog.events.get(name)
        if event is None:
            continue
        for version in versions:
            kept = _samples(payloads, name, int(version))
            if not kept:
                yield Finding(name, _no_sample(payloads, name, int(version)), is_refused=int(version) < event.version)
            for sample in kept:
                try:
                    unwrap(read(sample.read_bytes()), event)
                except UnreadableEvent as fault:
                    text = f"{sample}, as it was stored, cannot be read any more: {fault}. Mend its contract"
                    yield Finding(name, text, is_refused=True)


def _samples(payloads: Path, name: str, version: int) -> list[Path]:
    folder = payloads / name
    return [*folder.glob(f"v{version}.json"), *sorted(folder.glob(f"v{version}-*.json"))]


def _no_sample(payloads: Path, name: str, version: int) -> str:
    return (
        f"has no sample of version {version}: put a stored envelope into {payloads / name}/v{version}.json, or give "
        "the event an `example()` and accept again"
    )


def _difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    before, after = (_pretty(one).splitlines() for one in (was, now))
    return "\n".join(unified_diff(before, after, "published", "code", lineterm="", n=2))


def _pretty(value: Any) -> str:
    return f"{json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)}\n"
