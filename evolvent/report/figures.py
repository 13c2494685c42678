"""Numbers as people read them."""

from datetime import datetime

NONE = "\N{EN DASH}"
DIGITS = 10
"""Significant digits of a score; more is noise to a reader, and `report.json` has them all."""


def score(value: float | None) -> str:
    return NONE if value is None else f"{value:.{DIGITS}g}"


def short(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.4g}"


def moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: float) -> str:
    """Give seconds in the unit that suits them."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2f} s"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Put a number before its noun."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
