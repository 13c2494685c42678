"""Every adapter of the index files and finds documents by the same rules."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolvent.errors import Permanent, Refused, Transient, Unreachable
from evolvent_cognition.documents import CHUNK_STRIDE, CHUNK_WORDS, CODE_LIMIT, TEXT_LIMIT, Document, chunks
from evolvent_cognition.fusion import DEPTH
from evolvent_cognition.library import Library
from evolvent_schemas.values import KnowledgeItem, Lesson

QUESTIONS = [json.loads(line) for line in (Path(__file__).parent / "questions.jsonl").read_text().splitlines()]


def document(ordinal: int, text: str, **changes) -> Document:
    return Document(**{"id": f"d{ordinal}", "kind": "item", "title": "t", "text": text, "ordinal": ordinal} | changes)


@pytest.fixture
async def library(location: str, embedder):
    library = await Library.open(location, run="r1", embedder=embedder)
    yield library
    await library.close()


async def found(library: Library, *queries: str, up_to: int = 10**6, limit: int = 5) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in await library.search(queries, up_to=up_to, limit=limit)]


async def test_a_document_is_found_with_all_that_was_filed(library: Library) -> None:
    await library.add([document(0, "erase before writing", title="delta", code="x = 1"), document(1, "gates forget")])

    hit = (await library.search(["forgetting", "writes are erased"], up_to=1))[0]

    assert (hit.id, hit.kind, hit.title, hit.text, hit.code) == ("d0", "item", "delta", "erase before writing", "x = 1")
    assert hit.query == 1


async def test_a_search_sees_nothing_after_its_cause(library: Library) -> None:
    await library.add([document(0, "gates forget"), document(1, "gates forget"), document(2, "gates forget slowly")])

    assert {key for key, _ in await found(library, "gates", up_to=1)} == {"d0", "d1"}
    assert await found(library, "gates", up_to=-1) == []


async def test_later_documents_change_no_score_of_an_earlier_decision(library: Library) -> None:
    """Word frequencies are counted over what the decision may see, so that a redelivery finds the same."""
    await library.add([document(0, "delta erases"), document(1, "decay forgets"), document(2, "delta forgets twice")])
    before = await found(library, "delta forgets", "erases", up_to=2)
    await library.add([document(n, "delta erases nothing at all") for n in range(3, 40)])

    assert before == await found(library, "delta forgets", "erases", up_to=2)


async def test_filing_twice_changes_nothing(library: Library) -> None:
    documents = [document(n, f"gates forget {n} " * 50) for n in range(5)]
    await library.add(documents)
    before = await found(library, "gates")
    await library.add(documents)

    assert 5 == await library.count()
    assert before == await found(library, "gates")


async def test_of_two_documents_under_one_id_the_later_visible_one_is_found(library: Library) -> None:
    await library.add([document(0, "old gates", id="same"), document(1, "new gates", id="same")])

    assert ["new gates"] == [hit.text for hit in await library.search(["gates"], up_to=1)]
    assert ["old gates"] == [hit.text for hit in await library.search(["gates"], up_to=0)]


async def test_an_item_and_a_lesson_may_share_an_id(library: Library) -> None:
    await library.add([document(0, "gates", id="same"), document(1, "gates", id="same", kind="lesson")])

    assert {"item", "lesson"} == {hit.kind for hit in await library.search(["gates"], up_to=1)}


@pytest.mark.parametrize("query", ["", " ", "the of and", "\0", "\ud800", "?!", "%" * 10_000])
async def test_a_query_without_a_word_finds_nothing(library: Library, query: str) -> None:
    await library.add([document(0, "gates forget")])

    assert await found(library, query) == []
    assert await found(library, query, "gates") == await found(library, "the", "gates")


async def test_a_lone_surrogate_in_a_query_does_no_harm(library: Library) -> None:
    await library.add([document(0, "gates forget")])

    assert ["d0"] == [key for key, _ in await found(library, "gates \ud800")]


async def test_an_empty_library_finds_nothing(library: Library) -> None:
    assert await found(library, "gates") == []
    assert 0 == await library.count()


async def test_no_queries_find_nothing(library: Library) -> None:
    assert await library.search([], up_to=5) == []


async def test_a_huge_text_is_cut_and_half_a_snippet_is_never_handed_out(library: Library) -> None:
    await library.add([document(0, "gates " * 200_000 + "unreachable", code="x" * (CODE_LIMIT + 1))])

    hit = (await library.search(["gates " * 100_000], up_to=0))[0]
    assert (TEXT_LIMIT, "…", "") == (len(hit.text), hit.text[-1], hit.code)


async def test_words_beyond_the_limit_of_a_text_are_not_searched() -> None:
    library = await Library.open("memory", run="r")
    await library.add([document(0, "gates " * TEXT_LIMIT + "unreachable")])

    assert await found(library, "gates")
    assert await found(library, "unreachable") == []
    await library.close()


async def test_the_index_can_be_made_again_from_the_documents_alone(library: Library, shipped) -> None:
    await library.add(shipped[:20])
    before = await found(library, QUESTIONS[0]["question"])
    await library.clear()
    assert 0 == await library.count()
    await library.add(shipped[:20])

    assert before == await found(library, QUESTIONS[0]["question"])


async def test_runs_do_not_see_each_other(location: str, tmp_path: Path) -> None:
    places = (location, f"{location}-2" if location.startswith(str(tmp_path)) else location)
    first, second = [await Library.open(place, run=run) for place, run in zip(places, ("r1", "r2"), strict=True)]
    await first.add([document(0, "gates")])

    assert await found(second, "gates") == []
    await first.close()
    await second.close()


@pytest.mark.parametrize("hybrid", [False, True])
async def test_all_adapters_give_the_same_answers(shipped, rest, tmp_path: Path, embedder, hybrid: bool) -> None:
    places = (str(tmp_path), rest[1], "memory")
    libraries = [await Library.open(p, run="r", embedder=embedder if hybrid else None) for p in places]
    for library in libraries:
        await library.add(shipped)

    for number, row in enumerate(QUESTIONS[:40]):
        queries = [row["question"], QUESTIONS[-number]["question"]]
        for up_to in (len(shipped) // 2, len(shipped)):
            edge, server, memory = [await library.search(queries, up_to=up_to, limit=8) for library in libraries]
            assert edge == server == memory
            assert 8 == len(edge)
    for library in libraries:
        await library.close()


async def test_edge_and_memory_agree_on_ties(tmp_path: Path) -> None:
    """Engines break ties by their own order, and cut them at their own place."""
    documents = [document(n, "gates forget") for n in range(450)]
    answers = []
    for place in (str(tmp_path), "memory"):
        library = await Library.open(place, run="r")
        await library.add(documents)
        answers.append(await found(library, "gates", up_to=2 * DEPTH - 1, limit=5))
        await library.close()

    assert answers[0] == answers[1]


async def test_a_folder_reopened_by_another_model_starts_empty_and_keeps_the_old_index(tmp_path, embedder) -> None:
    plain = await Library.open(str(tmp_path), run="r")
    await plain.add([document(0, "gates")])
    await plain.close()
    hybrid = await Library.open(str(tmp_path), run="r", embedder=embedder)
    assert 0 == await hybrid.count()
    await hybrid.close()

    plain = await Library.open(str(tmp_path), run="r")
    assert 1 == await plain.count()
    await plain.close()


HOLDER = """
import asyncio, sys
from evolvent_cognition.documents import Document
from evolvent_cognition.fusion import DEPTH
from evolvent_cognition.library import Library

