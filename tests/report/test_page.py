"""The page: it fetches nothing, runs nothing of the log's, and says something in every section of any run."""

import base64
import hashlib
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings

from evolvent.errors import Refused
from evolvent.report import Report, render, tell, write
from evolvent.report.axes import Axis, spread
from evolvent.report.markup import VOID, escape, plain
from evolvent.report.page import PARTS
from evolvent.report.tree import BUNDLED_ABOVE, grow, settle
from tests.report.logs import HOSTILE, RUN, Writer, written

REFERENCES = {"href", "src", "srcset", "action", "formaction", "data", "poster", "xlink:href", "background", "ping"}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "nav", "section", "h1", "h2", "h3", "p", "b",
    "a", "span", "div", "dl", "dt", "dd", "ul", "ol", "li", "strong", "time", "pre", "details", "summary", "figure",
    "figcaption", "table", "thead", "tbody", "tr", "th", "td", "label", "input", "select", "option", "output", "svg",
    "g", "wbr", "path", "circle", "line", "text", "script",
}  # fmt: skip


@dataclass
class Page(HTMLParser):
    """What a browser would make of the page."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)
    _section: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
        if tag not in VOID | {"wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._section = "" if tag == "section" else self._section

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)
        if self._section:
            self.sections[self._section] = self.sections.get(self._section, "") + data

    @property
    def text(self) -> str:
        return "".join(text for tag, texts in self.texts.items() if tag not in {"script", "style"} for text in texts)


def read(report: Report) -> Page:
    page = Page()
    page.feed(render(report))
    page.close()
    assert page.open == []
    return page


def harmless(page: Page) -> None:
    """Only tags of ours, no reference that leaves the page, no handler, our own script and style and no other."""
    for tag, attributes in page.tags:
        assert tag in TAGS
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            assert name not in REFERENCES or (tag == "a" and value and value.startswith("#"))
    assert page.texts["script"] == [asset("page.js")]
    assert page.texts["style"] == [asset("page.css")]


def asset(name: str) -> str:
    return (files("evolvent.report") / name).read_text()


def one(words: str) -> Writer:
    """A run in which the words stand wherever text of others can stand."""
    writer = Writer(words=words).begin()
    for number in ("h0", "0", "1"):
        candidate = f"{number}.0"
        writer.open(number)
        writer.retrieve(number, [words or "none", "item-a"])
        writer.propose(candidate, ["h0.0"] if number != "h0" else [], [words])
        if number == "1":
            writer.fail(candidate)
            writer.close(number, "candidate_failed", candidate)
        else:
            writer.measure(candidate, 1.0 + len(writer.scores), "h0.0" if writer.scores else None)
            writer.close(number, "completed", candidate, writer.scores[candidate])
    writer.ask(1, {"model": words, "outcome": words, "usd": words, "tokens_in": words})
    return writer.finish("halted")


@pytest.mark.parametrize("words", HOSTILE)
def test_text_of_others_is_shown_and_never_obeyed(words: str) -> None:
    page = read(tell(one(words).records, {"program.py": words}))

    harmless(page)
    assert page.text.count(plain(words)[:200]) >= 8


@given(written())
@settings(max_examples=40, deadline=None)
def test_no_run_makes_the_page_fetch_or_run_anything(writer: Writer) -> None:
    harmless(read(tell(writer.records)))


def test_the_page_forbids_itself_everything_but_its_own_style_and_script() -> None:
    page = read(tell(one("x").records))
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")

    assert policy is not None
    assert "default-src 'none'" in policy
    for name in ("page.css", "page.js"):
        digest = base64.b64encode(hashlib.sha256(asset(name).encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_style_and_script_name_no_address() -> None:
    for name in ("page.css", "page.js"):
        assert not re.search(r"https?:|//\w|url\(|@import|fetch\(|import\(|innerHTML|eval", asset(name))


def unmeasured() -> Writer:
    writer = Writer().begin()
    writer.open("h0")
    writer.propose("h0.0")
    writer.fail("h0.0")
    writer.close("h0", "candidate_failed", "h0.0")
    return writer.finish("failed")


ODD = {
    "just started": Writer().begin(),
    "no candidate measured": unmeasured(),
    "one round, halted": one("halt"),
    "every round lost": Writer().begin(),
    "still running": one("runs"),
}
ODD["every round lost"].close("0", "expired")
ODD["still running"].records.pop()


@pytest.mark.parametrize("name", ODD)
def test_every_section_says_something_of_an_odd_run(name: str) -> None:
    page = read(tell(ODD[name].records))

    assert list(page.sections) == list(PARTS)
    for part, text in page.sections.items():
        heading = page.texts["h2"][list(PARTS).index(part)]
        assert len(text.replace(heading, "").strip()) > 10, part


def test_a_search_score_is_called_a_claim_on_the_proxy_with_n_and_noise() -> None:
    worth = read(tell(one("x").records)).sections["standing"]

    assert "A claim on the search proxy, not a discovery." in worth
    assert "n = 1 seed" in worth
    assert "seed noise" in worth


def test_links_lead_to_rows_that_are_there() -> None:
    page = read(tell(one("x").records))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}

    assert len(ids) == sum("id" in attrs for _, attrs in page.tags)
    assert {attrs["href"] for _, attrs in page.tags if "href" in attrs} <= {f"#{name}" for name in ids}


def test_the_page_is_a_rendering_of_the_json(tmp_path: Path) -> None:
    page = write(tell(one("<i>").records), tmp_path / "deep" / "report.html")
    report = Report.model_validate_json(page.with_suffix(".json").read_bytes())

    assert render(report) == page.read_text()


def test_a_place_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot be written"):
        write(tell(one("x").records), tmp_path / "file" / "report.html")


def lineage(parents: list[str]) -> Writer:
    """Candidate n hangs on the n-th of these; each is a little better than the one before."""
    writer = Writer().begin()
    for number, parent in enumerate(parents):
        writer.propose(f"{number}.0", [parent] if parent else [])
        writer.measure(f"{number}.0", number / 1e4)
    return writer


SHAPES = {
    "a chain": ["", *(f"{n}.0" for n in range(1999))],
    "a star": ["", *("0.0" for _ in range(1999))],
    "a binary tree": ["", *(f"{(n - 1) // 2}.0" for n in range(1, 2000))],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_two_thousand_candidates_are_laid_out_without_two_in_one_place(shape: str) -> None:
    report = tell(lineage(SHAPES[shape]).records)
    nodes = settle(grow(report.candidates))

    assert sum(len(node.members) for node in nodes) == 2000 > BUNDLED_ABOVE
    assert len({(node.lane, node.column) for node in nodes}) == len(nodes)
    assert all(node.lane == 0 for node in nodes if node.first.on_path)
    assert all(child.column == node.column + 1 for node in nodes for child in node.children)
    assert len(render(report)) < 6_000_000


def test_no_line_of_the_tree_crosses_a_node() -> None:
    """A line runs down its parent's column and then across its own lane."""
    nodes = settle(grow(tell(lineage(SHAPES["a binary tree"][:200]).records).candidates))
    places = {(node.lane, node.column) for node in nodes}
    for node in nodes:
        for child in node.children[1:]:
            assert not places & {(lane, node.column) for lane in range(node.lane + 1, child.lane + 1)}


def test_what_no_reader_sees_is_replaced() -> None:
    assert escape("a\u202eb\x00\u2028\ud800<") == "a\ufffdb\ufffd\ufffd\ufffd&lt;"
    assert escape("tab\tline\n") == "tab\tline\n"


@pytest.mark.parametrize("values", [[0.0], [1e-300, 2e-300], [5.0, 5.0], [-1e12, 1e12], [0.49, 2.63]])
def test_an_axis_marks_round_values_within_its_range(values: list[float]) -> None:
    axis = spread(values, 100.0, 0.0)

    assert 2 <= len(axis.ticks()) <= 12
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())
    assert all(0 <= axis.at(value) <= 100 for value in values)


def test_a_logarithmic_axis_marks_powers_of_ten() -> None:
    assert [1e-3, 1e-2, 1e-1, 1.0] == pytest.approx(Axis(1e-3, 2.0, 0, 100, log=True).ticks())


def test_the_run_is_named_in_the_title() -> None:
    assert read(tell(one("x").records)).texts["title"][0].startswith(RUN)
