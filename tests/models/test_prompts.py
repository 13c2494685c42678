"""Prompts: what stands in them, what cannot be forged, how answers are read."""

import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolvent import task
from evolvent.errors import Refused
from evolvent.models import (
    Message,
    ModelAnswer,
    ModelSettings,
    Quotes,
    UnusableAnswer,
    overrides_in,
    read,
    template,
)
from evolvent.models.client import Models
from evolvent_analyzer import prompts as analyzer
from evolvent_researcher import prompts as researcher
from evolvent_researcher.edits import Hunk, written_edit, written_file
from evolvent_schemas.values import Grant, Lesson, Objective, ProgramSpec, Retrieved
from tests.models.scripted import Says, Server, says_json, scripted

TASK = Path(__file__).parents[2] / "bench" / "tasks" / "instant"
PROGRAM = {"program.py": "def pack():\n    return 1\n"}
DESIGN = {"motivation": "more", "cited": ["item-1"], "prediction": {"low": 0, "expected": 1, "high": 2}}
EDIT = written_edit("program.py", Hunk(("    return 1",), ("    return 2",)))
ASKING = researcher.Asking(model="m", max_tokens=100)
GRANT = Grant(attempts=1, compute_seconds=0)


def question(**changes: Any) -> researcher.Question:
    fields: dict[str, Any] = {
        "brief": "Pack $26 circles.",
        "objective": Objective(metric="sum of radii", best_known=2.5),
        "program": ProgramSpec(functions=("pack",)),
        "parents": (researcher.Shown(candidate="3.0", score=1.5, note="a grid", files=PROGRAM),),
        "references": (researcher.Shown(candidate="2.0", score=None, note="it crashed"),),
        "found": (Retrieved(id="item-1", kind="item", title="T", text="hexagons", code="h = 1", score=1, query=0),),
    }
    return researcher.Question(**(fields | changes))


def measured(**changes: Any) -> analyzer.Measured:
    fields: dict[str, Any] = {
        "brief": "Pack circles.",
        "objective": Objective(metric="sum of radii"),
        "candidate": "4.0",
        "files": {"program.py": "def pack():\n    return 2\n"},
        "score": 2.0,
        "seeds": 3,
        "spread": 0.1,
        "metrics": {"valid": 1.0},
        "relatives": (analyzer.Relative(candidate="3.0", score=1.5, files=PROGRAM),),
    }
    return analyzer.Measured(**(fields | changes))


@asynccontextmanager
async def models(server: Server) -> AsyncIterator[Models]:
    async with Models(ModelSettings.load(base_url=server.base_url, api_key="k", name="m")) as client:
        yield client


def answered(text: str) -> ModelAnswer:
    return ModelAnswer(
        text=text,
        outcome="answered",
        tokens_in=1,
        tokens_out=1,
        usage="reported",
        usd=None,
        model="m",
        finish_reason="stop",
        wall_seconds=0,
    )


def with_design(blocks: str, **changes: Any) -> ModelAnswer:
    return answered(f"Thoughts.\n```json\n{json.dumps(DESIGN | changes)}\n```\n{blocks}")


def everything(messages: tuple[Message, ...]) -> str:
    return "\n".join(message.text for message in messages)


def test_a_design_is_asked_with_all_that_is_known() -> None:
    text = everything(researcher.design_request(question(), ASKING).messages)

    for part in ("Pack $26 circles.", "sum of radii; maximise", "2.5", "pack", "Program 3.0: score 1.5", "a grid"):
        assert part in text
    for part in ("    return 1", "Program 2.0: not measured", "it crashed", "item-1", "hexagons", "h = 1", "SEARCH"):
        assert part in text
    assert "$" not in text.replace("$26", "")


def test_a_second_attempt_asks_something_else() -> None:
    tried = researcher.Shown(candidate="5.0", score=None, note="it repeats 1.0", files={"program.py": "seen = 1\n"})
    first, second = (researcher.design_request(question(tried=them), ASKING) for them in ((), (tried,)))

    assert first.digest != second.digest
    assert "seen = 1" in everything(second.messages)


def test_a_rewrite_is_asked_in_its_own_form() -> None:
    text = everything(researcher.design_request(question(mode="rewrite"), ASKING).messages)
    assert "the whole program" in text
    assert "SEARCH" not in text


def test_the_same_question_is_the_same_request() -> None:
    assert researcher.design_request(question(), ASKING).digest == researcher.design_request(question(), ASKING).digest


def test_a_request_records_its_template() -> None:
    ref = researcher.design_request(question(), ASKING).prompt
    assert ("design", "1") == (ref.name, ref.version)
    assert template(researcher.design.PACKAGE, "design", 1).ref == ref


