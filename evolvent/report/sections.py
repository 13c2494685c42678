"""The sections of the page, each a rendering of one part of the report."""

from collections.abc import Iterable

import orjson

from evolvent.report import curve as curves
from evolvent.report import figures, tables
from evolvent.report.markup import Child, Markup, el
from evolvent.report.tables import link
from evolvent.report.tree import tree
from evolvent.report.values import Candidate, Estimate, Report, Verdict


def section(name: str, title: str, *body: Child) -> Markup:
    return el("section", el("h2", title, id=f"h-{name}"), *body, id=name, aria_labelledby=f"h-{name}")


def pairs(rows: Iterable[tuple[str, Child]]) -> Markup:
    return el("dl", (el("div", el("dt", name), el("dd", value)) for name, value in rows))


def head(report: Report) -> Markup:
    """Say in the first screen what was searched, what came of it and what it is worth."""
    standing, objective = report.standing, report.objective
    aim = f"{objective.metric}, {objective.direction}d"
    tiles = [
        ("baseline", _estimate(standing.baseline)),
        ("best on the proxy", _estimate(standing.best)),
        ("gain over the baseline", figures.signed(standing.gain)),
        ("rounds", f"{report.rounds.closed} of {report.rounds.budget}, {report.rounds.failed} failed"),
        ("candidates", f"{report.counts.measured} measured, {report.counts.failed} failed"),
        ("took", figures.duration((report.last - report.started).total_seconds())),
    ]
    return el(
        "header",
        el("p", "Run ", el("b", report.run), " ", el("span", report.state, class_=f"badge state-{report.state}")),
        el("h1", report.title),
        el("p", f"{aim} · {figures.moment(report.started)} · seed {report.settings.seed}", class_="quiet"),
        el(
            "div", (el("div", el("span", name), el("b", value), class_="tile") for name, value in tiles), class_="tiles"
        ),
    )


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return "none"
    if found.low is None or found.high is None:
        return figures.score(found.score)
    return f"{figures.score(found.score)} [{figures.score(found.low)}, {figures.score(found.high)}]"


def standing(report: Report) -> Markup:
    """Say what the numbers are worth."""
    found = report.standing
    facts = [
        ("measured at", f"stage {found.stage}, the search proxy"),
        ("best", _named(found.best)),
        ("baseline", _named(found.baseline)),
        ("against the best known", _gap(report)),
        ("seed noise", _noise(report)),
        ("claims on the log", f"{len(found.claims)}"),
    ]
    verdicts = [el("li", _verdict(verdict)) for verdict in found.verdicts]
    return section(
        "standing",
        "What this is worth",
        el("p", el("strong", HEADLINES[found.word]), " ", _weight(report), class_=f"standing {found.word}"),
        pairs(facts),
        el("ul", verdicts)
        if verdicts
        else el("p", "No confirmation on fresh seeds stands on the log.", class_="quiet"),
    )


HEADLINES = {
    "nothing": "No candidate beat the baseline.",
    "claim": "A claim on the search proxy, not a discovery.",
    "confirmed": "Confirmed on fresh seeds.",
    "refuted": "Refuted on fresh seeds.",
}


def _weight(report: Report) -> str:
    found = report.standing
    if found.best is None:
        return "Nothing was measured."
    many = f"The best of {figures.counted(found.measured, 'measured program')} tends to overstate"
    seeds = found.best.seeds
    noise = (
        "one seed shows nothing of the noise" if seeds < 2 else f"its interval over {seeds} seeds ignores that choice"
    )
    return f"{many}, and {noise}. A discovery needs a confirmation with fresh seeds, paired with the baseline."


def _named(found: Estimate | None) -> Child:
    if found is None:
        return "none was measured"
    n = figures.counted(found.seeds, "seed")
    interval = f"; 95 % interval of the mean, sd {figures.short(found.spread)}" if found.spread is not None else ""
    return [_estimate(found), " by ", link(found.candidate), f" (n = {n}{interval})"]


def _gap(report: Report) -> str:
    objective, gap = report.objective, report.standing.gap
    if objective.best_known is None:
        return "the task names no best known value"
    known = f"{figures.score(objective.best_known)} ({objective.source or 'no source named'})"
    if gap is None:
        return f"best known {known}"
    side = "equal to" if gap == 0 else "better than" if gap > 0 else "short of"
    return f"{figures.short(abs(gap))} {side} {known}" if gap else f"equal to {known}"


def _noise(report: Report) -> str:
    noise = report.standing.noise
    if noise is None:
        return "unknown: no candidate was measured with two seeds or more, so small differences may be noise"
    many = figures.counted(noise.candidates, "candidate")
    return f"sd {figures.short(noise.deviation)}, pooled over {many} ({noise.degrees} degrees of freedom)"


def _verdict(verdict: Verdict) -> Child:
    word = "confirmed" if verdict.confirmed else "refuted"
    interval = f"[{figures.signed(verdict.low)}, {figures.signed(verdict.high)}]"
    told = (
        f" {word} at stage {verdict.stage}: {figures.signed(verdict.difference)} {interval} against the baseline, "
        f"{verdict.seeds} paired seeds, p = {verdict.p_value:.3g}"
    )
    return [link(verdict.candidate), told]


def curve(report: Report) -> Markup:
    caption = (
        "Line: best so far. Dots: measurements, filled where they became the best; triangles at the edge lie outside. "
        "Crosses below: failures, which have no score."
    )
    picture = el("figure", curves.curve(report), el("figcaption", caption))
    return section("curve", "Best so far", picture, curves.distance(report))


