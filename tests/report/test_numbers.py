"""Every number of a report against the log it was told from."""

import math
import statistics

import pytest
from hypothesis import given, settings

from evolvent.errors import Refused
from evolvent.report import Report, noise, tell
from evolvent.report.story import summary_of
from evolvent_schemas import (
    CandidateAnalyzed,
    CandidateProposed,
    DiscoveryConfirmed,
    DiscoveryRefuted,
    EffectRecorded,
    RoundClosed,
)
from tests.report.logs import RUN, Writer, written


def told(writer: Writer) -> Report:
    return tell(writer.records)


@given(written())
@settings(max_examples=80, deadline=None)
def test_the_best_so_far_never_gets_worse_and_ends_at_the_best(writer: Writer) -> None:
    report = told(writer)
    best = [report.objective.fitness(point.best) for point in report.curve if point.best is not None]

    assert best == sorted(best)
    assert best[-1:] == ([report.objective.fitness(report.standing.best.score)] if report.standing.best else [])
    assert best[-1:] == sorted(map(report.objective.fitness, writer.scores.values()))[-1:]


@given(written())
@settings(max_examples=80, deadline=None)
def test_counts_are_those_of_the_fold_and_of_the_facts(writer: Writer) -> None:
    report, summary = told(writer), summary_of(writer.records)
    facts = [record.fact for record in writer.records]
    analyzed = [fact for fact in facts if isinstance(fact, CandidateAnalyzed)]

    assert (report.rounds.closed, report.rounds.failed) == (summary.closed, summary.failed)
    assert sum(report.rounds.outcomes.values()) == sum(isinstance(fact, RoundClosed) for fact in facts)
    assert (
        report.counts.proposed == sum(isinstance(fact, CandidateProposed) for fact in facts) == len(report.candidates)
    )
    assert report.counts.measured == sum(fact.outcome == "measured" for fact in analyzed) == report.standing.measured
    assert report.counts.failed == sum(fact.outcome == "failed" for fact in analyzed)
    assert report.counts.pending >= 0
    assert report.facts == len(facts)
    assert len(report.lessons) == sum(len(fact.lessons) for fact in analyzed)


@given(written())
@settings(max_examples=50, deadline=None)
def test_every_evaluation_and_every_lost_round_is_one_point_of_the_curve(writer: Writer) -> None:
    report = told(writer)
    facts = [record.fact for record in writer.records]
    analyzed = sum(isinstance(fact, CandidateAnalyzed) for fact in facts)
    lost = sum(isinstance(fact, RoundClosed) and fact.candidate is None for fact in facts)

    assert len(report.curve) == analyzed + lost
    assert [point.score for point in report.curve if point.score is not None] == list(writer.scores.values())
    assert all(bool(point.fault) == (point.score is None) for point in report.curve)


@given(written())
@settings(max_examples=50, deadline=None)
def test_the_path_follows_first_parents_to_the_best(writer: Writer) -> None:
    report = told(writer)
    by_name = {each.candidate: each for each in report.candidates}

    assert [each.candidate for each in report.candidates if each.on_path] == [
        each.candidate for each in report.candidates if each.candidate in report.path
    ]
    for parent, child in zip(report.path, report.path[1:], strict=False):
        assert by_name[child].parents[0] == parent
        assert by_name[child].generation == by_name[parent].generation + 1
    assert report.path[-1:] == ((report.standing.best.candidate,) if report.standing.best else ())


@given(written())
@settings(max_examples=50, deadline=None)
def test_citations_are_counted_once_per_candidate_and_weighed_by_gain(writer: Writer) -> None:
    report = told(writer)
    for citation in report.citations:
        citing = [each for each in report.candidates if citation.id in each.cited]
        gains = [each.gain for each in citing if each.gain is not None]
        assert citation.gains.proposed == len(citing)
        assert citation.gains.mean == (statistics.fmean(gains) if gains else None)
        assert citation.gains.compared == len(gains)
        assert citation.gains.improved == sum(gain > 0 for gain in gains)
        assert (citation.kind == "unknown") == (citation.retrieved == 0)


