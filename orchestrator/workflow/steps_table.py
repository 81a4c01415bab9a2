"""What the Web UI shows of a saga while it runs: its steps as a table."""

from dataclasses import dataclass, field


@dataclass
class StepsTable:
    """Steps with what became of them, as Markdown. Holds names and codes, no arguments: those may be personal."""

    title: str
    _rows: dict[int, tuple[str, str]] = field(default_factory=dict[int, tuple[str, str]])

    def set(self, number: int, operation: str, state: str) -> None:
        """Note where a step stands."""
        self._rows[number] = (operation, state)

    def say(self, number: int, state: str) -> None:
        """Change where a known step stands."""
        if number in self._rows:
            self._rows[number] = (self._rows[number][0], state)

    def markdown(self) -> str:
        """The table."""
        lines = [f"**{self.title}**", "", "| step | operation | state |", "|---|---|---|"]
        lines += [f"| {number} | `{name}` | {state} |" for number, (name, state) in sorted(self._rows.items())]
        return "\n".join(lines)
