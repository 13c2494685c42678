"""Reading commands show the log whole, name what is not there, and say what to do next."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import evolvent as api
from tests.cli.shell import evolvent

TASK = Path(__file__).parents[1] / "chaos" / "task"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """A folder with one run that was paused, resumed and finished."""
    folder = tmp_path_factory.mktemp("lab")
    async with api.open(folder / ".evolvent") as opened:
        run = await opened.start(TASK, rounds=6, seed=1, run="first")
        await run.pause()
        await run.resume()
        await run.wait()
    yield folder


def test_tail_names_the_run_that_is_not_there_and_the_nearest(lab: Path) -> None:
    done = evolvent("tail", "-f", "furst", cwd=lab)
    assert 2 == done.returncode
    assert "there is no run 'furst' in .evolvent, did you mean first?" in done.stderr


def test_tail_names_the_type_that_is_not_there_and_the_nearest(lab: Path) -> None:
    done = evolvent("tail", "-f", "--type", "discovery.claim", cwd=lab)
    assert 2 == done.returncode
    assert "no fact has the type 'discovery.claim', did you mean discovery.claimed?" in done.stderr


def test_tail_says_what_each_directive_asks_for(lab: Path) -> None:
    done = evolvent("tail", "first", "--type", "directive.issued", cwd=lab)
    asked = [line.partition('"action":"')[2].partition('"')[0] for line in done.stdout.splitlines()]
    assert ["start", "pause", "resume"] == asked
