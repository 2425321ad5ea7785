"""The table: a row is what was measured, its figure, and whether that meets its target."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A figure with its unit. `target` is the most that it may be, or with `at_least` the least; None for none."""

    name: str
    figure: float
    unit: str
    target: float | None = None
    at_least: bool = False

    @property
    def is_met(self) -> bool | None:
        if self.target is None:
            return None
        return self.figure >= self.target if self.at_least else self.figure <= self.target

    def __str__(self) -> str:
        figure = f"{_short(self.figure)} {self.unit}"
        if self.target is None:
            return f"{self.name:<70} {figure:>16}"
        limit = f"{'at least' if self.at_least else 'at most'} {_short(self.target)}"
        return f"{self.name:<70} {figure:>16}   {limit:<16} {'met' if self.is_met else 'NOT MET'}"


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"
