"""The pod's three containers as real processes: sandboxes, channel, bus, artifacts, signed result."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evolvent import follow, task
from evolvent.embedded import Server
from evolvent.platform import Platform
from evolvent.provision import PROGRESS_STREAM
from evolvent_engineer.backend import Completed, Failed, Outcome
from evolvent_engineer.kubernetes.depot import Depot
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.manifests import NOBODYS_FAULT, experiment_job
from evolvent_engineer.kubernetes.settings import Order
from evolvent_engineer.pod.results import Slip, sign
from evolvent_schemas import subjects
from evolvent_schemas.values import Limits, Objective, Program, ProgramSpec, RunSettings, Stage, TaskSpec
from tests.engineer.test_gpus import driver
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.orders import SECRET, settings
from tests.kubernetes.waiting import until

LIMITS = Limits(wall_seconds=20, cpu_seconds=10, memory_mb=256, disk_mb=16, files=200, output_kb=64)
IDENTITY = Identity("r1", "1.0", "explore", 3, 0)
RETURNED = """
def evaluate(candidate, settings, seed):
    return {"score": float(candidate.call("run", seed))}
"""
TRAINED = """
import numpy as np
from evolvent.evaluation import Invalid

def evaluate(candidate, settings, seed):
    with candidate.sandbox() as first:
        weights = first.call("train", np.arange(8.0))
    with candidate.sandbox() as second:
        answer = second.call("score", weights, np.ones(8))
    if not isinstance(answer, float):
        raise Invalid("no number")
    return {"score": answer}
"""
PROGRAM = """
import os, socket, pathlib

SEEN = []

def train(data):
    SEEN.append("train")
    pathlib.Path("left.txt").write_text("behind")
    print("trained")
    return {"w": data * 2}

def score(weights, inputs):
    assert not SEEN and not pathlib.Path("left.txt").exists()
    return float((weights["w"] * inputs).sum())
"""


@pytest.fixture
def depot(platform: Platform) -> Depot:
    return Depot(platform.wire, platform.artifacts, SECRET)


@pytest.fixture
async def kubelet(bus: Server, tmp_path: Path) -> AsyncIterator[Kubelet]:
    found = Kubelet(tmp_path, {"token": bus.token})
    yield found
    print(found.logs())


async def place(
    depot: Depot,
    program: str,
    folder: Path,
    evaluate: str = RETURNED,
    functions: tuple[str, ...] = ("run",),
    **more: Any,
) -> Order:
    """Put a task and a program on the bus, and order them."""
    (folder / "t").mkdir()
    (folder / "t" / "evaluate.py").write_text(evaluate)
    stage = Stage(**{"limits": LIMITS} | more)
    spec = TaskSpec(
        name="t",
        title="t",
        objective=Objective(metric="score"),
        program=ProgramSpec(functions=functions),
        stages=(stage,),
    )
    bundle = await depot.artifacts.put(task.pack(folder / "t"))
    return await depot.order(
        IDENTITY, Program.of({"program.py": program}), RunSettings(task=spec, bundle=bundle, seed=1)
    )


async def measure(depot: Depot, kubelet: Kubelet, order: Order, bus: Server, sandbox: str = "T2") -> Outcome:
    pod = experiment_job(order, settings(nats_url=bus.url, sandbox=sandbox))["spec"]["template"]
    pod["metadata"]["labels"]["job-name"] = order.identity.name
    codes = await kubelet(pod)
    assert {"evaluator": 0, "candidate": 0} == codes, kubelet.logs()
    return await depot.result(order)


@pytest.mark.parametrize("sandbox", ["T2", "T3"])
async def test_training_runs_in_one_sandbox_and_scoring_in_a_fresh_one(
    sandbox: str, depot: Depot, kubelet: Kubelet, bus: Server, tmp_path: Path
) -> None:
    order = await place(depot, PROGRAM, tmp_path, TRAINED, ("train", "score"), kind="training", parameters=1000)
    outcome = await measure(depot, kubelet, order, bus, sandbox)
    assert isinstance(outcome, Completed), outcome
    assert 56.0 == outcome.score
    assert "trained\n" == outcome.output
    assert outcome.cpu_seconds > 0


@pytest.mark.parametrize(
    ("program", "reason", "says"),
    [
        ("def run(seed):\n    import socket; socket.socket()\n", "crashed", "PermissionError"),
        ("def run(seed):\n    return [0] * 10**9\n", "memory_limit", ""),
        ("def run(seed):\n    print('x' * 10**6)\n    return 1\n", "output_limit", "the limit is 65536"),
        ("def run(seed):\n    import time; time.sleep(100)\n", "wall_limit", "did not answer in time"),
    ],
)
async def test_a_failure_of_the_program_is_a_signed_result_like_any_other(
    program: str, reason: str, says: str, depot: Depot, kubelet: Kubelet, bus: Server, tmp_path: Path
) -> None:
    limits = LIMITS.model_copy(update={"wall_seconds": 3.0})
    outcome = await measure(depot, kubelet, await place(depot, program, tmp_path, limits=limits), bus)
    assert isinstance(outcome, Failed)
    assert (reason, "candidate") == (outcome.reason, outcome.blame), outcome
    assert says in outcome.message


async def test_the_task_runs_without_the_key_and_without_the_bus(
    depot: Depot, kubelet: Kubelet, bus: Server, tmp_path: Path
) -> None:
    """What a task's own code can read holds neither; it cannot open a socket either."""
    evaluate = """
import os, socket
from pathlib import Path
from evolvent.evaluation import Invalid

def evaluate(candidate, settings, seed):
    held = [name for name in os.environ if name.startswith("EVOLVENT")]
    for path in (f"/proc/{os.getppid()}/environ", *settings["secrets"].split()):
        try:
            held.append(Path(path).read_text())
        except OSError:
            pass
    try:
        socket.socket()
        held.append("socket")
    except OSError:
        pass
    return {"score": float(len(held))}
"""
    secrets = str(tmp_path / "0" / "evaluator" / "credentials" / "token")
    order = await place(depot, "def run(seed):\n    return 1\n", tmp_path, evaluate, settings={"secrets": secrets})
    outcome = await measure(depot, kubelet, order, bus)
    assert isinstance(outcome, Completed), outcome
    assert 0.0 == outcome.score
    assert bus.token == (tmp_path / "0" / "credentials" / "token").read_text()


