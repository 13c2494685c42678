"""Two pods of one experiment as real processes: each with its evaluator and its sandboxes, on one bus."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from evolvent import follow
from evolvent.embedded import Server
from evolvent.platform import Platform
from evolvent.provision import PROGRESS_STREAM, RESULT_STREAM
from evolvent_engineer.backend import Completed, Failed, Outcome
from evolvent_engineer.kubernetes.depot import Depot
from evolvent_engineer.kubernetes.manifests import NOBODYS_FAULT, experiment_job
from evolvent_engineer.kubernetes.settings import Order
from evolvent_engineer.pod.results import verify
from evolvent_schemas import subjects
from tests.kubernetes.fake.jobs import INDEX, number
from tests.kubernetes.kubelet import Kubelet
from tests.kubernetes.orders import settings
from tests.kubernetes.test_pod import IDENTITY, LIMITS, depot, kubelet, mentioning, place, slip
from tests.kubernetes.waiting import free_port, until

__all__ = ["depot", "kubelet"]
Manifest = dict[str, Any]
SEVERAL = LIMITS.model_copy(update={"processes": 16, "memory_mb": 512, "wall_seconds": 40, "cpu_seconds": 30})
EVALUATE = """
import numpy as np

def evaluate(candidate, settings, seed):
    with candidate.sandbox() as first:
        weights = first.call("train", np.arange(4.0))
    with candidate.sandbox() as second:
        score, open_doors = second.call("score", weights)
    return {"score": float(score), "rank_0": float(weights["seen"][0]), "rank_1": float(weights["seen"][1]),
            "open": float(open_doors)}
"""
GLOO = """
import json, os, socket, time

def train(data):
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo")
    rank, own = dist.get_rank(), torch.tensor([10.0 + dist.get_rank()])
    seen = [torch.zeros(1) for _ in range(dist.get_world_size())]
    dist.all_gather(seen, own)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1, bias=False))
    model(torch.as_tensor(data, dtype=torch.float32)[None] * (rank + 1)).sum().backward()
    gradient = model.module.weight.grad  # the mean over the ranks: 1.5 * data
    for step in range(25):
        print(json.dumps({"step": step, "rank": rank}))
        time.sleep(0.1)
    dist.destroy_process_group()
    return {"gradient": gradient.numpy(), "seen": torch.cat(seen).numpy()}

