"""A whole run with every part in its container, from the images and the rendered manifests; by hand, as root.

    python -m tests.deploy.ring --engine "podman --runtime runc"

The images `REGISTRY/evolvent-<role>:TAG` must be there. What is not a container: nats-server, the API server (that of
`tests/kubernetes/fake`), and this script in the place of the kubelets. All of them share the machine's network, so each
role gets a port of its own for its probes.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import yaml

from evolvent import acl, audit, runs, task
from evolvent.log import Record
from evolvent.platform import Platform, open_platform
from evolvent.provision import ROLES
from evolvent.settings import Settings
from evolvent_schemas import (
    ExperimentCompleted,
    ExperimentFailed,
    Fact,
    HandlingFailed,
    RoundClosed,
    RunFinished,
    filter_for,
)
from tests.deploy.containers import LIMITS, Manifest, Node, container_name
from tests.kubernetes.fake import ADMIN_TOKEN, ApiServer, Cluster, Script
from tests.kubernetes.fake import Node as Machine
from tests.platform.servers import Node as NatsServer
from tests.platform.servers import free_ports

SYSTEM, EXPERIMENTS = "evolvent", "evolvent-experiments"
_READY_WITHIN = 60.0


@dataclass(frozen=True)
class Options:
    engine: tuple[str, ...]
    registry: str
    tag: str
    task: Path
    rounds: int
    width: int
    kill: bool
    settings: tuple[str, ...] = ()
    """Beside those of the manifests, `NAME=VALUE`."""

    def image(self, name: str) -> str:
        return f"{self.registry}/evolvent-{name}:{self.tag}"


@dataclass
class Served:
    """One role's pod: its container is started again whenever it ends, until it is drained."""

    role: str
    node: Node
    pod: Manifest
    codes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """From each start to readiness."""
    draining: bool = False

    @property
    def name(self) -> str:
        return container_name(self.pod, self.pod["spec"]["containers"][0])

    async def keep(self) -> None:
        (container,) = self.pod["spec"]["containers"]
        with self.node.volumes(self.pod) as volumes:
            while not self.draining:
                async with self.node.running(self.pod, container, volumes) as process:
                    self.codes.append(await process.wait())

    async def ready(self) -> None:
        """Wait for both probes."""
        (port,) = (item["value"] for item in _environment(self.pod) if item["name"] == "EVOLVENT_HEALTH_PORT")
        began = time.monotonic()
        async with asyncio.timeout(_READY_WITHIN):
            for path in ("live", "ready"):
                while not await asyncio.to_thread(_answers, f"http://127.0.0.1:{port}/{path}"):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        self.seconds.append(round(time.monotonic() - began, 2))

    async def kill(self) -> None:
        """Kill -9, and wait until the next life is ready."""
        lives = len(self.codes)
        await asyncio.to_thread(self.node.do, "kill", "--signal", "KILL", self.name)
        while len(self.codes) == lives:  # noqa: ASYNC110 - it ends in the engine's hands
            await asyncio.sleep(0.02)
        await self.ready()

    async def drain(self) -> None:
        self.draining = True
        await asyncio.to_thread(self.node.do, "stop", "--time", "50", self.name)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _environment(pod: Manifest) -> list[Manifest]:
    found: list[Manifest] = pod["spec"]["containers"][0]["env"]
    return found


def rendered(options: Options, nats_url: str) -> list[Manifest]:
    """Render the local overlay with the engineer's image, from the tree within it."""
    render = ["evolvent", "deploy", "render", "--overlay", "local", "--json", "--nats-url", nats_url]
    render += ["--registry", options.registry, "--tag", options.tag, "--qdrant-url", "none"]
    render += [word for setting in options.settings for word in ("--set", setting)]
    locked = ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
    command = ["run", "--rm", "--network", "none", *LIMITS, *locked, options.image("engineer"), *render]
    found: list[Manifest] = json.loads(Node(options.engine, Path(), {}).do(*command))["items"]
    return found


