"""The proposer without a model: what every proposal keeps, and what each operator does."""

import ast
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evolvent import knowledge
from evolvent_researcher.operators import Parent, Proposal, Snippet, propose
from evolvent_researcher.operators.composition import insert_snippets
from evolvent_researcher.operators.constants import LARGEST, mutated
from evolvent_researcher.operators.draft import Draft
from evolvent_researcher.operators.recombination import recombine
from evolvent_researcher.operators.structure import mutate_structure
from evolvent_researcher.operators.syntax import defines, missing, parse
from evolvent_schemas.values import ProgramSpec

ROOT = Path(__file__).parents[2]
PACK = ProgramSpec(functions=("pack",))

ROW = "def pack(n):\n    step = 1.0 / n\n    return [[step * i, 0.5, step / 2] for i in range(n)]\n"
LOOPED = """
import math

SCALE = 0.25


def radius(n):
    total = 0.0
    for k in range(1, 5):
        total += SCALE / k if k < 3 else -SCALE
    return total


def pack(n):
    circles = []
    for i in range(n):
        x = math.sin(i) * 0.4 + 0.5
        circles.append([x, i / n, radius(n)])
    return circles
"""
POLISH = Snippet("polish", "Polish", "def polish(result, n):\n    return [c for c in result if c[2] > 1e-9]\n")
HOP = Snippet("hop", "Hop", "HOPS = 3\ndef hop(refine, result, n):\n    return refine(refine(result, n), n)\n")
BEST = Snippet("best", "Best", "def best_of(attempt, n):\n    return max([attempt(n), attempt(n)], key=len)\n")
GRID = Snippet("grid", "Grid", "import math\ndef grid(n):\n    return [[math.cos(i), 0, 1] for i in range(n)]\n")
OWN = Snippet(
    "own", "Own", "def half(x):\n    return x / 2\ndef pack(n):\n    return [[half(i)] * 3 for i in range(n)]\n"
)
BROKEN = Snippet("broken", "Broken", "def (:\n")
SNIPPETS = (POLISH, HOP, BEST, GRID, OWN, BROKEN)

ODD = (
    "",
    "\n\n# nothing but a comment\n",
    "def pack(:\n",
    "\0",
    "pack = lambda n: []\n",
    "def pack(n): pass\n",
    "async def pack(n):\n    return []\n",
    "def pack(*rows, size=3, **rest):\n    yield from rows\n",
    "def pack(n, /, m=2, *, k=-1):\n    return n ** m\n",
    "def other(n):\n    return 1\n",
    "from math import sqrt as pack\n",
    "if True:\n    def pack(n):\n        return 1e999\n",
    "def pack(n):\n    return " + "(" * 150 + "n" + ")" * 150 + "\n",
    "def pack(n):\n    return " + " + ".join(["n"] * 3000) + "\n",
    "def pack(n):\n" + "".join("    " * (d + 1) + "if n:\n" for d in range(90)) + "    " * 91 + "return 1\n",
    "def pack(n):\n    return 0x" + "f" * 6000 + "\n",
    "def pack(n):\n    return f'{n!r:>{n}}' '\\d'\n",
    "def pack(n):\n    match n:\n        case 1:\n            return 2\n        case [a, *b]:\n            return b\n",
    "class pack:\n    x = 0\n",
    "def pack(n):\n    return pack(n - 1) if n else 5e-324\n",
)
programs = st.sampled_from([ROW, LOOPED, *ODD]) | st.text(max_size=60)
parents = st.lists(programs, max_size=4).map(lambda texts: [parent(t, f"{i}.0") for i, t in enumerate(texts)])
snippets = st.lists(st.sampled_from(SNIPPETS), max_size=4, unique=True)


def parent(text: str, candidate: str = "0.0") -> Parent:
    return Parent(candidate, {"program.py": text}, 1.0)


def tree(text: str) -> ast.Module:
    parsed = parse(text)
    assert parsed is not None
    return parsed


def draft(text: str, *others: str, given: Sequence[Snippet] = ()) -> Draft:
    donors = [(f"{i}.0", tree(other)) for i, other in enumerate(others)]
    return Draft("program.py", tree(text), ("pack",), donors, given)


def many(texts: Iterable[str], given: Sequence[Snippet] = (), spec: ProgramSpec = PACK) -> list[Proposal]:
    family = [parent(text, f"{i}.0") for i, text in enumerate(texts)]
    return [propose(Random(seed), family, given, spec) for seed in range(150)]


quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(st.integers(), parents, snippets)
def test_a_proposal_parses_and_defines_the_functions(seed: int, family: list[Parent], given: list[Snippet]) -> None:
    proposal = propose(Random(seed), family, given, PACK)
    assert defines(tree(proposal.files["program.py"]), PACK.functions)


@quick
@given(st.integers(), parents, snippets)
def test_one_state_of_the_generator_gives_one_proposal(seed: int, family: list[Parent], given: list[Snippet]) -> None:
    assert propose(Random(seed), family, given, PACK) == propose(Random(seed), family, given, PACK)


