"""The local backend: each outcome has its name, and nothing outlives what started it."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evolvent.errors import Refused
from evolvent_engineer import tiers
from evolvent_engineer.backend import Completed, Failed
from evolvent_engineer.local import LocalBackend
from tests.engineer.laboratory import HEALTHY, Laboratory

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
SLEEPER = "import time\ndef run(target):\n    time.sleep(60)\n"
PLAIN = """
import numpy as np
def evaluate(candidate, settings, seed):
    sent = {"none": None, "flag": True, "number": -7, "ratio": 0.5, "text": "ä", "bytes": b"\\0\\1",
            "list": [1, [2.0]], "array": np.arange(6, dtype=">i4").reshape(2, 3), "empty": np.zeros((0, 3)),
            "scalar": np.float32(0.25), "complex": np.array(1j), "flags": np.array([True, False])}
    got = candidate.call("run", sent, twice=True)
    assert got[0].keys() == sent.keys()
    for name, value in sent.items():
        back = got[0][name]
        if isinstance(value, np.ndarray):
            assert np.array_equal(back, value) and back.dtype == value.dtype, name
        else:
            assert back == value and (type(back) is type(value) or name == "scalar"), name
    return {"score": float(len(got))}
"""


async def test_plain_data_crosses_unchanged(laboratory: Laboratory) -> None:
    outcome = await laboratory.run("def run(sent, twice):\n    return [sent, sent]", PLAIN)

    assert isinstance(outcome, Completed), outcome
    assert 2.0 == outcome.score


async def test_an_outcome_tells_what_was_used(laboratory: Laboratory) -> None:
    program = (
        "import time\ndef run(target):\n    end = time.process_time() + 0.3\n    held = bytes(2**26) + b'x'\n"
        "    while time.process_time() < end: pass\n    print('done')\n    return 1.0"
    )
    outcome = await laboratory.run(program)

    assert isinstance(outcome, Completed), outcome
    assert 0.3 <= outcome.cpu_seconds <= 0.6
    assert outcome.cpu_seconds <= outcome.wall_seconds
    assert 64 <= outcome.memory_mb <= 192
    assert "done\n" == outcome.output


@pytest.mark.parametrize(
    ("evaluate", "reason", "text"),
    [
        ("def evaluate(c, s, seed):\n    return 1 / 0", "evaluator_crashed", "ZeroDivisionError"),
        ("def evaluate(c, s, seed):\n    return {'other': 1.0}", "evaluator_crashed", "'score'"),
        ("def evaluate(c, s, seed):\n    return {'score': 'high'}", "evaluator_crashed", "'high'"),
        ("def evaluate(c, s, seed):\n    return 1.0", "evaluator_crashed", "1.0"),
        ("import os\ndef evaluate(c, s, seed):\n    os._exit(3)", "evaluator_crashed", "exited with status 3"),
        ("raise ImportError('no such thing')", "evaluator_crashed", "no such thing"),
        ("import os\nos.write(3, bytes(100))\nimport time\ntime.sleep(60)", "evaluator_crashed", "did not report"),
        ("def evaluate(c, s, seed):\n    while True: pass", "evaluator_crashed", "did not end"),
    ],
)
async def test_a_broken_evaluator_is_not_the_candidates_fault(
    best: Laboratory, evaluate: str, reason: str, text: str
) -> None:
    outcome = await best.run(HEALTHY, evaluate, limits={"wall_seconds": 0.1 if "while" in evaluate else 8})

    assert isinstance(outcome, Failed)
    assert (reason, "evaluator") == (outcome.reason, outcome.blame)
    assert text in outcome.message


async def test_a_failure_stands_even_if_the_evaluator_swallows_it(best: Laboratory) -> None:
    evaluate = (
        "def evaluate(candidate, settings, seed):\n    try:\n        candidate.call('run', None)\n"
        "    except BaseException:\n        pass\n    return {'score': 1.0}"
    )
    outcome = await best.run("def run(target):\n    raise ValueError('broken')", evaluate)

    assert isinstance(outcome, Failed)
    assert ("crashed", "candidate") == (outcome.reason, outcome.blame)
    assert "ValueError: broken" in outcome.message


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("def run(:", "program.py:1"),
        ("def other():\n    pass", "does not define run"),
        ("if True:\n    import os", "does not define run"),
        ("\0", "program.py"),
        ("(" * 1000 + ")" * 1000, "program.py"),
    ],
)
async def test_a_program_that_cannot_be_imported_never_runs(best: Laboratory, program: str, text: str) -> None:
    outcome = await best.run(program)

    assert isinstance(outcome, Failed)
    assert "static_check" == outcome.reason
    assert text in outcome.message
    assert 0 == outcome.wall_seconds


async def test_a_program_may_have_several_files(laboratory: Laboratory) -> None:
    files = {"parts/__init__.py": "", "parts/numbers.py": "ANSWER = 42.0\n"}
    outcome = await laboratory.run("from parts.numbers import ANSWER\ndef run(target):\n    return ANSWER", files=files)

    assert isinstance(outcome, Completed), outcome
    assert 42.0 == outcome.score


async def test_one_seed_gives_one_answer_and_it_is_not_the_evaluators(best: Laboratory) -> None:
    program = "import random\nimport numpy as np\ndef run(target):\n    return random.random() + np.random.rand()"
    first, second, other = [await best.run(program, seed=seed) for seed in (1, 1, 2)]

    assert isinstance(first, Completed)
    assert isinstance(second, Completed)
    assert isinstance(other, Completed)
    assert first.score == second.score != other.score
    theirs = np.random.RandomState(1).rand()
    assert abs(first.score % 1 - theirs) > 1e-6


async def test_sandboxes_share_one_budget_of_cpu_time(best: Laboratory) -> None:
    evaluate = (
        "def evaluate(candidate, settings, seed):\n    for _ in range(20):\n"
        "        with candidate.sandbox() as each:\n            each.call('run', None)\n    return {'score': 1.0}"
    )
    program = (
        "import time\ndef run(target):\n    end = time.process_time() + 0.1\n    while time.process_time() < end: pass"
    )
    outcome = await best.run(program, evaluate, limits={"cpu_seconds": 0.5})

    assert isinstance(outcome, Failed)
    assert "cpu_limit" == outcome.reason
    assert 0.5 <= outcome.cpu_seconds < 1.0


async def test_a_cancelled_evaluation_leaves_nothing(laboratory: Laboratory) -> None:
    await laboratory.run(HEALTHY)
    for seconds in (0.0, 0.005, 0.01, 0.02, 0.04, 0.3):
        task = asyncio.create_task(laboratory.run(SLEEPER))
        await asyncio.sleep(seconds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert [] == laboratory.left_behind()


async def test_the_fork_server_may_be_killed(laboratory: Laboratory) -> None:
    """What ran fails as the machine's fault, its processes die, and the next experiment has a new server."""
    await laboratory.run(HEALTHY)
    (server,) = laboratory.backend._servers.values()
    running = [asyncio.create_task(laboratory.run(SLEEPER)) for _ in range(2)]
    await asyncio.sleep(0.5)
    os.kill(server.pid, signal.SIGKILL)
    outcomes = await asyncio.gather(*running)

    assert 2 * ["infrastructure"] == [outcome.reason for outcome in outcomes if isinstance(outcome, Failed)]
    assert 2 * ["infrastructure"] == [outcome.blame for outcome in outcomes if isinstance(outcome, Failed)]
    assert isinstance(await laboratory.run(HEALTHY), Completed)
    assert [] == laboratory.left_behind()


