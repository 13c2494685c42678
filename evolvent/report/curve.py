"""The best-so-far curve as SVG."""

from collections.abc import Iterable, Sequence

from evolvent.report import axes, figures
from evolvent.report.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis
from evolvent.report.markup import Markup, el
from evolvent.report.values import Point, Report

FAILED_AT = HEIGHT - BOTTOM + 14
"""Failures stand in a strip of their own, because they have no score."""
CLEARER = 30.0
"""So many times must the distance to the best known shrink before it gets a logarithmic picture of its own."""


def curve(report: Report) -> Markup:
    """Draw score against place in the log, with the baseline and the best known value as lines."""
    points = report.curve
    if not points:
        return el("p", "Nothing was measured, so there is no curve.", class_="empty")
    across = _across(points)
    up = _up(report)
    body = [
        *axes.vertical(up, report.objective.metric),
        *axes.horizontal(across, "rounds, in the order in which they were settled"),
        *_references(report, up),
        *_marks(points, across, up),
        _line(points, across, up),
    ]
    return _picture(body, f"Best score so far and every measurement of run {report.run}")


def _picture(body: Iterable[Markup], label: str) -> Markup:
    svg = el("svg", *body, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", aria_label=label)
    return el("div", svg, class_="chart", tabindex=0, role="region", aria_label=label)


def _across(points: Sequence[Point]) -> Axis:
    return Axis(-0.5, max(len(points) - 0.5, 1.0), LEFT, WIDTH - RIGHT)


def _up(report: Report) -> Axis:
    """Hold the curve, its lines, and whatever else lies within one more span of them; the rest is put at the edge."""
    lines = [report.objective.best_known, *(point.best for point in report.curve)]
    core = [value for value in lines if value is not None] or [0.0]
    span = max(core) - min(core)
    scores = (point.score for point in report.curve if point.score is not None)
    near = [score for score in scores if min(core) - span <= score <= max(core) + span]
    return axes.spread([*core, *near], HEIGHT - BOTTOM, TOP)


def _references(report: Report, up: Axis) -> Iterable[Markup]:
    baseline = report.standing.baseline
    known = report.objective.best_known
    for name, value in (("baseline", baseline.score if baseline else None), ("best known", known)):
        if value is not None:
            y = up.at(value)
            kind = name.replace(" ", "-")
            yield el("line", class_=f"reference {kind}", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
            text = f"{name} {figures.score(value)}"
            yield el("text", text, class_=f"note {kind} end", x=WIDTH - RIGHT - 4, y=y - 5)


def _marks(points: Sequence[Point], across: Axis, up: Axis) -> Iterable[Markup]:
    radius = 3.5 if len(points) <= 200 else 2.2
    return (_mark(point, across.at(place), up, radius) for place, point in enumerate(points))


def _mark(point: Point, x: float, up: Axis, radius: float) -> Markup:
    told = el("title", _told(point))
    if point.score is None:
        r = radius
        cross = f"M{x - r:.1f} {FAILED_AT - r:.1f}l{2 * r:g} {2 * r:g}m0 {-2 * r:g}l{-2 * r:g} {2 * r:g}"
        return _linked(point, el("g", told, el("path", class_="failed", d=cross)))
    y = up.at(point.score)
    if not up.holds(point.score):
        tip = 5 if y > HEIGHT / 2 else -5
        return _linked(point, el("g", told, el("path", class_="beyond", d=f"M{x - 4:.1f} {y:.1f}h8l-4 {tip}z")))
    kind = "score leads" if point.leads else "score"
    return _linked(point, el("g", told, el("circle", class_=kind, cx=round(x, 1), cy=round(y, 1), r=radius)))


def _linked(point: Point, mark: Markup) -> Markup:
    """Lead to the candidate's row; the table is how the keyboard gets there, so the marks stay out of its way."""
    return el("a", mark, href=f"#c-{point.candidate}", tabindex=-1) if point.candidate else mark


def _told(point: Point) -> str:
    what = f"score {figures.score(point.score)}" if point.score is not None else point.fault
    who = f", candidate {point.candidate}" if point.candidate else ""
    return f"round {point.round}{who}: {what[:300]}"


def _line(points: Sequence[Point], across: Axis, up: Axis) -> Markup:
    """Draw the best so far as steps."""
    known = [(across.at(place), up.at(point.best)) for place, point in enumerate(points) if point.best is not None]
    if not known:
        return Markup("")
    steps = f"M{known[0][0]:.1f} {known[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in known[1:])
    return el("path", class_="best-line", d=steps)


def distance(report: Report) -> Markup:
    """Draw the distance to the best known value, logarithmically, where the plain curve hides how it shrank."""
    gaps = _gaps(report)
    positive = [gap for gap in gaps if gap is not None and gap > 0]
    if not positive or max(positive) < CLEARER * min(positive):
        return Markup("")
    floor = min(positive) / 1.5
    up = Axis(floor, max(positive) * 1.5, HEIGHT - BOTTOM, TOP, log=True)
    across = _across(report.curve)
    known = [(across.at(place), up.at(max(gap, floor))) for place, gap in enumerate(gaps) if gap is not None]
    steps = f"M{known[0][0]:.1f} {known[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in known[1:])
    body = [
        *axes.vertical(up, "short of best known"),
        *axes.horizontal(across, "rounds, in the order in which they were settled"),
        el("path", class_="best-line", d=steps),
    ]
    caption = "How far the best so far is short of the best known value, on a logarithmic scale."
    if any(gap is not None and gap <= 0 for gap in gaps):
        caption += " Where the line lies on the lower edge, the best known value is reached or passed."
    return el("figure", _picture(body, "Distance to the best known value"), el("figcaption", caption))


def _gaps(report: Report) -> list[float | None]:
    known, worth = report.objective.best_known, report.objective.fitness
    if known is None:
        return []
    return [None if point.best is None else worth(known) - worth(point.best) for point in report.curve]