def score(weights):
    doors = [name for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE") if name in os.environ]
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                socket.socket(family, kind).close()
                doors.append("socket")
            except PermissionError:
                pass
    return [float(weights["gradient"].sum()), len(doors)]
"""
PAIR = """
import os, socket, sys, time

def train(data):
    rank, where = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if rank == 0:
        with socket.create_server(where) as listener:
            peer, _ = listener.accept()
    else:
        while True:
            try:
                peer = socket.create_connection(where)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
    peer.sendall(bytes([10 + rank]))
    first = peer.recv(1)[0]
    if rank == 1:
        time.sleep(0.3)
        MISBEHAVE
    peer.sendall(b"x")
    if not peer.recv(1):
        raise ConnectionError("connection closed by peer")
    return {"seen": sorted([float(first), 10.0 + rank])}

def score(weights):
    return [1.0, 0]
"""


def several(job: Manifest, pods: int = 2) -> list[Manifest]:
    """The pods of an Indexed Job, as its controller makes them."""
    found = []
    for index in range(pods):
        pod = json.loads(json.dumps(job["spec"]["template"]))
        pod["metadata"]["labels"] |= {"job-name": job["metadata"]["name"], INDEX: str(index)}
        number(pod["spec"], f"{job['metadata']['name']}-{index}")
        found.append(pod)
    return found


def job(order: Order, bus: Server, **more: Any) -> Manifest:
    given = {"nats_url": bus.url, "sandbox": "T2", "group_port": free_port(), "start_seconds": 60}
    return experiment_job(order, settings(**given | more))


async def train(
    depot: Depot, kubelet: Kubelet, bus: Server, folder: Path, program: str, **more: Any
) -> tuple[Order, Outcome]:
    given = {"kind": "training", "limits": SEVERAL, "settings": {"pods": 2}} | more
    order = await place(depot, program, folder, EVALUATE, ("train", "score"), **given)
    codes = await asyncio.gather(*map(kubelet, several(job(order, bus))))
    assert [{"evaluator": 0, "candidate": 0}] * 2 == codes, kubelet.logs()
    return order, await depot.result(order)


async def told(depot: Depot, order: Order) -> dict[int, Outcome]:
    """What each rank published."""
    last = int((await depot.wire.api(f"STREAM.INFO.{RESULT_STREAM}"))["state"]["last_seq"])
    subject = subjects.result(order.identity.run, order.identity.key)
    found = follow.follow(depot.wire, RESULT_STREAM, [subject], until=last)
    all_told = [verify(slip(order), message.data, message.headers or {}, order.key) async for message, _ in found]
    assert len(all_told) == len({each.rank for each in all_told})
    return {each.rank: each.outcome for each in all_told}


async def progress(platform: Platform) -> list[dict[str, float]]:
    last = (await platform.wire.api(f"STREAM.INFO.{PROGRESS_STREAM}"))["state"]["last_seq"]
    found = follow.follow(platform.wire, PROGRESS_STREAM, [subjects.progress("r1", IDENTITY.key)], until=last)
    reports = [json.loads(message.data) async for message, _ in found]
    return [report for report in reports if "rank" in report]


async def test_two_pods_train_one_model_with_gloo_and_score_it_without_a_network(
    depot: Depot, platform: Platform, kubelet: Kubelet, bus: Server, tmp_path: Path
) -> None:
    """Only rank 0 tells how it goes."""
    order, outcome = await train(depot, kubelet, bus, tmp_path, GLOO)
    assert isinstance(outcome, Completed), outcome
    assert {"score": 9.0, "rank_0": 10.0, "rank_1": 11.0, "open": 0.0} == outcome.metrics
    assert [9.0, 9.0] == [each.score for each in (await told(depot, order)).values() if isinstance(each, Completed)]
    assert {0} == {each["rank"] for each in await progress(platform)}


@pytest.mark.parametrize(
    ("misbehave", "reason", "says"),
    [
        ("list(range(10**9))", "memory_limit", ""),
        ("raise ValueError('the cause')", "crashed", "ValueError: the cause"),
    ],
)
async def test_the_rank_that_failed_is_the_cause_and_not_the_peer_that_lost_it(
    misbehave: str, reason: str, says: str, depot: Depot, kubelet: Kubelet, bus: Server, tmp_path: Path
) -> None:
    order, outcome = await train(depot, kubelet, bus, tmp_path, PAIR.replace("MISBEHAVE", misbehave))
    assert isinstance(outcome, Failed)
    assert (reason, "candidate") == (outcome.reason, outcome.blame), outcome
    cause, effect = outcome.message.split("rank 0 of 2, crashed: ")
    assert cause.startswith("rank 1 of 2, ")
    assert says in cause
    assert "connection closed by peer" in effect or "ConnectionResetError" in effect
    assert {0, 1} == set(await told(depot, order))


async def test_a_rank_that_is_killed_in_the_middle_is_one_failure_of_the_infrastructure(
    depot: Depot, kubelet: Kubelet, bus: Server, tmp_path: Path
) -> None:
    """Its containers are gone with SIGKILL; what its peer says of the loss does not blame the program."""
    program = PAIR.replace("MISBEHAVE", "print('waits'); time.sleep(60)")
    order = await place(depot, program, tmp_path, EVALUATE, ("train", "score"), limits=SEVERAL, settings={"pods": 2})
    first, second = (asyncio.create_task(kubelet(pod)) for pod in several(job(order, bus)))
    await until(lambda: _trains(tmp_path), 60)
    await _kill(tmp_path, second)
    assert {"evaluator": 0, "candidate": 0} == await first
    outcome = await depot.result(order)
    assert isinstance(outcome, Failed)
    assert ("infrastructure", True) == (outcome.blame, "rank 1 of 2 published no result" in outcome.message)
    assert {0: "crashed"} == {rank: getattr(each, "reason", "") for rank, each in (await told(depot, order)).items()}
    assert [] == mentioning(str(tmp_path))


def _trains(folder: Path) -> bool:
    """Whether both programs hold a connection: each has imported its program into its first sandbox."""
    return 2 == len([path for path in folder.glob("*/candidate/tmp/work/*.0/program.py") if path.stat().st_size])


async def _kill(folder: Path, pod: "asyncio.Task[Any]") -> None:
    await asyncio.sleep(1.0)
    for environ in mentioning("JOB_COMPLETION_INDEX=1"):
        process = Path(environ).parent
        with contextlib.suppress(OSError):
            if str(folder).encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    codes = await pod
    assert {-9} == set(codes.values()), codes


async def test_a_pod_whose_peer_never_comes_is_nobodys_fault(
    depot: Depot, kubelet: Kubelet, bus: Server, tmp_path: Path
) -> None:
    order = await place(depot, PAIR, tmp_path, EVALUATE, ("train", "score"), limits=SEVERAL, settings={"pods": 2})
    first, _ = several(job(order, bus, start_seconds=1))
    codes = await kubelet(first)
    assert NOBODYS_FAULT == codes["candidate"]
    assert "rank 1 of 2 did not come within 1 s" in kubelet.logs()
    assert {} == await told(depot, order)