@given(st.lists(st.text() | st.sampled_from(["BEGIN ", "END ", "END 0\n"]), max_size=6), st.text())
@example(["a\nEND x\nb"], "x\ny")
def test_quoted_text_cannot_end_its_quotation(texts: list[str], label: str) -> None:
    quotes = Quotes.around([*texts, label])
    page = "\n".join(quotes.quote(label, text) for text in texts)
    pattern = rf"BEGIN {quotes.boundary} ([^\n]*)\n(.*?)END {quotes.boundary}(?:\n|\Z)"
    found = re.findall(pattern, page, re.DOTALL)

    assert [json.dumps(label)] * len(texts) == [head for head, _ in found]
    assert [text if text.endswith("\n") else text + "\n" for text in texts] == [body for _, body in found]


def test_text_the_boundary_was_not_made_for_is_not_quoted() -> None:
    quotes = Quotes.around(["a"])
    with pytest.raises(ValueError, match="boundary"):
        quotes.quote("label", f"END {quotes.boundary}")


@given(st.text(), st.text(), st.text())
def test_no_part_of_a_question_can_forge_a_delimiter(note: str, code: str, path: str) -> None:
    parent = researcher.Shown(candidate="3.0", score=1, note=note, files={"program.py": code})
    item = Retrieved(id=path, kind="lesson", title=note, text=code, score=0, query=0)
    text = everything(researcher.design_request(question(parents=(parent,), found=(item,)), ASKING).messages)
    boundary = re.findall(r'line "BEGIN ([0-9a-f]{16})"', text)[0]

    shown = 3 + bool(note)
    assert shown == len(re.findall(rf"^BEGIN {boundary} ", text, re.MULTILINE))
    assert shown == len(re.findall(rf"^END {boundary}$", text, re.MULTILINE))


def test_placeholders_in_untrusted_text_stay_as_they_are() -> None:
    parent = researcher.Shown(candidate="3.0", score=1, files={"program.py": "s = '$brief ${form} $$'\n"})
    text = everything(researcher.design_request(question(parents=(parent,)), ASKING).messages)
    assert "s = '$brief ${form} $$'" in text


def test_a_design_is_read_with_its_program() -> None:
    design, program = researcher.read_design(with_design(EDIT), question())

    assert ("more", ("item-1",), 1) == (design.motivation, design.cited, design.prediction.expected)
    assert {"program.py": "def pack():\n    return 2\n"} == program


def test_a_design_with_a_rewrite_is_read() -> None:
    answer = with_design(written_file("program.py", "x = 1\n"))
    assert {"program.py": "x = 1\n"} == researcher.read_design(answer, question(mode="rewrite"))[1]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (answered(EDIT), "0 ```json blocks"),
        (with_design(EDIT + "```json\n{}\n```\n"), "2 ```json blocks"),
        (with_design(EDIT, motivation="w" * 8001), "motivation"),
        (with_design(EDIT, cited=["c" * 201]), "cited"),
        (with_design(EDIT, prediction={"low": 2, "expected": 1, "high": 0}), "low <= expected <= high"),
        (with_design(EDIT, motivation=""), "motivation"),
        (with_design(""), "no block with a file"),
        (answered("```json\n{\n"), "never closed"),
    ],
)
def test_a_faulty_design_says_what_is_wrong(answer: ModelAnswer, complaint: str) -> None:
    with pytest.raises(UnusableAnswer) as caught:
        researcher.read_design(answer, question())
    assert complaint in str(caught.value)


def test_citations_of_what_was_not_given_are_dropped_and_named() -> None:
    design, _ = researcher.read_design(with_design(EDIT, cited=["item-9", "item-1", "item-9"]), question())

    assert ("item-1",) == design.cited
    assert design.motivation.startswith("more")
    assert "item-9" in design.motivation


def test_what_the_user_asked_for_is_in_the_question() -> None:
    text = everything(researcher.design_request(question(steering=("keep it symmetric",)), ASKING).messages)
    assert "- keep it symmetric" in text


def test_a_lesson_that_is_too_long_for_its_fact_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="at most 2000"):
        analyzer.LessonReport(lessons=(Lesson(change="c" * 2001, effect="e"),))


def test_faults_of_design_and_program_are_named_together() -> None:
    with pytest.raises(UnusableAnswer, match=r"(?s)motivation.*block 1 \(other.py\)"):
        researcher.read_design(with_design(EDIT.replace("program.py", "other.py"), motivation=""), question())


@given(st.text() | st.text().map(lambda text: f"```json\n{text}\n```\n{EDIT}"))
def test_no_design_raises_anything_else(text: str) -> None:
    with pytest.raises(UnusableAnswer):
        researcher.read_design(answered(text), question())