ASKING = """
import os
from pathlib import Path

def opened(path):
    try:
        with open(path, "rb") as found:
            return found.read(0) == b"" and (path.endswith("mem") or b"EVOLVENT_SIGNING_KEY=" in found.read())
    except PermissionError:
        return False

def evaluate(candidate, settings, seed):
    candidate.call("run", seed)  # whoever answers has taken its one connection
    process, held, asked = os.getpid(), 0, 0
    while process > 1:
        if b"evolvent_engineer.pod\\0evaluator" in Path(f"/proc/{process}/cmdline").read_bytes():
            asked += 1
            held += opened(f"/proc/{process}/mem")
        held += opened(f"/proc/{process}/environ")
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return {"score": float(held), "asked": float(asked), "connected": float(os.path.exists(settings["socket"]))}
"""


def unmappable() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "--user", "true"], check=False).returncode != 0


@pytest.mark.skipif(unmappable(), reason="root may read every process, and user namespaces are forbidden here")
async def test_a_task_that_no_landlock_holds_finds_neither_the_key_in_a_process_above_it_nor_the_channel(
    depot: Depot, bus: Server, tmp_path: Path
) -> None:
    """As under gVisor, where the task's child and the evaluator are one user, to whom /proc is open."""
    kubelet = Kubelet(tmp_path, {"token": bus.token}, user=65532)
    where = {"socket": str(tmp_path / "0" / "socket" / "candidate")}
    order = await place(depot, "def run(seed):\n    return 1\n", tmp_path, ASKING, settings=where)
    outcome = await measure(depot, kubelet, order, bus, "T3")
    assert isinstance(outcome, Completed), outcome
    assert {"score": 0.0, "asked": 1.0, "connected": 0.0} == outcome.metrics


