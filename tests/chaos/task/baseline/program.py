"""A point in the plane."""


def point():
    """Return x and y."""
    x = 0.9
    y = 0.1
    step = 0.25
    for _turn in range(3):
        x = x - step * 0.5
        y = y + step * 0.4
        step = step * 0.8
    return [x, y]
