"""The conductor's state machine: whatever happens in whatever order, no round is lost or doubled."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from evolvent_schemas import Halt, Pause, Resume, RoundClosed, RunPaused, RunResumed, RunSteered, Steer, Submit
from tests.platform import life_model
from tests.platform.life_model import ENDS, PROGRAM, Model, ring

END = st.sampled_from(ENDS)
NUMBER = st.integers(0, 63)


class LifeOfARun(RuleBasedStateMachine):
    """Settle causes, duplicates, late facts, directives and failing conductors in every order."""

    @initialize(rounds=st.integers(1, 8), width=st.integers(1, 4), patience=st.integers(1, 3), tight=st.booleans())
    def start(self, rounds: int, width: int, patience: int, tight: bool) -> None:
        rules = life_model.settings(rounds, width, pause_after=patience, tokens=30 if tight else None)
        self.model = Model(rules)
        self.model.start()

    @rule()
    def ingest(self) -> None:
        self.model.ingest()

    @rule()
    def fail_to_ingest(self) -> None:
        self.model.give_up(self.model.log["evo.r1.run.started"], "cognition")

    @precondition(lambda self: self.model.opened)
    @rule(pick=NUMBER, end=END, score=st.integers(-3, 3))
    def end_a_round(self, pick: int, end: str, score: int) -> None:
        """Also one that has ended: then the fact is late."""
        self.model.settle(self.model.opened[pick % len(self.model.opened)], end, score=float(score))

    @precondition(lambda self: self.model.running)
    @rule(pick=NUMBER, end=END)
    def end_an_open_round(self, pick: int, end: str) -> None:
        self.model.settle(self.model.running[pick % len(self.model.running)], end)

    @precondition(lambda self: self.model.running)
    @rule(pick=NUMBER, stored=st.integers(0, 2))
    def crash_while_closing(self, pick: int, stored: int) -> None:
        self.model.settle(self.model.running[pick % len(self.model.running)], "measured", stored=stored)

    @precondition(lambda self: self.model.lost)
    @rule()
    def give_up_what_crashed(self) -> None:
        self.model.recover()

    @precondition(lambda self: self.model.running)
    @rule(pick=NUMBER, tokens=st.integers(0, 12))
    def spend(self, pick: int, tokens: int) -> None:
        self.model.spend(self.model.running[pick % len(self.model.running)], tokens, attempt=len(self.model.log) % 50)

    @rule(request=st.sampled_from([Pause(), Resume(), Steer(text="x"), Submit(program=PROGRAM)]), crash=st.booleans())
    def direct(self, request: Pause | Resume | Steer | Submit, crash: bool) -> None:
        self.model.tell(self.model.directive(request), stored=0 if crash and not isinstance(request, Pause) else None)

    @precondition(lambda self: len(self.model.log) > 30)
    @rule()
    def halt(self) -> None:
        self.model.tell(self.model.directive(Halt()))

    @invariant()
    def the_ring_is_never_wider_than_asked(self) -> None:
        assert len(ring(list(self.model.life.open))) <= self.model.rules.width
        assert len(ring(self.model.running)) <= self.model.rules.width + len(self.model.lost)

    @invariant()
    def no_round_is_open_and_held_or_held_twice(self) -> None:
        held = self.model.life.held
        assert len(held) == len(set(held))
        assert not set(held) & set(self.model.life.open)

    @invariant()
    def nothing_opens_once_the_run_is_over(self) -> None:
        life = self.model.life
        if life.status in {"halted", "finished"}:
            assert not life.open
            assert not life.held
            assert not [fact for fact in life.due if fact.type == "round.opened"]

    @invariant()
    def a_run_that_is_not_over_can_go_on(self) -> None:
        life = self.model.life
        if life.status in {"open", "paused"}:
            assert life.open or life.held or life.awaits_baseline

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        self._carry_to_the_end()
        self._check_the_end()

    def _carry_to_the_end(self) -> None:
        for _ in range(100):
            self.model.recover()
            if self.model.life.status == "paused":
                self.model.tell(self.model.directive(Resume()))
            self.model.ingest()
            for number in self.model.life.open:
                assert number in self.model.running, f"round {number} is open for the conductor only"
                self.model.settle(number, "measured")
            if self.model.life.status in {"halted", "finished"}:
                return
        raise AssertionError(f"the run does not end: {self.model.life}")

    def _check_the_end(self) -> None:
        self.model.recover()
        finished, opened, closed = self.model.finished, self.model.opened, self.model.closed
        assert finished is not None
        assert 1 == len(self.model.facts(type(finished)))
        assert len(opened) == len(set(opened))
        assert len(closed) == len(set(closed))
        if finished.state == "completed":
            expected = [str(n) for n in range(self.model.rules.budget.rounds)]
            assert expected == sorted(ring(opened), key=int)
            assert not self.model.running
            assert self.model.rules.budget.rounds == finished.rounds_closed
        if finished.state in {"completed", "budget"}:
            assert set(opened) == set(closed)
            assert len(ring(closed)) == finished.rounds_closed


TestLifeOfARun = LifeOfARun.TestCase
TestLifeOfARun.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def _running(rounds: int = 4, width: int = 2, **rules: int) -> Model:
    """Make a run whose baseline is measured."""
    model = Model(life_model.settings(rounds, width, **rules))
    model.start()
    model.ingest()
    model.settle("h0", "measured")
    return model


def test_the_closer_of_a_round_opens_the_one_a_width_further() -> None:
    model = _running(rounds=6, width=2)
    model.settle("1", "measured")

    assert ["h0", "0", "1", "3"] == model.opened


def test_a_second_end_of_a_round_changes_nothing() -> None:
    model = _running()
    model.settle("0", "expired")
    before = list(model.order)
    model.settle("0", "measured", score=9.0)

    assert before == model.order
    assert model.life.best is not None
    assert 9.0 == model.life.best.score, "its evidence stays"


def test_failures_in_a_row_pause_the_run_and_resume_opens_exactly_what_was_held() -> None:
    model = _running(rounds=9, width=2, pause_after=3)
    for number in ("0", "1", "2"):
        model.settle(number, "role_failed")

    assert "role_failing" == model.facts(RunPaused)[0].reason
    assert ("4",) == model.life.held
    assert ["3"] == model.running
    model.settle("3", "measured")
    assert [] == model.running
    model.tell(model.directive(Resume()))
    assert ["4", "5"] == model.running
    assert 1 == len(model.facts(RunResumed))


def test_the_end_of_a_round_says_who_was_at_fault() -> None:
    model = _running(rounds=9, width=6, pause_after=9)
    outcomes = {"measured": "completed", "failed": "candidate_failed"}
    for number, end in enumerate(ENDS):
        model.settle(str(number), end)
    closed = {fact.round: fact.outcome for fact in model.facts(RoundClosed)}

    assert {str(number): outcomes.get(end, end) for number, end in enumerate(ENDS)} | {"h0": "completed"} == closed


def test_a_round_that_a_candidate_failed_does_not_count_against_the_roles() -> None:
    model = _running(rounds=9, width=1, pause_after=2)
    for number, end in (("0", "role_failed"), ("1", "failed"), ("2", "role_failed"), ("3", "exhausted")):
        model.settle(number, end)

    assert "open" == model.life.status


def test_a_baseline_that_cannot_be_measured_ends_the_run_as_failed() -> None:
    model = Model(life_model.settings(4, 2))
    model.start()
    model.tell(model.directive(Submit(program=PROGRAM)))
    model.ingest()
    model.settle("h0", "failed")

    assert model.finished is not None
    assert "failed" == model.finished.state
    model.settle("h1", "measured")
    assert 1 == len(model.facts(type(model.finished)))


def test_a_spent_budget_opens_no_further_round_and_ends_the_run() -> None:
    model = _running(rounds=9, width=2, tokens=100)
    model.spend("0", 100)
    model.settle("0", "measured")
    assert ["1"] == model.running
    model.settle("1", "measured")

    assert model.finished is not None
    assert ("budget", 2) == (model.finished.state, model.finished.rounds_closed)


def test_a_spent_budget_is_not_overdrawn_by_rounds_held_back() -> None:
    model = _running(rounds=9, width=3, tokens=100)
    model.tell(model.directive(Pause()))
    model.settle("0", "measured")
    model.spend("1", 100)
    model.settle("1", "measured")
    model.tell(model.directive(Resume()))

    assert ["2"] == model.running


def test_a_submission_is_measured_in_a_round_of_its_own_before_the_baseline_too() -> None:
    model = Model(life_model.settings(2, 1))
    model.start()
    model.tell(model.directive(Submit(program=PROGRAM)))
    model.settle("h1", "measured")
    assert model.finished is None
    model.ingest()

    assert ["h0"] == model.running


def test_knowledge_that_comes_after_the_halt_opens_nothing() -> None:
    model = Model(life_model.settings(2, 1))
    model.start()
    model.tell(model.directive(Halt()))
    model.ingest()

    assert [] == model.opened


def test_ingestion_that_fails_while_paused_leaves_the_baseline_to_the_resume() -> None:
    model = Model(life_model.settings(2, 1))
    model.start()
    model.tell(model.directive(Pause()))
    model.give_up(model.log["evo.r1.run.started"], "cognition")
    model.tell(model.directive(Resume()))
    assert ["h0"] == model.running
    model.ingest()

    assert ["h0"] == model.opened


def test_what_a_conductor_did_not_store_is_due_again_when_it_gives_up() -> None:
    model = _running(rounds=4, width=1)
    model.settle("0", "measured", stored=0)
    assert ["h0"] == model.closed
    model.recover()

    assert ["h0", "0"] == model.closed
    assert ["1"] == model.running


def test_a_resume_that_a_conductor_did_not_store_opens_its_rounds_when_it_gives_up() -> None:
    model = _running(rounds=4, width=1)
    model.tell(model.directive(Pause()))
    model.settle("0", "measured")
    model.tell(model.directive(Resume()), stored=0)
    assert [] == model.running
    model.recover()

    assert ["1"] == model.running


def test_steering_is_kept_in_order() -> None:
    model = _running()
    model.tell(model.directive(Steer(text="a")))
    model.tell(model.directive(Steer(text="b")))

    assert [(0, "a"), (1, "b")] == [(fact.ordinal, fact.text) for fact in model.facts(RunSteered)]
