"""`audit replay` names what does not reproduce: changed code, and a changed fact, with its cause."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from evolvent import audit, runs, task
from evolvent.embedded import embedded
from evolvent.follow import follow
from evolvent.platform import Platform, open_platform
from evolvent.provision import ROLES
from evolvent.serve import hosted
from evolvent.settings import Settings
from evolvent_schemas import RunFinished, filter_for
from tests.chaos.ring import TASK

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = "audited"
AUDIT = """
import sys
{change}
from evolvent.cli import main
sys.argv = ["evolvent", "audit", "replay", "audited", "--json", "--home", {home!r}]
main()
"""
ANOTHER_SAMPLER = """
from evolvent_researcher import samplers
chosen = samplers.ucb1
samplers.SAMPLERS["ucb1"] = lambda *given: chosen(*given)[::-1]
"""
ANOTHER_LESSON = """
from evolvent_analyzer import handlers
taught = handlers._lessons
handlers._lessons = lambda *given: taught(*given)[:0]
"""
ANOTHER_LIFE = """
from evolvent_conductor import life
life._successors = lambda life, number: ()
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one finished run of six rounds."""
    settings = Settings(home=tmp_path_factory.mktemp("audit") / "home")
    async with embedded(settings), hosted(settings, ROLES), open_platform(settings, "test") as platform:
        plan = runs.Plan(task.load(TASK), 3, {"rounds": 6}, {"width": 2})
        await runs.start(platform, plan, RUN)
        async with asyncio.timeout(60):
            async for _ in platform.log("test").follow([filter_for(RunFinished)]):
                break
    return settings.home


def _audit(home: Path, change: str = "") -> tuple[int, dict[str, Any]]:
    """Run the command in a process whose handlers were changed first."""
    code = AUDIT.format(change=change, home=str(home))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert found.stdout, found.stderr
    return found.returncode, json.loads(found.stdout)


async def test_unchanged_code_reproduces_every_decision(home: Path) -> None:
    code, found = await asyncio.to_thread(_audit, home)

    assert (0, True, []) == (code, found["reproduced"], found["findings"])
    assert found["decisions"] > 30


@pytest.mark.parametrize(
    ("change", "role", "subject", "cause"),
    [
        (ANOTHER_SAMPLER, "researcher", "context.sampled", "round.opened"),
        (ANOTHER_LESSON, "analyzer", "candidate.analyzed", "experiment.completed"),
        (ANOTHER_LIFE, "conductor", "round.opened", "candidate.analyzed"),
    ],
    ids=["sampler", "lesson", "life"],
)
async def test_a_changed_handler_is_named_with_the_cause(
    home: Path, change: str, role: str, subject: str, cause: str
) -> None:
    code, found = await asyncio.to_thread(_audit, home, change)
    named = [finding for finding in found["findings"] if f".{subject}." in finding["subject"]]

    assert (1, False) == (code, found["reproduced"])
    assert named
    assert {role} == {finding["role"] for finding in named}
    assert all(f".{cause}." in finding["cause"] for finding in named), named


async def test_a_tampered_fact_is_named_with_its_cause(home: Path, tmp_path: Path) -> None:
    """Whoever owns the disk can write another log; only the decisions tell."""
    tampered = ""
    async with open_home(home) as original, open_home(tmp_path / "copy") as copy:
        async for subject, headers, data in _messages(original, "BLOBS", "LOG"):
            body = data
            if ".candidate.analyzed." in subject and not tampered and ".h0." not in subject:
                tampered, body = subject, data.replace(b'"fitness":-', b'"fitness":')
                assert body != data
            await copy.wire.publish(subject, body, headers)
        found = await audit.replay(copy, RUN, ROLES)
    (finding,) = [finding for finding in found.findings if finding.subject == tampered]

    assert ("analyzer", "differs") == (finding.role, finding.verdict)
    assert ".experiment.completed." in finding.cause
    assert "fitness" in finding.detail


@contextlib.asynccontextmanager
async def open_home(home: Path) -> AsyncIterator[Platform]:
    settings = Settings(home=home)
    async with embedded(settings), open_platform(settings, "test") as platform:
        yield platform


async def _messages(platform: Platform, *streams: str) -> AsyncIterator[tuple[str, dict[str, str], bytes]]:
    for stream in streams:
        last = (await platform.wire.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
        async for message, _ in follow(platform.wire, stream, [">"], until=last):
            yield message.subject, dict(message.headers or {}), message.data
