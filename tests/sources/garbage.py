"""Messages that are not valid events, each kind with the error code of the dead letter that it must become.

The code does not depend on the source, with two exceptions. A type without a listener has another code where the
listener is looked up by type (`Kind.routed`), and only some sources can send an empty message (`Kind.only`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from orchestrator.protocol.messages.envelope import EVENT_SIZE_LIMIT


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of garbage."""

    make: Callable[[dict[str, Any], Random], Sequence[bytes]]
    """Builds the arguments of one message from a valid one."""
    code: str
    routed: str = ""
    """The code where the listener is looked up by type, if it differs from `code`."""
    only: Sequence[str] = ()
    """The sources that can send it; empty means all of them."""


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
    "an infinite number": Kind(_bytes(b'{"data": 1e999}'), "event.not_json"),
    "a duplicate name": Kind(_doubled, "event.not_json"),
    "nested too deep to parse": Kind(_bytes(b"[" * 100_000), "event.not_json"),
    "a lone surrogate in bytes": Kind(_bytes('"\ud800"'.encode("utf-8", "surrogatepass")), "event.not_json"),
    "a list": Kind(_bytes(b"[1, 2, 3]"), "event.not_cloudevent"),
    "JSON's null": Kind(_bytes(b"null"), "event.not_cloudevent"),
    "an empty object": Kind(_bytes(b"{}"), "event.not_cloudevent"),
    "no id": Kind(_without("id"), "event.not_cloudevent"),
    "no time": Kind(_without("time"), "event.not_cloudevent"),
    "a time without a zone": Kind(_with(time="2026-01-01T12:00:00"), "event.not_cloudevent"),
    "another CloudEvents version": Kind(_with(specversion="0.3"), "event.not_cloudevent"),
    "data that is a string": Kind(_with(data="text"), "event.not_cloudevent"),
    "a version that is a string": Kind(_with(dataversion="1"), "event.not_cloudevent"),
    "version 0": Kind(_with(dataversion=0), "event.not_cloudevent"),
    "nested deeply": Kind(lambda message, _: [_json({**message, "data": _nested(150)})], "event.not_cloudevent"),
    "NUL in the source": Kind(_with(source="a\x00b"), "event.not_cloudevent"),
    "a surrogate in the type": Kind(_with(type="A\ud800"), "event.not_cloudevent"),
    "an id with spaces": Kind(_with(id="not an id!"), "event.invalid_id"),
    "an id that is too long": Kind(_with(id="x" * 129), "event.invalid_id"),
    "an empty id": Kind(_with(id=""), "event.not_cloudevent"),
    "an unknown type": Kind(_with(type="NOBODY_KNOWS"), "event.unknown_type"),
    "an outcome's type": Kind(_with(type="OWN_MARK_COMPLETED"), "event.unknown_type", routed="event.no_listener"),
    "an unknown field": Kind(_fields(more=1), "event.invalid"),
    "a missing field": Kind(_with(data={"number": 1}), "event.invalid"),
    "a string for a number": Kind(_fields(number="1"), "event.invalid"),
    "a float for a number": Kind(_fields(number=1.0), "event.invalid"),
    "true for a number": Kind(_fields(number=True), "event.invalid"),
    "NUL in a field": Kind(_fields(detail={"text": "a\x00b", "number": 1}), "event.invalid"),
    "a surrogate in a field": Kind(_fields(detail={"text": "\ud800", "number": 1}), "event.invalid"),
    "slightly too large": Kind(_huge(EVENT_SIZE_LIMIT), "event.too_large"),
    "too large": Kind(_huge(1_000_000), "event.too_large"),
    "as large as the server accepts": Kind(_huge(1_900_000), "event.too_large", only=("signal", "start")),
    "larger than the server accepts": Kind(_huge(3_000_000), "event.too_large", only=("bus",)),
    "two arguments": Kind(lambda message, _: [b"{}", b"[]"], "event.not_cloudevent", only=_DIRECT),
    "an event by a wrong signal name": Kind(lambda message, _: [_json(message)], "signal.unknown", only=("signal",)),
    "a newer version": Kind(_with(dataversion=2), "event.version_newer", only=("start",)),
}
"""By name. A plan with enough bad messages contains each kind at least once; the rest are drawn at random."""
