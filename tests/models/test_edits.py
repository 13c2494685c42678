"""What an answer must look like to become a program, and what is said when it does not."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolvent_researcher import edits
from evolvent_researcher.edits import EditError, Hunk, Mode, apply, written_edit, written_file

PROGRAM = {"program.py": "import math\n\n\ndef pack():\n    x = 1\n    return x\n", "notes.md": "one\ntwo\n"}


def fault(answer: str, program: dict[str, str] = PROGRAM, mode: Mode = "edits") -> str:
    with pytest.raises(EditError) as caught:
        apply(answer, program, mode=mode)
    return str(caught.value)


def edit(path: str, search: str, replace: str) -> str:
    return written_edit(path, Hunk(tuple(search.split("\n")), tuple(replace.split("\n"))))


def test_an_edit_replaces_whole_lines_at_the_one_place() -> None:
    answer = "I raise x.\n" + edit("program.py", "    x = 1", "    x = 2") + "That is all."
    assert apply(answer, PROGRAM, mode="edits") == PROGRAM | {"program.py": PROGRAM["program.py"].replace("= 1", "= 2")}


def test_edits_apply_in_order_over_several_files() -> None:
    answer = edit("notes.md", "one", "three") + edit("program.py", "    x = 1", "    x = 2")
    answer += written_edit("notes.md", Hunk(("three",), ("four",)), Hunk(("two",), ()))
    result = apply(answer, PROGRAM, mode="edits")

    assert "four\n" == result["notes.md"]
    assert "    x = 2\n" in result["program.py"]


def test_files_are_added_replaced_and_deleted() -> None:
    answer = written_file("lib/new.py", "y = 1\n") + "```delete notes.md\n```\n" + written_file("program.py", "z = 1\n")
    assert {"lib/new.py": "y = 1\n", "program.py": "z = 1\n"} == apply(answer, PROGRAM, mode="edits")


def test_a_rewrite_is_exactly_the_files_given() -> None:
    assert {"a.py": "a = 1\n"} == apply(written_file("a.py", "a = 1\n"), PROGRAM, mode="rewrite")


def test_a_json_block_is_the_callers() -> None:
    answer = '```json\n{"a": 1}\n```\n' + edit("notes.md", "one", "three")
    assert "three\ntwo\n" == apply(answer, PROGRAM, mode="edits")["notes.md"]


def test_windows_line_ends_are_read() -> None:
    answer = edit("notes.md", "one", "three").replace("\n", "\r\n")
    assert "three\ntwo\n" == apply(answer, {"notes.md": "one\r\ntwo\r\n"}, mode="edits")["notes.md"]


def test_a_part_of_a_line_does_not_match() -> None:
    assert "not in the file as it stands" in fault(edit("program.py", "x = 1", "x = 2"))


def test_white_space_must_match_and_the_closest_lines_are_shown() -> None:
    message = fault(edit("program.py", "def pack():\n  x = 1", "def pack():\n  x = 2"))

    assert "block 1 (program.py)" in message
    assert "    4 def pack():\n    5     x = 1\n" in message


def test_a_misspelt_line_shows_its_likeness() -> None:
    assert "    6     return x" in fault(edit("program.py", "    retrun x", "    return 2"))


def test_a_search_with_no_likeness_says_so() -> None:
    assert "nor anything like" in fault(edit("program.py", "@@@@@@@@", "y"))


def test_two_matches_name_both_lines() -> None:
    assert "line 1 and again at line 3" in fault(edit("a.py", "x", "y"), {"a.py": "x\nz\nx\n"})
    assert "line 1 and again at line 2" in fault(edit("a.py", "x\nx", "y"), {"a.py": "x\nx\nx\n"})


def test_every_faulty_block_is_named_at_once() -> None:
    answer = edit("program.py", "nothing", "y") + edit("notes.md", "one", "three") + edit("prgram.py", "    x = 1", "y")
    message = fault(answer)

    assert "block 1 (program.py)" in message
    assert "block 2" not in message
    assert "block 3 (prgram.py): the program has no such file; did you mean program.py?" in message


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "no block"),
        ("just prose", "no block"),
        ("```python program.py\nx = 1\n", "never closed"),
        ("```python\nx = 1\n```\n", "must name the file"),
        ("```\nx = 1\n```\n", "must name the file"),
        ("```python ../a.py\nx = 1\n```\n", "no plain relative path"),
        ("```python /etc/passwd\nx = 1\n```\n", "no plain relative path"),
        (f"```python {'a' * 201}\nx = 1\n```\n", "no plain relative path"),
        ("```delete nothing.py\n```\n", "no such file"),
        ("```edit program.py\n```\n", "there is no <<<<<<<"),
        ("```edit program.py\nx\n```\n", "stands outside"),
        ("```edit program.py\n<<<<<<< SEARCH\nx\n```\n", "======= is missing"),
        ("```edit program.py\n<<<<<<< SEARCH\nx\n=======\ny\n```\n", ">>>>>>> REPLACE is missing"),
        ("```edit program.py\n<<<<<<< SEARCH\n=======\ny\n>>>>>>> REPLACE\n```\n", "SEARCH is blank"),
        ("```edit program.py\n<<<<<<< SEARCH\nx\n=======\nx\n>>>>>>> REPLACE\n```\n", "are the same"),
        ("```edit a\n<<<<<<< SEARCH\nx\n=======\ny\n=======\nz\n>>>>>>> REPLACE\n```\n", "markers of the pair longer"),
        ("```python program.py\n<<<<<<< SEARCH\nx\n=======\ny\n>>>>>>> REPLACE\n```\n", "must read ```edit program.py"),
        (written_file("a.py", "a\n") + written_file("a.py", "b\n"), "given or deleted twice"),
        ("```delete program.py\n```\n```delete notes.md\n```\n```delete a\n```\n", "no file of the program is left"),
        (written_file("notes.md", "one\ntwo\n"), "the same as before"),
        ("\ud800", "not valid Unicode"),
        ("x" * (edits.ANSWER_BYTES + 1), f"above the limit of {edits.ANSWER_BYTES}"),
        (written_file("a.py", "x" * (edits.PROGRAM_BYTES + 1)), f"above the limit of {edits.PROGRAM_BYTES}"),
        ("".join(written_file(f"{n}.py", "x") for n in range(64)), "67 files, above the limit of 64"),
        (written_edit("a", *[Hunk(("x",), ("y",))] * 65), "65 pairs, above the limit of 64"),
        ("".join(edit("no.py", "x", "y") for _ in range(30)), "block 21 and those after it were not tried"),
        ("".join(written_file(f"{n}.py", "x") for n in range(65)), "65 blocks, above the limit of 64"),
    ],
)
def test_each_fault_has_its_name(answer: str, reason: str) -> None:
    assert reason in fault(answer, PROGRAM | {"a": "x\n"})


def test_a_rewrite_takes_no_edits() -> None:
    assert "a full rewrite was asked for" in fault(edit("program.py", "    x = 1", "y"), mode="rewrite")


def test_a_fence_within_a_file_cuts_nothing_off() -> None:
    text = 'DOC = """\n```python\nx = 1\n```\n"""\ny = 2\n'
    assert {"a.py": text} == apply(written_file("a.py", text), {}, mode="rewrite")
    assert "never closed" in fault(f"```python a.py\n{text}```\n", mode="rewrite")
    assert "must name the file" in fault(
        f"```python a.py\n{text}{text}```\n".replace("```python\n", "```\n"), mode="rewrite"
    )


def test_a_long_program_is_kept_whole() -> None:
    text = "".join(f"line_{number} = {number}\n" for number in range(20_000))
    assert text == apply(written_file("a.py", text), {}, mode="rewrite")["a.py"]


LINES = st.lists(
    st.sampled_from(["", "x", "    x", "```", "````", "=======", "<<<<<<< SEARCH", ">>>>>>> REPLACE", "é"])
)
TEXTS = LINES.map(lambda lines: "".join(f"{line}\n" for line in lines))
PATHS = st.sampled_from(["a.py", "b.py", "lib/c.py", "a b.txt"])
PROGRAMS = st.dictionaries(PATHS, TEXTS, min_size=1)


@given(PROGRAMS)
@example({"a.py": "<<<<<<< SEARCH\n"})
def test_a_written_program_reads_back(program: dict[str, str]) -> None:
    answer = "prose\n".join(written_file(path, text) for path, text in program.items())
    if any(text.startswith("<<<<<<< SEARCH") for text in program.values()):
        assert "must read ```edit" in fault(answer, {}, mode="rewrite")
    else:
        assert program == apply(answer, {}, mode="rewrite")


@given(st.lists(st.integers(0, 999), min_size=1, max_size=30, unique=True), st.data())
def test_a_written_edit_makes_the_text_it_was_made_for(numbers: list[int], data: st.DataObject) -> None:
    lines = [f"line {number}" for number in numbers]
    begin = data.draw(st.integers(0, len(lines) - 1))
    end = data.draw(st.integers(begin + 1, len(lines)))
    new = data.draw(LINES)
    tail = data.draw(st.sampled_from(["", "\n"]))
    answer = written_edit("a.py", Hunk(tuple(lines[begin:end]), tuple(new)))
    expected = [*lines[:begin], *new, *lines[end:]]
    result = apply(answer, {"a.py": "\n".join(lines) + tail}, mode="edits")

    if expected or not tail:
        assert "\n".join(expected) + tail == result["a.py"]
    else:
        assert "" == result["a.py"]


FRAGMENTS = st.sampled_from(
    [
        "```",
        "```edit a.py\n",
        "```python a.py\n",
        "```delete a.py\n",
        "<<<<<<< SEARCH\n",
        "=======\n",
        ">>>>>>> REPLACE\n",
    ]
)


@given(st.lists(FRAGMENTS | st.text(max_size=20) | st.sampled_from(["\n", "x\n"])).map("".join), PROGRAMS)
def test_no_answer_raises_anything_else(answer: str, program: dict[str, str]) -> None:
    modes: tuple[Mode, ...] = ("edits", "rewrite")
    for mode in modes:
        try:
            result = apply(answer, program, mode=mode)
        except EditError as error:
            assert str(error)
        else:
            assert result != program
