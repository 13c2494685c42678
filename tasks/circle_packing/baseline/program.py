"""Equal circles side by side along the middle of the unit square."""

import numpy as np


def pack(n):
    """Return [n, 3] of x, y, radius."""
    radius = 0.5 / n
    x = (2 * np.arange(n) + 1) * radius
    return np.column_stack([x, np.full(n, 0.5), np.full(n, radius * (1 - 1e-9))])
