"""Slices of a long run, so that each landing does a part of it and a few landings do all."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Slice:
    """Every n-th item, beginning with one of the first n."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """Read `i/n`. The number is taken modulo n, so that a count of commits can be one.

        Raises:
            ValueError: the text is not of that form, or n is 0.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or int(found[2]) == 0:
            raise ValueError(f"{text!r} is not a slice: write i/n, such as 3/17")
        return cls(int(found[1]) % int(found[2]), int(found[2]))

    def of(self, items: Sequence[T]) -> list[T]:
        """The items in this slice. Each item is in exactly one of the n slices."""
        return list(items[self.number :: self.count])


WHOLE = Slice(0, 1)