def objects(manifests: list[Manifest], passwords: dict[str, str], kubeconfig: str) -> dict[Any, dict[str, str]]:
    """What docs/cluster.md has an operator create, and the ConfigMaps of the manifests."""
    found = {
        ("ConfigMap", each["metadata"]["namespace"], each["metadata"]["name"]): each["data"]
        for each in manifests
        if each["kind"] == "ConfigMap"
    }
    return found | {
        ("Secret", SYSTEM, "nats-passwords"): passwords,
        ("Secret", SYSTEM, "experiment-signing"): {"secret": secrets.token_hex(24)},
        ("Secret", SYSTEM, "qdrant-credentials"): {"api-key": secrets.token_hex(24)},
        ("Secret", SYSTEM, "kubeconfig"): {"config": kubeconfig},
        ("Secret", EXPERIMENTS, "experiment-credentials"): {
            "user": acl.EXPERIMENT,
            "password": passwords[acl.EXPERIMENT],
        },
    }


def pod_of(workload: Manifest, **environment: str) -> Manifest:
    """Make the pod of a Deployment or Job, with further variables."""
    template: Manifest = json.loads(json.dumps(workload["spec"]["template"]))
    template["metadata"] |= {"name": workload["metadata"]["name"], "namespace": SYSTEM}
    _environment(template).extend({"name": name, "value": value} for name, value in environment.items())
    return template


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pods of the roles; the engineer's gets a kubeconfig, for the API server here does not speak TLS."""
    found = {}
    for role, port in zip(ROLES, free_ports(len(ROLES)), strict=True):
        (deployment,) = [each for each in manifests if ("Deployment", f"evolvent-{role}") == _identity(each)]
        found[role] = pod_of(deployment, EVOLVENT_HEALTH_PORT=str(port))
    engineer = found["engineer"]["spec"]
    engineer["containers"][0]["env"].append({"name": "KUBECONFIG", "value": "/kubeconfig/config"})
    engineer["containers"][0]["volumeMounts"].append(
        {"name": "kubeconfig", "mountPath": "/kubeconfig", "readOnly": True}
    )
    engineer["volumes"].append({"name": "kubeconfig", "secret": {"secretName": "kubeconfig", "defaultMode": 0o440}})
    return found


def _identity(found: Manifest) -> tuple[str, str]:
    return found["kind"], found["metadata"]["name"]


