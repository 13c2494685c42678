"""The page: one HTML document that fetches nothing, and a policy in it that forbids it to."""

import base64
import hashlib
from importlib.resources import files

from evolvent.report import sections
from evolvent.report.markup import Markup, el
from evolvent.report.values import Report

PARTS = {
    "standing": ("Worth", sections.standing),
    "curve": ("Curve", sections.curve),
    "lineage": ("Lineage", sections.lineage),
    "candidates": ("Candidates", sections.candidates),
    "lessons": ("Lessons", sections.lessons),
    "knowledge": ("Knowledge", sections.knowledge),
    "proposers": ("Proposers", sections.proposers),
    "cost": ("Cost", sections.costs),
    "ending": ("Ending", sections.ending),
    "settings": ("Settings", sections.settings),
    "check": ("Check", sections.check),
    "program": ("Program", sections.program),
}
"""Every section by its id: its name in the table of contents, and what renders it."""


def render(report: Report) -> str:
    """Render a report; nothing is read but the report itself."""
    style, script = _asset("page.css"), _asset("page.js")
    top = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{report.run}: {report.title}"),
        el("style", style),
    )
    contents = el("nav", (el("a", name, href=f"#{part}") for part, (name, _) in PARTS.items()), aria_label="Contents")
    main = el("main", sections.head(report), contents, (show(report) for _, show in PARTS.values()), id="main")
    skip = el("a", "Skip to the candidates", href="#candidates", class_="skip")
    return "<!doctype html>\n" + el("html", top, el("body", skip, main, el("script", script)), lang="en") + "\n"


def _asset(name: str) -> Markup:
    return Markup((files("evolvent.report") / name).read_text())


def _policy(style: str, script: str) -> str:
    """Allow this style and this script only, so that whatever slipped through could neither run nor load."""
    return (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
