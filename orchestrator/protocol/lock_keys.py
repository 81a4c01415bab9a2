"""Computes and checks the lock keys of a saga, which its orchestrator derives from an event."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from orchestrator.errors import UsageError
from orchestrator.event import DomainEvent, unstorable
from orchestrator.orchestrator import Orchestrator
from orchestrator.protocol.containment import contained

KEYS_LIMIT = 100
"""The maximum number of keys of one saga."""
KEY_LIMIT = 512
"""The maximum length of one key, in characters."""


@dataclass(frozen=True, slots=True)
class LockKeys:
    """The lock keys of one saga. All sagas share one namespace of keys."""

    keys: tuple[str, ...]
    """The keys, sorted and without duplicates. They include the ordering key."""
    ordering_key: str | None


def lock_keys_of(orchestrator: type[Orchestrator[Any, Any, Any]], event: DomainEvent) -> LockKeys:
    """Call an orchestrator's `locks` and `ordering_key` with an event, and check what they return.

    Raises:
        UsageError: they returned something that cannot be a key.
    """
    name = orchestrator.__name__
    with contained(f"{name}.locks"):
        instance = orchestrator()
        lock_keys = cast(object, instance.locks(event))
        ordering_key = instance.ordering_key(event)
    if isinstance(lock_keys, str) or not isinstance(lock_keys, Sequence):
        raise UsageError(f'{name}.locks must return a list of keys, as in `return [f"user/{{event.user_id}}"]`')
    keys = {_checked(f"{name}.locks", key) for key in cast(Sequence[object], lock_keys)}
    if ordering_key is not None:
        keys.add(_checked(f"{name}.ordering_key", ordering_key))
    if len(keys) > KEYS_LIMIT:
        raise UsageError(
            f"{name} locks {len(keys)} keys for one saga and the limit is {KEYS_LIMIT}. "
            "Lock one key that stands for all of them"
        )
    return LockKeys(tuple(sorted(keys)), ordering_key)


def _checked(where: str, key: object) -> str:
    if not isinstance(key, str):
        raise UsageError(f"{where} returned {key!r} as a key, and a key must be a string")
    if not 1 <= len(key) <= KEY_LIMIT:
        raise UsageError(f"{where} returned a key of {len(key):,} characters, and a key has 1 to {KEY_LIMIT}")
    if (why := unstorable(key)) is not None:
        raise UsageError(f"{where} returned {key!r} as a key, and {why}")
    return key
