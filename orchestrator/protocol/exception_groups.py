"""Interprets exception groups from an author's code, such as those that `asyncio.TaskGroup` raises.

A refusal counts even if it is deep inside a group and next to other errors, because the step is rolled back in any case
and a retry would be refused again. An external call cannot be rolled back. For it, a refusal means that nothing
happened, and another error next to the refusal makes that uncertain.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from orchestrator.errors import AuthorsMistake, Refused

E = TypeVar("E", bound=Exception)


def leaves(fault: BaseException) -> Iterator[BaseException]:
    """Yield the errors inside nested groups, in order. An error that is not a group yields itself."""
    pending = [fault]
    while pending:
        first = pending.pop(0)
        inner = _inside(first)
        if inner is None:
            yield first
        else:
            pending[:0] = inner


@contextmanager
def ungrouped(*, is_external: bool = False) -> Generator[None]:
    """Context manager that replaces an exception group by the first refusal in it.

    A group that contains an author's mistake and no refusal is replaced by that mistake. Any other group is unchanged.

    Args:
        is_external: whether the code calls an external service. A group then counts as a refusal only if it contains
            nothing else, because a call that failed otherwise may have happened and must be verified or compensated.
    """
    try:
        yield
    except ExceptionGroup as group:
        refusal = _first(group, Refused)
        if is_external and not all(isinstance(leaf, Refused) for leaf in leaves(group)):
            refusal = None
        answer = refusal or _first(group, AuthorsMistake)
        if answer is None:
            raise
        raise answer from None


def _inside(fault: object) -> tuple[BaseException, ...] | None:
    return cast(Any, fault).exceptions if isinstance(fault, BaseExceptionGroup) else None


def _first(group: BaseException, kind: type[E]) -> E | None:
    return next((leaf for leaf in leaves(group) if isinstance(leaf, kind)), None)