async def test_a_fork_server_that_says_nothing_is_replaced(best: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    await best.run(HEALTHY)
    (server,) = best.backend._servers.values()
    monkeypatch.setattr("evolvent_engineer.server._ANSWER_SECONDS", 0.3)
    os.kill(server.pid, signal.SIGSTOP)
    outcome = await asyncio.wait_for(best.run(HEALTHY), 10)

    assert isinstance(outcome, Failed)
    assert "infrastructure" == outcome.reason
    monkeypatch.undo()
    assert isinstance(await best.run(HEALTHY), Completed)
    assert [] == best.left_behind()


ENGINEER = """
import asyncio, sys
from pathlib import Path
from tests.engineer.laboratory import Laboratory
async def main():
    laboratory = Laboratory(Path(sys.argv[1]), sys.argv[2])
    await laboratory.backend.start()
    program = "import time\\ndef run(target):\\n    print(flush=True)\\n    time.sleep(60)"
    tasks = [asyncio.create_task(laboratory.run(program, limits={"wall_seconds": 60})) for _ in range(2)]
    while len(laboratory.processes()) < 5:
        await asyncio.sleep(0.05)
    print("running", flush=True)
    await asyncio.gather(*tasks)
asyncio.run(main())
"""


async def test_everything_dies_with_a_killed_engineer(laboratory: Laboratory, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENGINEER, str(tmp_path), laboratory.tier]
    engineer = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    watched = Laboratory(tmp_path, laboratory.tier)
    assert engineer.stdout is not None
    assert b"running\n" == await engineer.stdout.readline()
    assert 5 <= len(watched.processes())
    engineer.kill()
    await engineer.wait()

    assert await asyncio.to_thread(within_seconds, 5, lambda: not watched.processes())
    await watched.backend.start()
    await watched.backend.close()
    assert [] == groups_of(engineer.pid)


def within_seconds(seconds: float, is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()


def groups_of(pid: int) -> list[Path]:
    return list(Path("/sys/fs/cgroup").rglob(f"evolvent-{pid}-*"))


async def test_a_module_that_cannot_be_loaded_is_named(best: Laboratory) -> None:
    backend = LocalBackend(best.folder / "other", allow_unsafe=False, preload=("no_such_module",), tier=best.tier)
    await backend.start()
    outcome = await backend.evaluate(best.experiment(HEALTHY))
    await backend.close()

    assert isinstance(outcome, Failed)
    assert "infrastructure" == outcome.reason
    assert "no_such_module" in outcome.message


async def test_a_tier_without_a_boundary_needs_consent(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="allow-unsafe-sandbox"):
        await LocalBackend(tmp_path, allow_unsafe=False, tier="T3").start()


async def test_a_tier_that_is_not_to_be_had_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cluster"):
        await LocalBackend(tmp_path, allow_unsafe=True, tier="T0").start()


async def test_the_probe_names_what_keeps_each_better_tier_away() -> None:
    found = await asyncio.to_thread(tiers.probe)

    better = {"T1": set(), "T2": {"T1"}, "T3": {"T1", "T2"}}
    assert better[found.tier] == set(found.obstacles)
    assert all(found.obstacles.values())
