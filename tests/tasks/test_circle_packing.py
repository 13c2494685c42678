"""The circle packing task: its specification, its evaluator and its knowledge."""

import ast
import importlib.util
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from evolvent import knowledge
from evolvent.evaluation import Invalid, Plain, Sandbox
from evolvent_schemas.values import TaskSpec

TASK = Path(__file__).parents[2] / "tasks" / "circle_packing"
SPEC = TaskSpec.model_validate(tomllib.loads((TASK / "task.toml").read_text()))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Answer:
    """A candidate in this process that answers with one value."""

    def __init__(self, value: Plain) -> None:
        self.value = value

    def call(self, function: str, *arguments: Plain, **named: Plain) -> Plain:
        assert ("pack", (26,), {}) == (function, arguments, named)
        return self.value

    def sandbox(self) -> AbstractContextManager[Sandbox]:
        raise NotImplementedError

    def count(self, value: Plain) -> int:
        raise NotImplementedError


evaluate = load(TASK / "evaluate.py").evaluate


def score(value: Plain) -> float:
    return evaluate(Answer(value), {}, 0)["sum_of_radii"]


def row(radius: float = 1 / 64) -> np.ndarray:
    """26 circles in a row whose numbers are exact in binary and which touch for a radius of 1/64."""
    return np.column_stack([(2 * np.arange(26) + 1) / 64, np.full(26, 0.5), np.full(26, radius)])


def test_the_baseline_is_valid_and_leaves_room() -> None:
    baseline = load(TASK / "baseline" / "program.py").pack(26)
    assert 0.49 < score(baseline) <= 1.0


def test_the_score_is_the_sum_of_the_radii() -> None:
    circles = row()
    circles[3, 2] = 1 / 128
    assert 25 / 64 + 1 / 128 == score(circles)


def test_touching_circles_and_walls_are_allowed() -> None:
    assert 26 / 64 == score(row())


def test_nested_lists_count_like_arrays() -> None:
    assert 26 / 64 == score(row().tolist())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("place", [np.nextafter(1 / 128, 0), np.nextafter(127 / 128, 1)])
def test_a_circle_beyond_a_wall_by_one_bit_is_invalid(axis: int, place: float) -> None:
    circles = row(1 / 128)
    circles[5, axis] = place
    with pytest.raises(Invalid, match="circle 5 leaves the square"):
        score(circles)


def test_the_smallest_overlap_is_invalid() -> None:
    """There is no tolerance: one unit in the last place of one radius is enough."""
    circles = row()
    circles[7, 2] = np.nextafter(1 / 64, 1)
    with pytest.raises(Invalid, match="overlap"):
        score(circles)


def test_an_overlap_that_float64_arithmetic_rounds_away_is_invalid() -> None:
    circles = row(0.0)
    circles[0] = [0.25, 0.5, 0.25]
    circles[1] = [0.75, 0.5, 0.25]
    circles[2:, 0] = np.linspace(0.1, 0.9, 24)
    circles[2:, 1] = 1.0
    score(circles)
    circles[2] = [0.5, 0.5, 1e-30]
    assert (0.5 - 0.25) ** 2 >= (0.25 + 1e-30) ** 2
    with pytest.raises(Invalid, match="overlap"):
        score(circles)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "26 circles",
        [],
        7,
        row()[:25],
        row().T,
        [["0.1", "0.1", "0.1"]] * 26,
        row().astype(complex),
        [[0.5, 0.5]] * 25 + [[0.5]],
        [[[0.5, 0.5, 0.0]]] * 26,
        {"circles": row()},
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_what_is_no_table_of_numbers_is_invalid(answer: Plain) -> None:
    with pytest.raises(Invalid):
        score(answer)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_number_that_is_not_finite_is_invalid(number: float, column: int) -> None:
    circles = row()
    circles[4, column] = number
    with pytest.raises(Invalid):
        score(circles)


def test_a_negative_radius_is_invalid() -> None:
    circles = row()
    circles[0, 2] = -1e-300
    with pytest.raises(Invalid, match="negative"):
        score(circles)


def test_a_run_of_sixty_rounds_ends_within_five_minutes() -> None:
    assert all(SPEC.budget.rounds * stage.limits.cpu_seconds * stage.seeds <= 300 for stage in SPEC.stages)


def test_the_program_that_the_specification_names_is_the_baseline() -> None:
    tree = ast.parse((TASK / "baseline" / SPEC.program.entry).read_text())
    assert set(SPEC.program.functions) <= {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


ITEMS = {item.id: item for item in knowledge.load(TASK / "knowledge")}
STARTS = ("hexagonal-rows", "random-start", "random-rows")
REFINEMENTS = ("radii-are-linear", "joint-optimisation", "strict-validity", "repulsion")
SEARCHES = ("perturb-and-repolish", "fill-the-largest-hole", "exchange-two-circles")


def part(item: str) -> Callable[..., np.ndarray]:
    """Run the snippet of an item and return its last function."""
    scope: dict[str, object] = {}
    exec(compile(ITEMS[item].code, item, "exec"), scope)
    last = [n.name for n in ast.parse(ITEMS[item].code).body if isinstance(n, ast.FunctionDef)][-1]
    return scope[last]  # type: ignore[return-value]


def test_every_snippet_is_covered_here() -> None:
    assert {*STARTS, *REFINEMENTS, *SEARCHES, "several-attempts"} == {i.id for i in ITEMS.values() if i.code}


@pytest.mark.parametrize("start", STARTS)
def test_every_start_is_a_valid_packing_better_than_the_baseline(start: str) -> None:
    assert 0.5 < score(part(start)(26))


@pytest.mark.parametrize("refinement", REFINEMENTS)
@pytest.mark.parametrize("start", STARTS)
def test_every_refinement_keeps_a_packing_valid(refinement: str, start: str) -> None:
    """Only repulsion may give up some of the sum: it starts anew from even spacing."""
    before = part(start)(26)
    after = score(part(refinement)(before, 26))
    assert after >= score(before) - 1e-9 or refinement == "repulsion"


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_keeps_the_better_packing(search: str) -> None:
    polish, start = part("joint-optimisation"), part("random-start")(26)
    assert score(part(search)(polish, start, 26)) >= score(polish(start, 26))


def test_the_best_of_several_attempts_is_at_least_the_first() -> None:
    first = part("random-start")(26)
    assert score(part("several-attempts")(part("random-start"), 26)) >= score(first)


@pytest.mark.parametrize("item", [i.id for i in ITEMS.values() if i.code])
def test_no_single_snippet_holds_the_whole_answer(item: str) -> None:
    """Alone, from the baseline or an even start, each stays clearly below what combinations reach."""
    function = part(item)
    start = part("hexagonal-rows")(26)
    alone = {
        "several-attempts": lambda: function(part("hexagonal-rows"), 26),
        **{name: (lambda: function(lambda result, n: result, start, 26)) for name in SEARCHES},
        **{name: (lambda: function(start, 26)) for name in REFINEMENTS},
    }.get(item, lambda: function(26))
    assert np.array(alone())[:, 2].sum() < 2.62


def test_the_slowest_snippets_leave_most_of_the_time_limit() -> None:
    """In a process of its own, on one thread, as in the sandbox."""
    program = f"""
import time, numpy as np
started = time.process_time()
{ITEMS["random-start"].code}
{ITEMS["joint-optimisation"].code}
{ITEMS["perturb-and-repolish"].code}
hop(polish, random_centres(26), 26)
print(time.process_time() - started)
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert float(result.stdout) < SPEC.stages[0].limits.cpu_seconds