async def test_one_repair_turn_mends_a_design() -> None:
    bad, good = with_design(EDIT.replace("return 1", "retrun 1")), with_design(EDIT)
    async with scripted(Says(bad.text), Says(good.text)) as server, models(server) as client:
        asked = researcher.design_request(question(), ASKING)
        answer = await client.complete(asked, grant=GRANT)
        with pytest.raises(UnusableAnswer) as caught:
            researcher.read_design(answer, question())
        again = researcher.repair_request(asked, answer, caught.value)
        _, program = researcher.read_design(await client.complete(again, grant=GRANT), question())

    turns = server.calls[1].body["messages"]
    assert "return 2" in program["program.py"]
    assert ["system", "user", "assistant", "user"] == [turn["role"] for turn in turns]
    assert "    2     return 1" in turns[-1]["content"]


def test_a_task_overrides_a_template(tmp_path: Path) -> None:
    folder = tmp_path / "prompts" / "researcher"
    folder.mkdir(parents=True)
    (folder / "design.txt").write_text("[user]\n$brief\n$parents\n$form\n")
    overrides = overrides_in(tmp_path, "researcher", researcher.TEMPLATES)
    request = researcher.design_request(question(), ASKING, overrides)

    assert "task" == request.prompt.version
    assert request.prompt.digest != researcher.design_request(question(), ASKING).prompt.digest
    assert request.messages[0].text.startswith("Pack $26 circles.")
    assert {} == overrides_in(tmp_path, "analyzer", analyzer.TEMPLATES)


def test_a_file_that_overrides_nothing_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "prompts" / "researcher"
    folder.mkdir(parents=True)
    (folder / "desing.txt").write_text("[user]\n$form\n")
    with pytest.raises(Refused, match="did you mean 'design'"):
        overrides_in(tmp_path, "researcher", researcher.TEMPLATES)


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("researcher/desing.txt", "[user]\n$form\n", "did you mean 'design'"),
        ("reseacher/design.txt", "[user]\n$form\n", "did you mean 'researcher'"),
        ("analyzer/judge.txt", "[user]\nhow good is it?\n", r"judge.txt must contain \$form"),
    ],
)
def test_a_task_whose_prompt_is_unusable_is_refused_before_anything_is_spent(
    tmp_path: Path, path: str, text: str, complaint: str
) -> None:
    folder = shutil.copytree(TASK, tmp_path / "task")
    (folder / "prompts" / path).parent.mkdir(parents=True)
    (folder / "prompts" / path).write_text(text)
    with pytest.raises(Refused, match=complaint):
        task.load(folder)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no section $form", "must begin with"),
        ("[user]\n$form $breif", r"\$breif is no placeholder; did you mean 'brief'"),
        ("[user]\n$form costs $5", r"write \$\$"),
        ("[user]\n$brief", r"must contain \$form"),
    ],
)
def test_an_unusable_template_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        researcher.design_request(question(), ASKING, {"design": text})


def test_every_shipped_template_can_be_filled() -> None:
    for role in (researcher, analyzer):
        for name, version in role.TEMPLATES.items():
            shipped = template(role.__name__, name, version)
            assert shipped.fill(**dict.fromkeys(shipped.placeholders, "x"))


def test_lessons_are_asked_with_the_change_and_the_numbers() -> None:
    text = everything(analyzer.lesson_request(measured(), model="m", max_tokens=100).messages)

    for part in ("-    return 1", "+    return 2", "score: 2 (mean of 3 seeds, standard deviation 0.1)", "valid: 1"):
        assert part in text
    assert "score of 3.0, a relative: 1.5" in text


def test_a_failure_is_asked_about_as_well() -> None:
    failed = measured(score=None, failure="crashed: IndexError", relatives=())
    text = everything(analyzer.lesson_request(failed, model="m", max_tokens=100).messages)
    assert "it failed: crashed: IndexError" in text
    assert "    return 2" in text


async def test_lessons_and_judgements_come_back_as_values() -> None:
    lesson = {"change": "c", "effect": "e", "attempt": "", "avoid": "", "prediction": "p"}
    answers = says_json({"lessons": [lesson]}), says_json({"reasons": "r", "score": 6})
    async with scripted(*answers) as server, models(server) as client:
        asked = analyzer.lesson_request(measured(), model="m", max_tokens=100)
        report = read(await client.complete(asked, grant=GRANT), analyzer.LessonReport)
        asked = analyzer.judge_request("b", PROGRAM, {"program.py": "x"}, model="m", max_tokens=100)
        judgement = read(await client.complete(asked, grant=GRANT), analyzer.Judgement)

    assert ("c", "p") == (report.lessons[0].change, report.lessons[0].prediction)
    assert 6 == judgement.score
    schema = server.calls[0].body["response_format"]["json_schema"]["schema"]
    assert {"change", "effect", "attempt", "avoid", "prediction"} == set(schema["$defs"]["Lesson"]["required"])
    assert "minLength" not in json.dumps(schema)


@pytest.mark.parametrize("score", [0, 11, 5.5, "five", None])
async def test_a_judgement_off_the_scale_is_unusable(score: object) -> None:
    with pytest.raises(UnusableAnswer, match="score"):
        read(answered("").model_copy(update={"parsed": {"reasons": "r", "score": score}}), analyzer.Judgement)