def lineage(report: Report) -> Markup:
    """Draw the tree and tell the path to the best step by step."""
    by_name = {each.candidate: each for each in report.candidates}
    steps = [_step(by_name[name]) for name in report.path]
    told = f"The path to the best: {figures.counted(len(steps), 'program')}"
    listed = el("ol", steps, class_="steps")
    box = el("div", listed, class_="scroll", tabindex=0, role="region", aria_label=told) if len(steps) > 12 else listed
    story = [el("h3", told), box] if steps else []
    caption = (
        "Generations from left to right; the path to the best along the top. Each candidate hangs on its first parent, "
        "further parents by dashes. \N{MULTIPLICATION SIGN}n are childless siblings."
    )
    picture = el("figure", tree(report.candidates), el("figcaption", caption))
    return section("lineage", "Lineage", picture, *story)


def _step(each: Candidate) -> Markup:
    gain = f" ({figures.signed(each.gain)} over {each.against})" if each.against else ""
    cites = f" Cites {', '.join(each.cited)}." if each.cited else ""
    return el(
        "li",
        link(each.candidate),
        f" · {figures.score(each.score)}{gain} · ",
        el("span", each.motivation, cites, class_="told"),
    )


def candidates(report: Report) -> Markup:
    counts = report.counts
    told = (
        f"{counts.proposed} proposed: {counts.measured} measured, {counts.failed} failed, "
        f"{counts.duplicates} duplicates that were not run, {counts.pending} without an outcome. "
        "Gain is fitness over the first measured parent, else over the baseline; more is better."
    )
    return section("candidates", "Candidates", el("p", told, class_="quiet"), tables.candidates(report))


def lessons(report: Report) -> Markup:
    body = tables.lessons(report) if report.lessons else el("p", "No lesson was drawn.", class_="empty")
    return section("lessons", "Lessons", body)


def knowledge(report: Report) -> Markup:
    told = (
        f"{figures.counted(report.knowledge_items, 'item')} ingested. The gain of a citing candidate has other causes "
        "as well: it is an association, not the effect of the item."
    )
    body = tables.citations(report) if report.citations else el("p", "Nothing was retrieved or cited.", class_="empty")
    return section("knowledge", "Knowledge cited", el("p", told, class_="quiet"), body)


def proposers(report: Report) -> Markup:
    body = tables.proposers(report) if report.proposers else el("p", "Nothing was proposed.", class_="empty")
    return section("proposers", "Who proposed what", body, _predictions(report))


def _predictions(report: Report) -> Child:
    found = report.predictions
    if found is None:
        return None
    told = f"{found.held} of {found.made} measured scores lay within the interval that their designer predicted; "
    return el("p", told + f"the mean error was {figures.signed(found.mean_error)}.")


def costs(report: Report) -> Markup:
    """Tell the cost as booked, by role and by model."""
    booked = report.costs.booked
    total = (
        f"Booked against the budget: {booked.usd:.4f} US dollars, {booked.tokens:,} tokens, "
        f"{figures.duration(booked.wall_seconds)} of calls and experiments."
    )
    models = tables.models(report) if report.costs.models else el("p", "No model was asked.", class_="empty")
    elsewhere = report.costs.elsewhere
    aside = (
        f"{figures.counted(elsewhere, 'answer')} too large for the log are not told apart by model."
        if elsewhere
        else None
    )
    return section(
        "cost", "Cost", el("p", total), el("h3", "By role"), tables.roles(report), el("h3", "By model"), models,
        el("p", aside) if aside else None,
    )  # fmt: skip


def ending(report: Report) -> Markup:
    """Tell how the run ended, or where it stands."""
    word = "ended" if report.state not in {"running", "paused"} else "stands"
    outcomes = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in report.rounds.outcomes.items())
    rows = [
        ("state", f"{report.state}: {report.message}" if report.message else report.state),
        ("rounds by outcome", f"{outcomes or 'none closed'} (with those of submitted programs and the baseline)"),
        ("open rounds", ", ".join(report.rounds.open) or "none"),
        ("last fact", figures.moment(report.last)),
    ]
    events = (
        el(
            "li",
            el("time", figures.moment(each.time)),
            " ",
            el("b", each.type),
            " ",
            el("span", each.text, class_="told"),
        )
        for each in report.happenings
    )
    return section("ending", f"How it {word}", pairs(rows), el("ul", events, class_="events"))


def settings(report: Report) -> Markup:
    """Show every setting, the seed first."""
    plain = report.settings.model_dump(mode="json")
    first = {name: plain.pop(name) for name in ("seed", "sampler", "proposer", "width")}
    rows = [(name, str(value)) for name, value in first.items()]
    steering = [el("li", text, class_="told") for text in report.steering]
    text = orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode()
    whole = el("details", el("summary", "everything else"), el("pre", text, tabindex=0))
    return section("settings", "Settings and seed", pairs(rows), _steering(steering), whole)


def _steering(items: list[Markup]) -> Child:
    return [el("h3", "Steering"), el("ul", items)] if items else None


def check(report: Report) -> Markup:
    """Say how a reader can check every number."""
    told = (
        f"This page tells {figures.counted(report.facts, 'fact')} of the run's log and nothing else; report.json "
        "beside it holds every number. The first command makes each decision again from the log and names those that "
        "differ; the second prints the facts themselves."
    )
    return section("check", "How to check it", el("p", told), el("pre", "\n".join(report.check), tabindex=0))


def program(report: Report) -> Markup:
    files = [
        el("details", el("summary", path), el("pre", text, tabindex=0), open=len(report.program) == 1)
        for path, text in report.program.items()
    ]
    return section("program", "The best program", *(files or [el("p", "There is none.", class_="empty")]))
