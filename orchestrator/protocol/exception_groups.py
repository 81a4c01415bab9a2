"""What an author's code says with an exception group, which is how `asyncio.TaskGroup` raises whatever its tasks raise.

A refusal is an answer, also from inside a group, however deep, and beside other errors: the step's effects are rolled
back in either case, and a retry would ask the same question again. An external call cannot be rolled back. There a
refusal says that nothing happened, which another error beside it leaves open.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from orchestrator.errors import AuthorsMistake, Refused

E = TypeVar("E", bound=Exception)


def leaves(fault: BaseException) -> Iterator[BaseException]:
    """The errors inside nested groups, in order; an error that is no group is its own and only leaf."""
    waiting = [fault]
    while waiting:
        first = waiting.pop(0)
        inner = _inside(first)
        if inner is None:
            yield first
        else:
            waiting[:0] = inner


@contextmanager
def ungrouped(*, is_external: bool = False) -> Generator[None]:
    """Around an author's code: a group with a refusal in it is raised as that refusal, the first if there are several.

    A group with an author's mistake in it, and no refusal, is raised as that mistake. Any other group stays as it is.

    Args:
        is_external: the code calls an external service. Then a group is a refusal only if nothing else is in it: what
            another error stands for may have happened, and has to be verified or taken back.
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
