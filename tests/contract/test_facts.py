"""The rules that every fact keeps, now and when another one is added."""

import json
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from evolvent_schemas import ROOT, DirectiveIssued, Fact, Kind, decode, fact_id, filter_for, subjects
from evolvent_schemas.catalog import FACTS
from evolvent_schemas.facts.discovery import DiscoveryConfirmed
from tests.contract import strategies

ROLES = {"conductor", "researcher", "engineer", "analyzer", "cognition", "notary"}
every_fact = pytest.mark.parametrize("cls", FACTS.values(), ids=FACTS)
FEW = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
ANY = st.sampled_from(list(FACTS.values())).flatmap(strategies.of)


@every_fact
def test_a_fact_declares_its_kind_and_its_publisher(cls: type[Fact]):
    assert isinstance(cls.kind, Kind)
    assert cls.publisher in ROLES | {"user", "*"}
    assert set(cls.wakes) <= ROLES


@every_fact
def test_only_outside_input_and_what_happens_inside_any_role_has_no_single_publisher(cls: type[Fact]):
    if cls.publisher not in ROLES:
        assert cls.kind is Kind.OBSERVATION


@every_fact
def test_a_type_is_a_noun_and_a_past_participle(cls: type[Fact]):
    entity, happened = cls.model_fields["type"].default.split(".")
    assert cls.__name__ == entity.title() + happened.title()


@every_fact
def test_a_key_is_made_of_fields_that_every_fact_has(cls: type[Fact]):
    for name in cls.key_fields:
        assert cls.model_fields[name].is_required()


@every_fact
def test_a_fact_comes_back_from_its_body_as_it_was(cls: type[Fact]):
    @FEW
    @given(strategies.of(cls))
    def check(fact: Fact) -> None:
        read = decode(fact.subject, fact.body())
        assert fact == read
        assert fact.body() == read.body()

    check()


@every_fact
def test_a_subject_names_its_run_type_and_key(cls: type[Fact]):
    @FEW
    @given(strategies.of(cls))
    def check(fact: Fact) -> None:
        address = subjects.parse(fact.subject)
        assert (fact.run, fact.type, fact.key) == (address.run, address.type, address.key)

    check()


@every_fact
def test_unknown_fields_are_refused_when_a_fact_is_made(cls: type[Fact]):
    @FEW
    @given(strategies.of(cls))
    def check(fact: Fact) -> None:
        with pytest.raises(ValidationError):
            cls(**fact.model_dump(), colour="red")

    check()


@every_fact
def test_fields_that_a_newer_writer_added_are_ignored_when_read(cls: type[Fact]):
    @FEW
    @given(strategies.of(cls))
    def check(fact: Fact) -> None:
        newer = json.dumps(json.loads(fact.body()) | {"colour": "red"}).encode()
        assert fact == decode(fact.subject, newer)

    check()


def test_fields_that_a_newer_writer_added_within_a_value_are_ignored_as_well():
    body = {"type": "round.closed", "run": "r1", "round": "3", "outcome": "expired"}
    newer = body | {"cost": {"usd": 1.0, "tokens": 2, "wall_seconds": 3.0, "watts": 4}}
    fact = decode("evo.r1.round.closed.3", json.dumps(newer).encode())
    assert 2 == fact.cost.tokens  # type: ignore[attr-defined]


def test_a_body_on_another_subject_is_refused():
    body = DirectiveIssued.model_validate(
        {"run": "r1", "user": "ada", "directive": "d1", "request": {"action": "resume"}}
    ).body()
    with pytest.raises(ValueError, match="belongs on"):
        decode("evo.r1.directive.issued.ada.d2", body)


@FEW
@given(ANY, ANY, st.uuids())
def test_the_id_of_a_fact_differs_by_subject_and_by_cause(one: Fact, other: Fact, cause: UUID):
    assert (fact_id(cause, one.subject) == fact_id(cause, other.subject)) == (one.subject == other.subject)
    assert fact_id(cause, one.subject) != fact_id(ROOT, one.subject)


@pytest.mark.parametrize("run", ["", "-a", "a-", "A", "a.b", "a*", "a>", "a b", "é", "x" * 27, "a\n"])
def test_an_id_that_is_no_token_name_and_label_at_once_is_refused(run: str):
    with pytest.raises(ValidationError):
        FACTS["run.resumed"](run=run, ordinal=0)  # type: ignore[call-arg]


@FEW
@given(ANY)
def test_a_filter_selects_its_own_facts_and_no_other(fact: Fact):
    selecting = [name for name, cls in FACTS.items() if _selects(filter_for(cls), fact.subject)]
    assert [fact.type] == selecting


def _selects(pattern: str, subject: str) -> bool:
    wanted, found = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, found = wanted[:-1], found[: len(wanted) - 1] if len(found) >= len(wanted) else []
    return len(wanted) == len(found) and all(w in {"*", f} for w, f in zip(wanted, found, strict=True))


@FEW
@given(strategies.of(DiscoveryConfirmed), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_no_fact_holds_a_number_that_json_has_not(fact: Fact, wrong: float):
    with pytest.raises(ValidationError):
        type(fact)(**(fact.model_dump() | {"difference": wrong}))
