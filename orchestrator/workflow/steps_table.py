"""The table of steps that the Web UI shows while a saga runs."""

from dataclasses import dataclass, field


@dataclass
class StepsTable:
    """A saga's steps and their states as Markdown. It contains no arguments, because those may be personal data."""

    title: str
    _rows: dict[int, tuple[str, str]] = field(default_factory=dict[int, tuple[str, str]])

    def set(self, number: int, operation: str, state: str) -> None:
        """Set the operation and the state of a step."""
        self._rows[number] = (operation, state)

    def update(self, number: int, state: str) -> None:
        """Set the state of a step, if the step is in the table."""
        if number in self._rows:
            self._rows[number] = (self._rows[number][0], state)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [f"**{self.title}**", "", "| step | operation | state |", "|---|---|---|"]
        lines += [f"| {number} | `{name}` | {state} |" for number, (name, state) in sorted(self._rows.items())]
        return "\n".join(lines)
