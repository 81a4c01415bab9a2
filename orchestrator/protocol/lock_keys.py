"""Which locks a saga takes, as its orchestrator says; checked, because they come from an event."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from orchestrator.errors import UsageError
from orchestrator.event import DomainEvent, unstorable
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.containment import contained

KEYS_LIMIT = 100
"""Keys of one saga."""
KEY_LIMIT = 512
"""Characters of one key."""


@dataclass(frozen=True, slots=True)
class LockKeys:
    """The keys of one saga, all in one namespace: who has one of them first goes first."""

    keys: tuple[str, ...]
    """Sorted, each once; the ordering key is among them."""
    ordering_key: str | None


def lock_keys_of(orchestrator: type[Orchestrator[Any, Any, Any]], event: DomainEvent) -> LockKeys:
    """What an orchestrator's `locks` and `ordering_key` say of an event.

    Raises:
        UsageError: they say something that can be no key.
    """
    name = orchestrator.__name__
    with contained(f"{name}.locks"):
        declared = orchestrator()
        given = cast(object, declared.locks(event))
        ordering_key = declared.ordering_key(event)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise UsageError(f'{name}.locks must return a list of keys, as in `return [f"user/{{event.user_id}}"]`')
    keys = {_checked(f"{name}.locks", key) for key in cast(Sequence[object], given)}
    ordered = None if ordering_key is None else _checked(f"{name}.ordering_key", ordering_key)
    if ordered is not None:
        keys.add(ordered)
    if len(keys) > KEYS_LIMIT:
        raise UsageError(
            f"{name} locks {len(keys)} keys for one saga and {KEYS_LIMIT} are the most: lock what holds them"
        )
    return LockKeys(tuple(sorted(keys)), ordered)


def _checked(where: str, key: object) -> str:
    if not isinstance(key, str):
        raise UsageError(f"{where} gave {key!r} as a key, and a key is text")
    if not 1 <= len(key) <= KEY_LIMIT:
        raise UsageError(f"{where} gave a key of {len(key):,} characters, and a key has 1 to {KEY_LIMIT}")
    if (why := unstorable(key)) is not None:
        raise UsageError(f"{where} gave {key!r} as a key, and {why}")
    return key