async def test_progress_reaches_the_bus_at_a_bounded_rate(
    depot: Depot, platform: Platform, kubelet: Kubelet, bus: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import json, time

def run(seed):
    for step in range(25):
        print(json.dumps({"step": step, "loss": 1 / (step + 1)}))
        time.sleep(0.1)
    return 1
"""
    if shutil.which("cc") is not None:
        monkeypatch.setenv("LD_LIBRARY_PATH", str(driver(tmp_path)))
    await measure(depot, kubelet, await place(depot, program, tmp_path), bus)
    last = (await platform.wire.api(f"STREAM.INFO.{PROGRESS_STREAM}"))["state"]["last_seq"]
    told = [
        message.data.decode()
        async for message, _ in follow.follow(
            platform.wire, PROGRESS_STREAM, [subjects.progress("r1", IDENTITY.key)], until=last
        )
    ]
    assert 1 <= len(told) <= 3
    assert '"loss"' in told[0]
    assert '"cpu_seconds"' in told[0]
    assert (shutil.which("cc") is not None) == ('"gpu_memory_mb":8192' in told[0])


async def test_a_damaged_program_is_not_run(depot: Depot, kubelet: Kubelet, bus: Server, tmp_path: Path) -> None:
    """What is stored under a digest and has another never reaches the evaluator."""
    order = await place(depot, "def run(seed):\n    return 1\n", tmp_path)
    digest = "ab" * 32
    await depot.wire.store(subjects.blob(digest, 0), b"{}", {"Evolvent-Chunks": "1"})
    pod = experiment_job(replace(order, program=digest), settings(nats_url=bus.url))["spec"]["template"]
    pod["metadata"]["labels"]["job-name"] = order.identity.name
    await kubelet(pod)
    assert [{"fetch": NOBODYS_FAULT}] == kubelet.codes
    assert "is damaged" in kubelet.logs()


GOOD = Completed(1.0, {"score": 1.0}, 1.0, 1.0, 1.0, "")
FORGED = replace(GOOD, score=99.0)


async def tell(depot: Depot, order: Order, body: bytes, headers: dict[str, str]) -> None:
    identity = order.identity
    await depot.wire.store(subjects.result(identity.run, identity.key), body, headers)


@pytest.fixture
async def order(depot: Depot, tmp_path: Path) -> Order:
    return await place(depot, "def run(seed):\n    return 1\n", tmp_path)


def slip(order: Order) -> Slip:
    return Slip(str(order.identity), order.bundle, order.program)


async def test_a_forged_result_is_refused_and_the_true_one_behind_it_counts(depot: Depot, order: Order) -> None:
    await tell(depot, order, *sign(slip(order), FORGED, "11" * 32))
    refused = await depot.result(order)
    assert isinstance(refused, Failed)
    assert ("infrastructure", True) == (refused.reason, "1 forged" in refused.message)
    await tell(depot, order, *sign(slip(order), GOOD, order.key))
    assert GOOD == await depot.result(order)


@pytest.mark.parametrize("other", ["identity", "program", "bundle"])
async def test_a_replayed_result_is_refused(other: str, depot: Depot, order: Order) -> None:
    """A true result of another try, program or task proves nothing here."""
    changed: dict[str, Any] = {"identity": replace(IDENTITY, attempt=1), "program": "1" * 64, "bundle": "2" * 64}
    foreign = slip(replace(order, **{other: changed[other]}))
    await tell(depot, order, *sign(foreign, FORGED, foreign.key(SECRET)))
    refused = await depot.result(order)
    assert isinstance(refused, Failed)
    assert "1 replayed" in refused.message


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"", {}), (b"[]", {}), (b"{}", {}), (b"\xff", {}), (b'{"slip": null}', {"Evolvent-Signature": "zz"})],
)
async def test_what_is_no_result_is_refused(body: bytes, headers: dict[str, str], depot: Depot, order: Order) -> None:
    await tell(depot, order, body, headers)
    assert isinstance(await depot.result(order), Failed)


async def test_a_changed_body_breaks_the_signature(depot: Depot, order: Order) -> None:
    body, headers = sign(slip(order), GOOD, order.key)
    await tell(depot, order, body.replace(b'"score":1.0', b'"score":9.0'), headers)
    refused = await depot.result(order)
    assert isinstance(refused, Failed)
    assert "1 forged" in refused.message


async def test_without_any_result_a_completed_job_is_nobodys_fault(depot: Depot, order: Order) -> None:
    refused = await depot.result(order)
    assert isinstance(refused, Failed)
    assert ("infrastructure", True) == (refused.blame, "none at all" in refused.message)


async def test_a_pod_that_is_deleted_leaves_no_process(
    depot: Depot, kubelet: Kubelet, bus: Server, tmp_path: Path
) -> None:
    order = await place(depot, "def run(seed):\n    import time; time.sleep(100)\n", tmp_path)
    running = asyncio.create_task(measure(depot, kubelet, order, bus))
    await until(lambda: len(mentioning(str(tmp_path))) >= 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [] == mentioning(str(tmp_path))


def mentioning(words: str) -> list[str]:
    """Processes whose environment holds these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if words.encode() in path.read_bytes():
                found.append(str(path))
    return found