@quick
@given(st.integers(), parents.filter(bool), snippets)
def test_a_proposal_differs_from_its_first_parent_in_more_than_layout(
    seed: int, family: list[Parent], given: list[Snippet]
) -> None:
    text = propose(Random(seed), family, given, PACK).files["program.py"]
    first = parse(family[0].files["program.py"])
    assert first is None or ast.dump(first) != ast.dump(tree(text))


@quick
@given(st.integers(), parents, snippets)
def test_numbers_stay_finite_unless_a_parent_holds_another(
    seed: int, family: list[Parent], given: list[Snippet]
) -> None:
    text = propose(Random(seed), [p for p in family if "1e999" not in p.files["program.py"]], given, PACK).files
    numbers = [n.value for n in ast.walk(tree(text["program.py"])) if isinstance(n, ast.Constant)]
    assert all(math.isfinite(value) for value in numbers if isinstance(value, float))


@given(st.integers(), st.integers(-LARGEST, LARGEST) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_mutated_number_keeps_kind_sign_and_distance_from_zero(seed: int, value: float) -> None:
    new = mutated(Random(seed), value)
    assert type(new) is type(value)
    assert math.isfinite(new)
    assert value == 0 or (new != 0 and (new > 0) == (value > 0))


@pytest.mark.parametrize("text", ODD)
def test_an_odd_first_parent_still_leads_to_a_proposal(text: str) -> None:
    for seed in range(5):
        proposal = propose(Random(seed), [parent(text), parent(ROW, "1.0")], SNIPPETS, PACK)
        assert defines(tree(proposal.files["program.py"]), PACK.functions)


def test_without_a_readable_parent_the_program_is_scaffolded() -> None:
    proposal = propose(Random(1), [parent("def pack(:")], (), PACK)
    assert "scaffold" == proposal.operator
    assert defines(tree(proposal.files["program.py"]), PACK.functions)


def test_an_unreadable_first_parent_is_left_for_the_second() -> None:
    proposal = propose(Random(1), [parent("def pack(:"), parent(LOOPED, "7.0")], (), PACK)
    assert "7.0" in proposal.motivation
    assert "scaffold" != proposal.operator


def test_every_operator_takes_part() -> None:
    found = {proposal.operator for proposal in many((LOOPED, ROW), SNIPPETS)}
    assert {"insertion", "recombination", "constants", "structure"} == found


def test_no_edit_leaves_a_name_unbound() -> None:
    assert not any(missing(tree(p.files["program.py"])) for p in many((LOOPED, ROW), SNIPPETS))


def test_only_insertions_cite_and_they_cite_what_went_in() -> None:
    functions = {"polish": "polish", "hop": "hop", "best": "best_of", "grid": "grid", "own": "half"}
    for proposal in many((LOOPED, ROW), SNIPPETS):
        assert ("insertion" == proposal.operator) == bool(proposal.cited)
        assert all(f"def {functions[cited]}(" in proposal.files["program.py"] for cited in proposal.cited)


def test_proposals_run_and_mostly_keep_answering() -> None:
    """Blind edits may crash a program, but a proposer whose programs mostly crash wastes its rounds."""
    good = 0
    for proposal in many((LOOPED, ROW), (POLISH, HOP, BEST, GRID)):
        scope: dict[str, object] = {}
        try:
            exec(compile(proposal.files["program.py"], "program", "exec"), scope)
            good += isinstance(scope["pack"](4), list)  # type: ignore[operator]
        except Exception:  # noqa: BLE001 - whatever a blind edit can raise is the point
            continue
    assert good >= 100


def inserted(text: str, *given: Snippet) -> str:
    work = draft(text, given=given)
    insert_snippets(Random(0), work)
    return ast.unparse(work.tree)


def test_a_refinement_is_wrapped_around_what_the_entry_returns() -> None:
    assert "return polish([[step * i, 0.5, step / 2] for i in range(n)], n)" in inserted(ROW, POLISH)


def test_a_search_takes_over_a_refinement_and_needs_one() -> None:
    refined = inserted(ROW, POLISH)
    assert "return hop(polish, [[step" in inserted(refined, HOP)
    assert insert_snippets(Random(0), draft(ROW, given=[HOP])) is None


def test_a_repetition_takes_the_place_of_the_entry() -> None:
    text = inserted(ROW, BEST)
    assert "def pack(n):\n    return best_of(pack_once, n)" in text
    assert "def pack_once(n):\n    step = 1.0 / n" in text


def test_a_construction_keeps_the_refinements_around_the_old_one() -> None:
    text = inserted(inserted(ROW, POLISH), GRID)
    assert "return polish(grid(n), n)" in text
    assert "step" not in text


def test_a_construction_with_the_name_of_the_entry_is_renamed() -> None:
    text = inserted(ROW, OWN)
    assert "def pack_2(n):\n    return [[half(i)] * 3 for i in range(n)]" in text
    assert "def pack(n):\n    return pack_2(n)" in text


def test_a_construction_has_the_parameters_of_the_entry() -> None:
    """A function of something else must not be called with what the entry takes."""
    other = Snippet("x", "X", "def features(x):\n    return x\n")
    assert insert_snippets(Random(0), draft(ROW, given=[other])) is None


def test_a_variant_stands_in_for_a_function_with_its_parameters() -> None:
    program = "def plain(x):\n    return x\n\ndef pack(n):\n    return [plain(i) for i in range(n)]\n"
    text = inserted(program, Snippet("x", "X", "def squared(x):\n    return x * x\n"))
    assert "return [squared(i) for i in range(n)]" in text


def test_what_fits_nowhere_leaves_nothing_behind() -> None:
    stray = Snippet("x", "X", "KNOB = 3\ndef features(x):\n    return x * KNOB\n")
    for seed in range(20):
        work = draft(ROW, given=[HOP, stray, POLISH])
        change = insert_snippets(Random(seed), work)
        assert "KNOB" not in ast.unparse(work.tree)
        assert change is None or "x" not in change.cited


def test_a_snippet_that_the_program_has_is_not_inserted_again() -> None:
    assert insert_snippets(Random(0), draft(inserted(ROW, POLISH), given=[POLISH])) is None


def test_a_taken_name_of_another_function_is_not_overwritten() -> None:
    clash = Snippet("x", "X", "def radius(n):\n    return 9\ndef polish(result, n):\n    return result * radius(n)\n")
    text = inserted(LOOPED, clash)
    assert "def radius_2(n):\n    return 9" in text
    assert "return result * radius_2(n)" in text
    assert "circles.append([x, i / n, radius(n)])" in text


def test_a_constant_of_the_program_wins_over_that_of_a_snippet() -> None:
    snippet = Snippet("x", "X", "SCALE = 99\ndef polish(result, n):\n    return result * SCALE\n")
    text = inserted(LOOPED, snippet)
    assert "SCALE = 0.25" in text
    assert "99" not in text


def test_arguments_of_every_kind_are_handed_on() -> None:
    entry = "def pack(a, /, b, *c, d=1, **e):\n    return a\n"
    polish = Snippet("p", "P", "def polish(result, *arguments, **named):\n    return result\n")
    assert "return polish(a, a, b, *c, d=d, **e)" in inserted(entry, polish)


def test_recombination_takes_parts_functions_and_statements_from_a_donor() -> None:
    donor = inserted(inserted(LOOPED.replace("0.4", "0.3"), POLISH), BEST)
    taken = set()
    for seed in range(60):
        work = draft(LOOPED, donor)
        change = recombine(Random(seed), work)
        assert change is None or missing(work.tree) == set()
        taken.add(change.motivation.split()[2 if "function" in change.motivation else 1] if change else "nothing")
    assert {"the", "function"} <= {word if word in {"the", "function"} else "statement" for word in taken}


def test_structure_never_touches_what_the_program_must_define() -> None:
    for seed in range(100):
        work = draft(LOOPED)
        assert mutate_structure(Random(seed), work) is not None
        assert defines(work.tree, ("pack",))


def test_a_program_of_several_files_stays_whole() -> None:
    files = {"program.py": "from parts import pack\n", "parts.py": LOOPED, "notes.txt": "keep me"}
    for seed in range(50):
        proposal = propose(Random(seed), [Parent("0.0", files, 1.0)], SNIPPETS, PACK)
        assert {*files} == {*proposal.files}
        assert files["program.py"] == proposal.files["program.py"]
        assert "keep me" == proposal.files["notes.txt"]
        assert files["parts.py"] != proposal.files["parts.py"]
        assert "pack" in {n.name for n in tree(proposal.files["parts.py"]).body if isinstance(n, ast.FunctionDef)}


def test_several_required_functions_are_all_kept() -> None:
    spec = ProgramSpec(functions=("build", "loss"))
    text = "def build(n):\n    return [n] * 3\n\ndef loss(a, b):\n    return sum(a) - b\n"
    grown = Snippet("g", "G", "def scaled(result, *arguments):\n    return result * 2\n")
    proposals = many((text,), (grown, BEST), spec)
    assert all(defines(tree(p.files["program.py"]), spec.functions) for p in proposals)
    assert any("return scaled(sum(a) - b, a, b)" in p.files["program.py"] for p in proposals)


def test_the_snippets_of_circle_packing_compose_in_any_order() -> None:
    items = [i for i in knowledge.load(ROOT / "tasks/circle_packing/knowledge") if i.code]
    given = [Snippet(i.id, i.title, i.code) for i in items]
    text = (ROOT / "tasks/circle_packing/baseline/program.py").read_text()
    for seed in range(12):
        rng = Random(seed)
        family = [parent(text)]
        for _ in range(8):
            family = [parent(propose(rng, family, rng.sample(given, 3), PACK).files["program.py"])]
            assert not missing(tree(family[0].files["program.py"]))
