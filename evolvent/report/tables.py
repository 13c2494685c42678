"""Tables that a reader can sort and filter; each cell knows the value it is sorted by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evolvent.report import figures
from evolvent.report.markup import Child, Markup, el, join
from evolvent.report.values import Candidate, Citation, Gains, Report, Taught


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, and what it is sorted by where that is a number."""

    shown: Child
    number: float | None = None
    numeric: bool = False


def number(value: float | None, shown: str) -> Cell:
    return Cell(shown, value, numeric=True)


def count(value: int) -> Cell:
    return Cell(f"{value:,}", value, numeric=True)


@dataclass(frozen=True)
class Row:
    """Cells, and what the row is known by."""

    cells: Sequence[Cell]
    id: str = ""
    kind: str = ""


def table(name: str, columns: Sequence[str], rows: Sequence[Row], *, kinds: Sequence[str] = ()) -> Markup:
    """Build a table; with many rows it can be searched, and by kind if there are `kinds`."""
    head = el("thead", el("tr", (el("th", column, scope="col") for column in columns)))
    body = el("tbody", (_row(row, columns) for row in rows))
    box = el("div", el("table", head, body), class_="scroll", tabindex=0, role="region", aria_label=name)
    controls = _controls(name, kinds) if len(rows) > 8 else None
    return el("div", controls, box, class_="sheet")


def _controls(name: str, kinds: Sequence[str]) -> Markup:
    """Build what only works with the page's script, hidden until it does."""
    search = el("label", "Search ", el("input", type="search", autocomplete="off"))
    options = [el("option", "all", value=""), *(el("option", kind, value=kind) for kind in kinds)]
    select = el("label", "Show ", el("select", options)) if kinds else None
    found = el("output", aria_live="polite")
    return el("div", search, select, found, class_="controls", hidden=True, role="search", aria_label=name)


def _row(row: Row, columns: Sequence[str]) -> Markup:
    cells = (_cell(cell, column) for cell, column in zip(row.cells, columns, strict=True))
    return el("tr", cells, id=row.id or None, data_kind=row.kind or None)


def _cell(cell: Cell, column: str) -> Markup:
    value = repr(float(cell.number)) if cell.number is not None else None
    kind = "number" if cell.numeric else None
    return el("td", cell.shown, data_label=column, data_value=value, class_=kind)


def link(candidate: str) -> Markup:
    """Lead to a candidate's row."""
    return el("a", candidate, href=f"#c-{candidate}")


def links(names: Iterable[str]) -> Markup:
    """Lead to several rows; nothing at all for none, so that an empty cell is empty."""
    found = join((link(name) for name in names), by=" ")
    return el("span", found) if found else found


CANDIDATE_COLUMNS = (
    "candidate", "status", "score", "gain", "motivation", "parents", "children", "proposer", "cites", "seeds",
    "compute",
)  # fmt: skip


def candidates(report: Report) -> Markup:
    """List every candidate."""
    children: dict[str, list[str]] = {}
    for each in report.candidates:
        for parent in each.parents:
            children.setdefault(parent, []).append(each.candidate)
    rows = [_candidate(place, each, children) for place, each in enumerate(report.candidates)]
    kinds = [kind for kind in ("measured", "failed", "duplicate", "proposed") if any(r.kind == kind for r in rows)]
    return table("Candidates", CANDIDATE_COLUMNS, rows, kinds=kinds)


def _candidate(place: int, each: Candidate, children: dict[str, list[str]]) -> Row:
    cells = (
        Cell(each.candidate, place),
        Cell(_status(each)),
        number(each.score, _score(each)),
        Cell(_gain(each), each.gain, numeric=True),
        Cell(_motivation(each)),
        Cell(links(each.parents)),
        _children(children.get(each.candidate, [])),
        Cell(_proposer(each.proposer)),
        Cell(" ".join(each.cited)),
        count(each.seeds),
        number(each.wall_seconds, figures.duration(each.wall_seconds) if each.wall_seconds else figures.NONE),
    )
    return Row(cells, id=f"c-{each.candidate}", kind=each.status)


def _children(names: Sequence[str]) -> Cell:
    if len(names) <= 4:
        return Cell(links(names), len(names))
    rest = el("details", el("summary", f"{len(names)}"), links(names))
    return Cell(rest, len(names))


def _status(each: Candidate) -> Markup:
    badges = [el("span", each.status, class_=f"badge {each.status}")]
    if each.claimed:
        badges.append(el("span", "claim", class_="badge claim"))
    if each.on_path:
        badges.append(el("span", "on the path", class_="badge path"))
    return el("span", badges, class_="badges")


def _score(each: Candidate) -> str:
    spread = f" ± {figures.short(each.spread)}" if each.spread is not None else ""
    return figures.score(each.score) + spread


def _proposer(name: str) -> Markup:
    """Let a line break after a slash."""
    return join(name.split("/"), by="/<wbr>")