def kubeconfig(url: str) -> str:
    context = {"name": "c", "context": {"cluster": "k", "user": "u"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [context]}
    config |= {"clusters": [{"name": "k", "cluster": {"server": url}}]}
    return str(yaml.safe_dump(config | {"users": [{"name": "u", "user": {"token": ADMIN_TOKEN}}]}))


@contextlib.asynccontextmanager
async def api_server() -> AsyncIterator[ApiServer]:
    cluster = Cluster(nodes=(Machine("node-0"),))
    cluster.namespace(EXPERIMENTS, {"pod-security.kubernetes.io/enforce": "restricted"})
    async with ApiServer(cluster) as server:
        yield server


@contextlib.asynccontextmanager
async def bus(folder: Path, port: int, manifests: list[Manifest], passwords: dict[str, str]) -> AsyncIterator[str]:
    """A nats-server with the users of the rendered ConfigMap."""
    (accounts,) = [
        each["data"]["accounts.conf"] for each in manifests if ("ConfigMap", "nats-accounts") == _identity(each)
    ]
    os.environ |= {acl.variable(user): password for user, password in passwords.items()}
    server = NatsServer(folder / "nats", port, accounts)
    await server.start()
    try:
        yield server.url
    finally:
        await server.kill()


@contextlib.asynccontextmanager
async def at_work(node: Node, found: dict[str, Manifest]) -> AsyncIterator[list[Served]]:
    """All roles, ready; drained at the end."""
    served = [Served(role, node, pod) for role, pod in found.items()]
    async with asyncio.TaskGroup() as group:
        for each in served:
            group.create_task(each.keep())
        await asyncio.gather(*(each.ready() for each in served))
        yield served
        for each in served:
            await each.drain()


class Victim(Protocol):
    """Whatever can be killed and comes back."""

    async def kill(self) -> None: ...


async def carry(user: Platform, options: Options, served: Sequence[Victim]) -> list[Record[Fact]]:
    """Start a run and see it to its end; after each of its rounds kill one of the roles."""
    plan = runs.Plan(task.load(options.task), 1, {"rounds": options.rounds}, {"width": options.width})
    run = await runs.start(user, plan)
    victims = iter(served if options.kill else [])
    killing: set[asyncio.Task[None]] = set()
    async for record in user.log("user").follow([filter_for(RoundClosed, run), filter_for(RunFinished, run)]):
        if isinstance(record.fact, RunFinished):
            break
        if (victim := next(victims, None)) is not None:
            killing.add(asyncio.create_task(victim.kill()))
    await asyncio.gather(*killing)
    return await user.log("user").run(run)


def lost(records: list[Record[Fact]], rounds: int) -> list[str]:
    """What a run that lost nothing does not show."""
    closed = Counter(record.fact.round for record in records if isinstance(record.fact, RoundClosed))
    subjects = Counter(record.fact.subject for record in records)
    ids = {record.id for record in records}
    findings = [f"{name} is there {count} times" for name, count in subjects.items() if count > 1]
    findings += [f"{record.fact.subject} has no cause" for record in records[1:] if record.cause not in ids]
    findings += [record.fact.error for record in records if isinstance(record.fact, HandlingFailed)]
    if closed != Counter(["h0", *map(str, range(rounds))]):
        findings.append(f"rounds closed: {dict(closed)}")
    return findings


async def work(options: Options, folder: Path) -> dict[str, Any]:
    (port,) = free_ports(1)
    manifests = rendered(options, f"nats://127.0.0.1:{port}")
    passwords = {user: f"p{secrets.token_hex(24)}" for user in acl.USERS}
    async with bus(folder, port, manifests, passwords) as url, api_server() as server:
        node = Node(options.engine, folder, objects(manifests, passwords, kubeconfig(server.url)))
        server.cluster.script("*", Script(run=node))
        (job,) = [each for each in manifests if ("Job", "evolvent-provision") == _identity(each)]
        assert {"provision": 0} == await node(pod_of(job)), (folder / "evolvent-provision.provision.log").read_text()
        me = Settings(home=folder / "user", nats_url=url, nats_user="user", nats_password=passwords["user"])
        async with open_platform(me, "user") as user:
            began = time.monotonic()
            async with at_work(node, pods(manifests)) as served:
                records = await carry(user, options, served)
            seconds = time.monotonic() - began
            replayed = (await audit.replay(user, records[0].fact.run, ROLES)).findings
        return seen(records, options.rounds, seconds) | {
            "pods": dict(Counter(json.dumps(codes) for codes in node.codes)),
            "exits": {each.role: each.codes for each in served},
            "ready": {each.role: each.seconds for each in served},
            "replay": [str(each) for each in replayed],
        }


def seen(records: list[Record[Fact]], rounds: int, seconds: float) -> dict[str, Any]:
    """What the log of a run shows that has ended."""
    facts = [record.fact for record in records]
    measured = [fact for fact in facts if isinstance(fact, ExperimentCompleted)]
    (end,) = [fact for fact in facts if isinstance(fact, RunFinished)]
    return {
        "run": end.run,
        "state": end.state,
        "seconds": round(seconds, 1),
        "facts": len(facts),
        "measured": len(measured),
        "tiers": dict(Counter(fact.tier for fact in measured)),
        "scores": [fact.score for fact in measured],
        "failed": [f"{fact.reason}: {fact.message}" for fact in facts if isinstance(fact, ExperimentFailed)],
        "lost": lost(records, rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="podman", help="podman, with options of its own")
    parser.add_argument("--registry", default="localhost")
    parser.add_argument("--tag", default="0.1.0")
    parser.add_argument("--task", type=Path, default=Path("tasks/circle_packing"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--no-kill", action="store_true", help="kill no role in the middle of the run")
    parser.add_argument("--keep", type=Path, help="folder for the log and the containers' output, kept")
    parser.add_argument("--set", action="append", default=[], help="as for `evolvent deploy render`")
    given = parser.parse_args()
    options = Options(
        engine=tuple(given.engine.split()),
        registry=given.registry,
        tag=given.tag,
        task=given.task,
        rounds=given.rounds,
        width=given.width,
        kill=not given.no_kill,
        settings=tuple(given.set),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no container may be left behind
    with TemporaryDirectory(prefix="ring-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = asyncio.run(work(options, folder))
    print(json.dumps(found, indent=1))
    sound = found["state"] == "completed" and not found["lost"] and not found["replay"]
    sys.exit(0 if sound and all(codes[-1] == 0 for codes in found["exits"].values()) else 1)


if __name__ == "__main__":
    main()
