"""Artifacts are written once, found by their content, and checked when they are read."""

import pytest

from evolvent.artifacts import CHUNK, STREAM, Artifacts
from evolvent.errors import Permanent, Transient
from evolvent.platform import Platform
from evolvent_schemas import envelope, subjects
from evolvent_schemas.values import INLINE_LIMIT, Program, sha256

SIZES = [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK]


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_read_is_what_was_put(platform: Platform, size: int) -> None:
    content = bytes(index % 251 for index in range(size))
    digest = await platform.artifacts.put(content)

    assert sha256(content) == digest
    assert content == await Artifacts(platform.wire).get(digest)


async def stored(platform: Platform) -> int:
    return int((await platform.wire.api(f"STREAM.INFO.{STREAM}"))["state"]["messages"])


async def test_putting_it_again_stores_nothing(platform: Platform) -> None:
    content = b"x" * (2 * CHUNK)
    await platform.artifacts.put(content)
    before = await stored(platform)
    await Artifacts(platform.wire).put(content)

    assert 2 == before == await stored(platform)


async def test_one_that_was_cut_off_is_completed_by_the_next_writer(platform: Platform) -> None:
    content = b"y" * (2 * CHUNK)
    first = subjects.blob(sha256(content), 0)
    await platform.wire.store(first, content[:CHUNK], {envelope.CHUNKS: "2"})
    with pytest.raises(Transient, match="lacks chunk 1 of 2"):
        await platform.artifacts.get(sha256(content))
    await platform.artifacts.put(content)

    assert content == await Artifacts(platform.wire).get(sha256(content))


async def test_a_damaged_one_is_named_and_not_handed_out(platform: Platform) -> None:
    digest = sha256(b"the truth")
    await platform.wire.store(subjects.blob(digest, 0), b"a lie", {envelope.CHUNKS: "1"})

    with pytest.raises(Permanent, match=f"{digest} is damaged"):
        await platform.artifacts.get(digest)


async def test_a_missing_one_may_still_come(platform: Platform) -> None:
    with pytest.raises(Transient, match="lacks chunk 0"):
        await platform.artifacts.get("0" * 64)


async def test_a_program_of_any_length_comes_back_whole(platform: Platform) -> None:
    """The original cuts code over 10,000 characters in the middle."""
    for length in (100, 20_000, INLINE_LIMIT, 2 * CHUNK):
        files = {"program.py": "#" * length + "\n", "deep/part.py": "x = 1\n"}
        program = Program.of(files)
        await platform.artifacts.put_program(program, files)

        assert files == await Artifacts(platform.wire).files(program)
        assert (program.files is None) == (length >= INLINE_LIMIT)
