"""Messages that are no events of ours, of every kind, each with the code under which it has to be kept.

Where a message is read makes no difference, with two exceptions: who looks for a listener tells of a type that nobody
listens to otherwise than who has one event alone, and only who is sent nothing can say so.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from orchestrator.protocol.envelope import EVENT_SIZE_LIMIT


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of garbage."""

    make: Callable[[dict[str, Any], Random], Sequence[bytes]]
    """The arguments of one message, from a good one."""
    code: str
    routed: str = ""
    """The code where the listener is looked for, if that is another."""
    only: Sequence[str] = ()
    """The doors that it can come by; all, if nothing is said."""


def _with(**changed: Any) -> Callable[[dict[str, Any], Random], Sequence[bytes]]:
    return lambda message, _: [_json({**message, **changed})]


def _without(name: str) -> Callable[[dict[str, Any], Random], Sequence[bytes]]:
    return lambda message, _: [_json({key: value for key, value in message.items() if key != name})]


def _fields(**changed: Any) -> Callable[[dict[str, Any], Random], Sequence[bytes]]:
    return lambda message, _: [_json({**message, "data": {**message["data"], **changed}})]


def _bytes(raw: bytes) -> Callable[[dict[str, Any], Random], Sequence[bytes]]:
    return lambda _, random: [raw]


def _json(message: Any) -> bytes:
    return json.dumps(message).encode()


def _truncated(message: dict[str, Any], random: Random) -> Sequence[bytes]:
    whole = _json(message)
    return [whole[: random.randrange(1, len(whole) - 1)]]


def _huge(size: int) -> Callable[[dict[str, Any], Random], Sequence[bytes]]:
    def make(message: dict[str, Any], _: Random) -> Sequence[bytes]:
        message = {**message, "data": {**message["data"], "detail": {"text": "x" * size, "number": 1}}}
        return [_json(message)]

    return make


def _nested(levels: int) -> Any:
    inner: Any = 1
    for _ in range(levels):
        inner = {"a": inner}
    return inner


def _doubled(message: dict[str, Any], _: Random) -> Sequence[bytes]:
    return [_json(message).replace(b'"specversion"', b'"specversion": "1.0", "specversion"', 1)]


_DIRECT = ("signal", "start", "update", "web", "cli")

KINDS: Mapping[str, Kind] = {
    "nothing": Kind(lambda _, __: [b""], "event.missing", only=("signal", "start", "update", "web")),
    "no arguments": Kind(lambda _, __: [], "event.missing", only=("signal", "update")),
    "a word": Kind(_bytes(b"hello"), "event.not_json"),
    "binary": Kind(lambda _, random: [b"\xff" + random.randbytes(200)], "event.not_json"),
    "UTF-16": Kind(lambda message, _: [json.dumps(message).encode("utf-16")], "event.not_json"),
    "Latin-1": Kind(
        lambda message, _: [json.dumps({**message, "source": "Käse"}, ensure_ascii=False).encode("latin-1")],
        "event.not_json",
    ),
    "truncated": Kind(_truncated, "event.not_json"),
    "not a number": Kind(lambda message, _: [_json({**message, "x": float("nan")})], "event.not_json"),
    "an endless number": Kind(_bytes(b'{"data": 1e999}'), "event.not_json"),
    "a name twice": Kind(_doubled, "event.not_json"),
    "nested without end": Kind(_bytes(b"[" * 100_000), "event.not_json"),
    "a lone surrogate in bytes": Kind(_bytes('"\ud800"'.encode("utf-8", "surrogatepass")), "event.not_json"),
    "a list": Kind(_bytes(b"[1, 2, 3]"), "event.not_cloudevent"),
    "JSON's null": Kind(_bytes(b"null"), "event.not_cloudevent"),
    "an empty object": Kind(_bytes(b"{}"), "event.not_cloudevent"),
    "no id": Kind(_without("id"), "event.not_cloudevent"),
    "no time": Kind(_without("time"), "event.not_cloudevent"),
    "a time without zone": Kind(_with(time="2026-01-01T12:00:00"), "event.not_cloudevent"),
    "another CloudEvents": Kind(_with(specversion="0.3"), "event.not_cloudevent"),
    "data that is a text": Kind(_with(data="text"), "event.not_cloudevent"),
    "a version that is none": Kind(_with(dataversion="1"), "event.not_cloudevent"),
    "version 0": Kind(_with(dataversion=0), "event.not_cloudevent"),
    "nested deep": Kind(lambda message, _: [_json({**message, "data": _nested(150)})], "event.not_cloudevent"),
    "NUL in the source": Kind(_with(source="a\x00b"), "event.not_cloudevent"),
    "a surrogate in the type": Kind(_with(type="A\ud800"), "event.not_cloudevent"),
    "an id with spaces": Kind(_with(id="not an id!"), "event.invalid_id"),
    "an id too long": Kind(_with(id="x" * 129), "event.invalid_id"),
    "an empty id": Kind(_with(id=""), "event.not_cloudevent"),
    "an unknown type": Kind(_with(type="NOBODY_KNOWS"), "event.unknown_type"),
    "an outcome's type": Kind(_with(type="OWN_RING_COMPLETED"), "event.unknown_type", routed="event.no_listener"),
    "a field too many": Kind(_fields(more=1), "event.invalid"),
    "a field too few": Kind(_with(data={"number": 1}), "event.invalid"),
    "a text for a number": Kind(_fields(number="1"), "event.invalid"),
    "a float for a number": Kind(_fields(number=1.0), "event.invalid"),
    "true for a number": Kind(_fields(number=True), "event.invalid"),
    "NUL in a field": Kind(_fields(detail={"text": "a\x00b", "number": 1}), "event.invalid"),
    "a surrogate in a field": Kind(_fields(detail={"text": "\ud800", "number": 1}), "event.invalid"),
    "too large by little": Kind(_huge(EVENT_SIZE_LIMIT), "event.too_large"),
    "too large": Kind(_huge(1_000_000), "event.too_large"),
    "as large as the server takes": Kind(_huge(1_900_000), "event.too_large", only=("signal", "start")),
    "larger than the server takes": Kind(_huge(3_000_000), "event.too_large", only=("bus",)),
    "two arguments": Kind(lambda message, _: [b"{}", b"[]"], "event.not_cloudevent", only=_DIRECT),
    "an event by a wrong name": Kind(lambda message, _: [_json(message)], "signal.unknown", only=("signal",)),
    "a newer version": Kind(_with(dataversion=2), "event.version_newer", only=("start",)),
}
"""By name; how often each comes is left to chance, but in a run of a few hundred events each comes."""