def _gain(each: Candidate) -> str:
    return f"{figures.signed(each.gain)} over {each.against}" if each.against else figures.NONE


def _motivation(each: Candidate) -> Markup:
    more = [
        f"repeats {each.repeats}" if each.repeats else "",
        f"{each.failure}: {each.message}" if each.failure else "",
    ]
    more.append(f"repaired {figures.counted(each.repairs, 'time')}" if each.repairs else "")
    more += [f"stage {s.stage}: {s.failure or figures.score(s.score)} ({s.seeds} seeds)" for s in each.stages]
    notes = el("span", "; ".join(note for note in more if note), class_="fault") if any(more) else None
    return el("span", clipped(each.motivation), " " if notes else None, notes, class_="told")


def clipped(text: str, width: int = 240) -> Markup:
    """Show the beginning of a long text, and the rest on demand."""
    if len(text) <= width:
        return el("span", text)
    return el("details", el("summary", text[:width] + "…"), el("span", text))


def gain_cells(gains: Gains) -> tuple[Cell, ...]:
    spread = f" ± {figures.short(gains.deviation)}" if gains.deviation is not None else ""
    n = f" (n = {gains.compared})" if gains.compared else ""
    return (
        count(gains.proposed),
        count(gains.measured),
        count(gains.failed),
        count(gains.duplicates),
        count(gains.improved),
        number(gains.mean, figures.signed(gains.mean) + spread + n),
        number(gains.most, figures.signed(gains.most)),
    )


GAIN_COLUMNS = ("proposed", "measured", "failed", "duplicates", "improved", "mean gain ± sd", "most")


def citations(report: Report) -> Markup:
    """List knowledge items and lessons by how often designs cited them."""
    rows = [_citation(each) for each in report.citations]
    columns = ("id", "kind", "what it says", "retrieved", *("cited" if c == "proposed" else c for c in GAIN_COLUMNS))
    kinds = [kind for kind in ("item", "lesson", "unknown") if any(row.kind == kind for row in rows)]
    return table("Knowledge", columns, rows, kinds=kinds)


def _citation(each: Citation) -> Row:
    start = (Cell(each.id), Cell(each.kind), Cell(clipped(each.title)), count(each.retrieved))
    return Row((*start, *gain_cells(each.gains)), kind=each.kind)


def proposers(report: Report) -> Markup:
    rows = [Row((Cell(each.proposer), *gain_cells(each.gains))) for each in report.proposers]
    return table("Proposers", ("proposer", *GAIN_COLUMNS), rows)


def lessons(report: Report) -> Markup:
    rows = [_lesson(place, each) for place, each in enumerate(report.lessons)]
    return table("Lessons", ("candidate", "change", "effect", "then", "cited"), rows)


def _lesson(place: int, each: Taught) -> Row:
    lesson = each.lesson
    then = [
        f"Try: {lesson.attempt}." if lesson.attempt else "",
        f"Avoid: {lesson.avoid}." if lesson.avoid else "",
        f"Expect: {lesson.prediction}." if lesson.prediction else "",
    ]
    texts = (Cell(clipped(lesson.change)), Cell(clipped(lesson.effect)), Cell(" ".join(text for text in then if text)))
    return Row((Cell(link(each.candidate), place), *texts, count(each.cited)))


def roles(report: Report) -> Markup:
    """List what each role spent."""
    columns = ("role", "facts", "effects", "failed", "tokens", "US dollars", "in calls", "of experiments")
    rows = [
        Row(
            (
                Cell(each.role),
                count(each.facts),
                Cell(_effects(each.effects, each.repeated), each.effects, numeric=True),
                count(each.failed_effects),
                count(each.tokens),
                number(each.usd, f"{each.usd:.4f}"),
                number(each.call_seconds, figures.duration(each.call_seconds)),
                number(each.compute_seconds, figures.duration(each.compute_seconds)),
            )
        )
        for each in report.costs.roles
    ]
    return table("Cost by role", columns, rows)


def _effects(effects: int, repeated: int) -> str:
    return f"{effects:,} (+{repeated} perhaps unrecorded)" if repeated else f"{effects:,}"


def models(report: Report) -> Markup:
    """List what each model was asked."""
    columns = ("model", "calls", "unusable", "tokens in", "tokens out", "US dollars", "time")
    rows = [
        Row(
            (
                Cell(each.model),
                count(each.calls),
                count(each.unusable),
                count(each.tokens_in),
                count(each.tokens_out),
                number(each.usd, _priced(each.usd, each.unpriced)),
                number(each.wall_seconds, figures.duration(each.wall_seconds)),
            )
        )
        for each in report.costs.models
    ]
    return table("Cost by model", columns, rows)


def _priced(usd: float, unpriced: int) -> str:
    return f"{usd:.4f} and {figures.counted(unpriced, 'call')} without a price" if unpriced else f"{usd:.4f}"
