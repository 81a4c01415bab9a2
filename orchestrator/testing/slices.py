"""Slices of a long test run, so that several short runs together cover all of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Slice:
    """Every n-th item, starting at one of the first n."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """Read `i/n`. The number is taken modulo n, so that any counter can be passed.

        Raises:
            ValueError: the text does not have that form, or n is 0.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or int(match[2]) == 0:
            raise ValueError(f"{text!r} is not a slice: write i/n, such as 3/17")
        return cls(int(match[1]) % int(match[2]), int(match[2]))

    def of(self, items: Sequence[T]) -> list[T]:
        """Return the items of this slice. Each item is in exactly one of the n slices."""
        return list(items[self.number :: self.count])


WHOLE = Slice(0, 1)
