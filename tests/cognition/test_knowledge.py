"""Folders of knowledge are read whole or refused with the file, the line and the nearest valid key."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.errors import Refused
from evolvent.knowledge import load, parse_jsonl, parse_markdown
from evolvent_schemas.values import KnowledgeItem

ITEM = """---
id: delta-rule
title: Erase before you write
source: Some Paper: a subtitle
applies: long recall
---
First paragraph.

```python
def step(s):
    return s
```

Last paragraph.
"""


def test_markdown_gives_every_field() -> None:
    assert parse_markdown(ITEM) == KnowledgeItem(
        id="delta-rule",
        title="Erase before you write",
        source="Some Paper: a subtitle",
        insight="First paragraph.\n\n\nLast paragraph.",
        applies="long recall",
        code="def step(s):\n    return s",
    )


def test_windows_line_ends_and_a_byte_order_mark_change_nothing() -> None:
    assert parse_markdown("\ufeff" + ITEM.replace("\n", "\r\n")) == parse_markdown(ITEM)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.md:1: an item starts with a line `---`"),
        ("---\nid: a\n", "x.md:3: the front matter is not closed"),
        ("---\nid: a\ntitel: b\n---\nc", "x.md:3: unknown key 'titel', did you mean 'title'?"),
        ("---\nid: a\nid: b\n---\nc", "x.md:3: 'id' stands twice, first in line 2"),
        ("---\nid a\n---\nc", "x.md:2: 'id a' is not `key: value`"),
        ("---\ntitle: b\nid: A b\n---\nc", "x.md:3: id: String should match"),
        ("---\nid: a\n---\nc", "x.md:1: title: Field required"),
        ("---\nid: a\ntitle: b\n---\n\n", "x.md:5: insight: String should have at least 1"),
        ("---\nid: a\ntitle: b\n---\nc\n```python\n1\n", "x.md:6: the ```python fence is not closed"),
        ("---\nid: a\ntitle: b\n---\nc\n```python\n1\n```\n```python\n2\n```\n", "x.md:9: a second ```python fence"),
    ],
)
def test_a_malformed_item_is_refused_at_its_line(text: str, message: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_markdown(text, name="x.md")

    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "x.jsonl:1: id: Field required"),
        ('\n\n{"id"', "x.jsonl:3: not JSON"),
        ('{"id":"a","title":"b","insight":"\\ud800"}', "x.jsonl:1: insight: Input should be a valid string"),
        ("[1]", "x.jsonl:1: a line holds one JSON object, not list"),
        ("[" * 100_000, "x.jsonl:1: not JSON"),
        ('{"id":"a","title":"b","insigth":"c"}', "x.jsonl:1: insigth: unknown key 'insigth', did you mean 'insight'"),
        (
            '{"id":"a","title":"b","insight":"c","applys":"c"}',
            "x.jsonl:1: applys: unknown key 'applys', did you mean 'applies'",
        ),
    ],
)
def test_a_malformed_line_is_refused_by_its_number(text: str, message: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_jsonl(text, name="x.jsonl")

    assert str(refused.value).startswith(message)


def test_a_folder_is_read_whole_and_sorted_by_id(tmp_path: Path) -> None:
    (tmp_path / "z.md").write_text(ITEM)
    (tmp_path / "deeper").mkdir()
    lines = [{"id": key, "title": key, "insight": "so \u2028 it is"} for key in ("x", "a")]
    (tmp_path / "deeper" / "b.jsonl").write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    (tmp_path / "notes.txt").write_text("not knowledge")

    assert [item.id for item in load(tmp_path)] == ["a", "delta-rule", "x"]


def test_an_id_used_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text(ITEM)
    (tmp_path / "b.jsonl").write_text('\n{"id":"delta-rule","title":"t","insight":"i"}')

    with pytest.raises(Refused, match=r"b\.jsonl:2: the id 'delta-rule' is already that of .*a\.md:1"):
        load(tmp_path)


def test_a_missing_folder_is_refused_and_an_empty_one_is_not(tmp_path: Path) -> None:
    assert load(tmp_path) == []
    with pytest.raises(Refused, match="no such folder"):
        load(tmp_path / "nowhere")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"---\nid: \xff\n")

    with pytest.raises(Refused, match="byte 8 is not UTF-8"):
        load(tmp_path)


@given(st.text(max_size=300))
def test_any_text_is_an_item_or_refused(text: str) -> None:
    for read in (parse_markdown, parse_jsonl):
        try:
            read(text)
        except Refused:
            continue
