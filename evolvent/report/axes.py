"""Axes of a small chart: where a value lies in the picture, and round values to mark."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from evolvent.report.markup import Markup, el

WIDTH, HEIGHT = 760.0, 320.0
"""The picture in its own units; the page scales it to the column."""
LEFT, RIGHT, TOP, BOTTOM = 76.0, 16.0, 26.0, 56.0


@dataclass(frozen=True)
class Axis:
    """Maps values to places; the range is never empty."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Give the place of a value; what lies outside is put at the edge."""
        low, high, inside = self._shown(self.low), self._shown(self.high), self._shown(value)
        share = min(1.0, max(0.0, (inside - low) / (high - low)))
        return self.start + share * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def _shown(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value

    def ticks(self) -> list[float]:
        """List round values within the range: powers of ten, or about five steps of 1, 2 or 5."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, math.ceil((last - first) / 6))
            return [10.0**power for power in range(first, last + 1, stride)]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough * 0.999)
        count = math.floor(self.high / step + 1e-9) - (first := math.ceil(self.low / step - 1e-9))
        return [(first + k) * step for k in range(count + 1)]


def spread(values: Sequence[float], start: float, end: float) -> Axis:
    """Make an axis that holds these values with a margin."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return Axis(low - margin, high + margin, start, end)


def vertical(axis: Axis, name: str) -> list[Markup]:
    """Draw the vertical axis with lines across the picture."""
    ticks = axis.ticks()
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=1.0)
    return [
        *(el("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=axis.at(tick), y2=axis.at(tick)) for tick in ticks),
        *(
            el("text", label(tick, step, log=axis.log), class_="tick end", x=LEFT - 8, y=axis.at(tick) + 4)
            for tick in ticks
        ),
        el("text", name, class_="axis", x=12, y=(TOP + HEIGHT - BOTTOM) / 2, transform=_turned()),
    ]


def _turned() -> str:
    return f"rotate(-90 12 {(TOP + HEIGHT - BOTTOM) / 2:g})"


def horizontal(axis: Axis, name: str) -> list[Markup]:
    """Draw the horizontal axis; its values are whole."""
    ticks = [tick for tick in axis.ticks() if tick == int(tick) and axis.holds(tick)]
    base = HEIGHT - 20
    return [
        *(el("text", f"{tick:.0f}", class_="tick", x=axis.at(tick), y=base) for tick in ticks),
        el("text", name, class_="axis", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4),
    ]


def label(tick: float, step: float, *, log: bool) -> str:
    """Spell a tick with as many decimals as its step needs."""
    if log or not 1e-4 <= step < 1e6:
        return f"{tick:.3g}"
    return f"{tick:.{max(0, -math.floor(math.log10(step)))}f}"