@given(written())
@settings(max_examples=30, deadline=None)
def test_the_json_holds_the_whole_report(writer: Writer) -> None:
    report = told(writer)

    assert report == Report.model_validate_json(report.model_dump_json())
    assert report == told(writer)


def test_more_is_better_also_when_less_is() -> None:
    writer = Writer(direction="minimise").begin()
    for number, score in enumerate((5.0, 3.0, 4.0)):
        writer.propose(f"{number}.0", ["0.0"] if number else [])
        writer.measure(f"{number}.0", score, "0.0" if number else None)
    report = told(writer)

    assert [5.0, 3.0, 3.0] == [point.best for point in report.curve]
    assert [None, 2.0, 1.0] == [each.gain for each in report.candidates]
    assert report.standing.best is not None
    assert "1.0" == report.standing.best.candidate


def test_an_interval_needs_two_seeds_and_is_students() -> None:
    """n = 2: t is 12.7062 at one degree of freedom (any table), so the half width is 12.7062 · 0.5 / √2."""
    assert noise.quantile(1) == pytest.approx(12.7062, abs=1e-4)
    assert noise.quantile(10) == pytest.approx(2.22814, abs=1e-5)
    for seeds in (1, 2):
        writer = Writer(seeds=seeds).begin()
        writer.propose("h0.0")
        writer.measure("h0.0", 1.0)
        standing = told(writer).standing
        assert standing.best is not None
        if seeds == 1:
            assert (standing.best.low, standing.best.high, standing.noise) == (None, None, None)
        else:
            assert standing.best.high == pytest.approx(1 + 12.7062 * 0.5 / math.sqrt(2), abs=1e-4)
            assert standing.noise is not None
            assert (standing.noise.deviation, standing.noise.degrees) == (pytest.approx(0.5), 1)


def searched() -> Writer:
    writer = Writer().begin()
    writer.propose("h0.0")
    writer.measure("h0.0", 1.0)
    return writer


def improved() -> Writer:
    writer = searched()
    writer.propose("0.0", ["h0.0"])
    writer.measure("0.0", 2.0, "h0.0")
    writer.claim("0.0", 1.0)
    return writer


def test_a_better_search_score_is_a_claim_and_only_fresh_seeds_make_it_more() -> None:
    verdict = {"run": RUN, "stage": "explore", "seeds": 5, "difference": 1.0, "low": 0.5, "high": 1.5, "p_value": 0.01}
    assert "nothing" == told(searched()).standing.word
    writer = improved()
    assert "claim" == told(writer).standing.word
    writer.add(DiscoveryRefuted(candidate="h0.0", **verdict))
    assert "claim" == told(writer).standing.word
    writer.add(DiscoveryConfirmed(candidate="0.0", **verdict))
    assert "confirmed" == told(writer).standing.word
    writer.add(DiscoveryRefuted(candidate="0.0", **verdict))
    assert "refuted" == told(writer).standing.word


def test_costs_are_told_by_role_and_by_model_and_what_has_no_price_is_named() -> None:
    writer = searched()
    answer = {"model": "m1", "outcome": "answered", "usd": 0.25, "tokens_in": 10, "tokens_out": 20}
    writer.ask(1, answer)
    writer.ask(2, {**answer, "outcome": "cut", "usd": None}, delivery=3)
    writer.ask(3, {"found": ["not a model's"]}, role="cognition")
    writer.ask(4, ["model"], role="cognition")
    costs = told(writer).costs
    roles = {each.role: each for each in costs.roles}
    (model,) = costs.models

    effects = [record.fact for record in writer.records if isinstance(record.fact, EffectRecorded)]
    assert sum(each.usd for each in costs.roles) == sum(effect.cost.usd for effect in effects) == 1.0
    assert (roles["researcher"].effects, roles["researcher"].repeated, roles["cognition"].effects) == (2, 2, 2)
    assert roles["engineer"].compute_seconds == 1.5
    assert (model.model, model.calls, model.unusable, model.unpriced) == ("m1", 2, 1, 1)
    assert (model.tokens_in, model.tokens_out) == (20, 40)


def test_a_run_that_has_not_started_is_refused() -> None:
    with pytest.raises(Refused, match="has not started"):
        tell([])
