"""The lineage of a run as SVG: generations from left to right, the path to the best along the top.

It stays readable for thousands of candidates because childless siblings are drawn as one mark with their number once
there are many, and because the path that matters never leaves the first lane.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from evolvent.report import figures
from evolvent.report.markup import Markup, el
from evolvent.report.values import Candidate

BUNDLED_ABOVE = 60
"""With more candidates than this, childless siblings share a mark."""
LARGEST = 12.0
MARGIN = 26.0


@dataclass
class Node:
    """A candidate, or a bundle of childless siblings, with its place: generation and lane."""

    members: list[Candidate]
    children: list["Node"] = field(default_factory=list)
    size: int = 1
    lane: int = 0
    column: int = 0

    @property
    def first(self) -> Candidate:
        return self.members[0]


def grow(candidates: Sequence[Candidate]) -> list[Node]:
    """Link every candidate to its first parent; those without one known are roots."""
    nodes: dict[str, Node] = {}
    roots: list[Node] = []
    for candidate in candidates:
        node = nodes[candidate.candidate] = Node([candidate])
        parent = nodes.get(candidate.parents[0]) if candidate.parents else None
        (parent.children if parent else roots).append(node)
    every = list(nodes.values())
    if len(every) > BUNDLED_ABOVE:
        for node in every:
            node.children = _bundled(node.children)
    for node in reversed(every):
        node.size = 1 + sum(child.size for child in node.children)
        node.children.sort(key=lambda child: (not child.first.on_path, -child.size))
    return sorted(roots, key=lambda root: (not root.first.on_path, -root.size))


def _bundled(children: list[Node]) -> list[Node]:
    """Make one node of the childless, except the best, which is on the path."""
    kept: list[Node] = []
    bare: list[Node] = []
    for child in children:
        (kept if child.children or child.first.on_path else bare).append(child)
    return [*kept, Node([child.first for child in bare])] if len(bare) > 1 else children


def settle(roots: Iterable[Node]) -> list[Node]:
    """Give every node its lane and column, parents first.

    A node and its first children in a row share a lane: the nearest below everything that stands in their columns or
    in that of the line which leads to them. The branches of a row are placed deepest first, so that no line crosses a
    node.
    """
    placed: list[Node] = []
    lowest: dict[int, int] = {}
    waiting = [(root, 0) for root in reversed(list(roots))]
    while waiting:
        node, column = waiting.pop()
        row = list(_row(node))
        columns = range(max(column - 1, 0), column + len(row))
        lane = 1 + max(lowest.get(each, -1) for each in columns)
        lowest.update(dict.fromkeys(columns, lane))
        for place, member in enumerate(row, start=column):
            member.lane, member.column = lane, place
            waiting += [(child, place + 1) for child in reversed(member.children[1:])]
        placed += row
    return placed


def _row(node: Node) -> Iterator[Node]:
    """Follow first children."""
    yield node
    while node.children:
        node = node.children[0]
        yield node


@dataclass(frozen=True)
class Grid:
    """How far generations and lanes lie apart."""

    step: float
    row: float

    @classmethod
    def of(cls, columns: int, lanes: int) -> "Grid":
        return cls(max(44.0, min(90.0, 900 / max(columns, 1))), max(24.0, min(30.0, 420 / max(lanes, 1))))

    def place(self, node: Node) -> tuple[float, float]:
        return MARGIN + node.column * self.step, MARGIN + node.lane * self.row


def tree(candidates: Sequence[Candidate]) -> Markup:
    """Draw the lineage."""
    nodes = settle(grow(candidates))
    if not nodes:
        return el("p", "No candidate was proposed, so there is no lineage.", class_="empty")
    columns, lanes = max(node.column for node in nodes), max(node.lane for node in nodes)
    grid = Grid.of(columns, lanes)
    width, height = 2 * MARGIN + columns * grid.step + 60, 2 * MARGIN + lanes * grid.row
    edges = [_edge(node, child, grid) for node in nodes for child in node.children]
    body = [*edges, *_extra(nodes, grid), *(_mark(node, grid) for node in nodes)]
    label = f"Lineage of {figures.counted(len(candidates), 'candidate')}"
    size = {"width": math.ceil(width), "height": math.ceil(height)}
    svg = el("svg", *body, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, **size)
    return el("div", svg, class_="scroll tree", tabindex=0, role="region", aria_label=label)


def _edge(parent: Node, child: Node, grid: Grid) -> Markup:
    """Draw a right-angled line: down in the parent's column, then across."""
    (x, y), (to_x, to_y) = grid.place(parent), grid.place(child)
    kind = "edge on-path" if child.first.on_path else "edge"
    bend = min(10.0, grid.step / 2)
    shape = f"M{x:.1f} {y:.1f}H{to_x:.1f}" if y == to_y else f"M{x:.1f} {y:.1f}V{to_y - bend:.1f}"
    if y != to_y:
        shape += f"Q{x:.1f} {to_y:.1f} {x + bend:.1f} {to_y:.1f}H{to_x:.1f}"
    return el("path", class_=kind, d=shape)


def _extra(nodes: Sequence[Node], grid: Grid) -> Iterable[Markup]:
    """Draw the further parents of recombined candidates, of those that are drawn singly."""
    places = {node.first.candidate: grid.place(node) for node in nodes if len(node.members) == 1}
    for node in nodes:
        for name in node.first.parents[1:] if len(node.members) == 1 else ():
            if name in places:
                (x, y), (to_x, to_y) = places[name], grid.place(node)
                yield el("line", class_="edge further", x1=x, y1=y, x2=to_x, y2=to_y)


def _mark(node: Node, grid: Grid) -> Markup:
    x, y = grid.place(node)
    if len(node.members) > 1:
        return _bundle(node, x, y)
    one = node.first
    result = f"score {figures.score(one.score)}" if one.score is not None else one.failure or one.status
    told = el("title", f"{one.candidate}: {result}. {one.motivation[:200]}")
    kind = f"node {one.status}" + (" on-path" if one.on_path else "")
    text = el("text", one.candidate, class_="name", x=x, y=y - 9)
    return el(
        "a", told, el("circle", class_=kind, cx=x, cy=y, r=5.5 if one.on_path else 4.5), text,
        href=f"#c-{one.candidate}", tabindex=None if one.on_path else -1,
    )  # fmt: skip


def _bundle(node: Node, x: float, y: float) -> Markup:
    count = len(node.members)
    states = {
        state: sum(each.status == state for each in node.members) for state in ("measured", "failed", "duplicate")
    }
    told = ", ".join(f"{number} {state}" for state, number in states.items() if number)
    shown = ", ".join(each.candidate for each in node.members[:12]) + (" …" if count > 12 else "")
    return el(
        "g",
        el("title", f"{figures.counted(count, 'childless sibling')} ({told}): {shown}"),
        el("circle", class_="bundle", cx=x, cy=y, r=min(LARGEST, 5 + math.log2(count))),
        el("text", f"\N{MULTIPLICATION SIGN}{count}", class_="count", x=x + 15, y=y + 4),
    )