async def main():
    library = await Library.open(sys.argv[1], run="r")
    for n in range(int(sys.argv[2])):
        await library.add([Document(id=f"d{n}", kind="item", title="t", text="gates forget", ordinal=n)])
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def hold(folder: Path, documents: int) -> asyncio.subprocess.Process:
    command = (sys.executable, "-c", HOLDER, str(folder), str(documents))
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert b"ready\n" == await process.stdout.readline()
    return process


async def test_a_second_process_is_refused_and_a_killed_one_keeps_its_documents(tmp_path: Path) -> None:
    holder = await hold(tmp_path, 7)
    with pytest.raises(Refused, match="another process has this index open"):
        await Library.open(str(tmp_path), run="r")
    holder.send_signal(signal.SIGKILL)
    await holder.communicate()

    library = await Library.open(str(tmp_path), run="r")
    assert 7 == await library.count()
    assert 7 == len(await found(library, "gates", limit=10))
    await library.close()


async def test_a_folder_killed_while_it_was_made_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "evolvent-r-sparse.draft" / "segments").mkdir(parents=True)
    library = await Library.open(str(tmp_path), run="r")
    assert 0 == await library.count()
    await library.close()


async def test_a_damaged_folder_is_refused_and_may_be_deleted(tmp_path: Path) -> None:
    library = await Library.open(str(tmp_path), run="r")
    await library.close()
    (tmp_path / "evolvent-r-sparse" / "edge_config.json").write_text("{")

    for _ in range(2):
        with pytest.raises(Refused, match="delete the folder, it is made again from the log"):
            await Library.open(str(tmp_path), run="r")


async def test_a_place_that_is_none_is_refused() -> None:
    with pytest.raises(Refused, match="give memory, an http"):
        await Library.open("nats://x", run="r")


async def test_a_server_that_is_away_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="is the Qdrant server up"):
        await Library.open("http://127.0.0.1:9", run="r")


@pytest.mark.parametrize(("status", "error"), [(500, Transient), (503, Transient), (429, Transient), (400, Permanent)])
async def test_a_failing_server_is_classified(rest, status: int, error: type[Exception]) -> None:
    qdrant, url = rest
    library = await Library.open(url, run="r")
    assert {"ordinal", "last"} == qdrant.indexed
    qdrant.fault = status

    with pytest.raises(error):
        await library.search(["gates"], up_to=1)
    await library.close()


@given(st.text())
def test_chunks_cover_every_word_in_order(text: str) -> None:
    words = text.split()
    pieces = [chunk.split() for chunk in chunks(text)]

    assert words == [word for piece in pieces[:-1] for word in piece[:CHUNK_STRIDE]] + pieces[-1]
    assert all(len(piece) <= CHUNK_WORDS for piece in pieces)


def test_documents_are_made_of_items_and_lessons() -> None:
    item = KnowledgeItem(id="i", title="T", insight="I", applies="A", code="c")
    lesson = Lesson(change="C", effect="E", avoid="V")

    assert Document.of_item(item, 3).text == "I\n\nApplies: A"
    made = Document.of_lesson(lesson, id="4.0", ordinal=9)
    assert (made.title, made.text, made.kind, made.ordinal) == ("C", "E\nAvoid: V", "lesson", 9)
