"""Resource quantities: `500m`, `16Gi`, `1`."""

from decimal import Decimal

_SUFFIXES = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(1000),
    "M": Decimal(1000) ** 2,
    "G": Decimal(1000) ** 3,
    "Ki": Decimal(1024),
    "Mi": Decimal(1024) ** 2,
    "Gi": Decimal(1024) ** 3,
    "Ti": Decimal(1024) ** 4,
}


def parse(quantity: str | float) -> Decimal:
    """The plain number of a quantity.

    Raises:
        KeyError: unknown suffix.
    """
    shown = str(quantity)
    digits = shown.rstrip("mkMGTKi")
    return Decimal(digits) * _SUFFIXES[shown[len(digits) :]]


def text(quantity: str | float) -> str:
    """Canonical text of a fraction: 0.5 is `500m`."""
    value = parse(quantity)
    return f"{int(value * 1000)}m" if value % 1 else str(int(value))
