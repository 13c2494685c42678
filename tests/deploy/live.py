"""A whole run on a real cluster: each role's pods are killed once, training runs in Jobs, and the run is audited.

    KUBECONFIG=… python -m tests.deploy.live --task tasks/linear_attention --rounds 6

after docs/cluster.md, sections 1 to 4, with the variables of section 4. First come the checks of `evolvent doctor
--cluster`, then the run. Prints what was seen; ends with 1 if anything failed or was lost.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kubernetes import client, config
from nats.aio.msg import Msg

from evolvent import audit
from evolvent.cli.cluster import Target, examine
from evolvent.platform import open_platform
from evolvent.provision import ROLES
from evolvent.settings import Settings
from evolvent_schemas import subjects
from tests.deploy.ring import SYSTEM, Options, carry, seen

_READY_WITHIN = 300.0


@dataclass(frozen=True)
class Deployed:
    """One role, with as many pods as its Deployment has."""

    role: str
    api: Any
    killed: Counter[str]

    async def kill(self) -> None:
        """Delete all pods of the role with no grace, and wait until another is ready."""
        before = {pod.metadata.uid for pod in await self._pods()}
        here = {"label_selector": self._selector, "grace_period_seconds": 0}
        await asyncio.to_thread(self.api.delete_collection_namespaced_pod, SYSTEM, **here)
        self.killed[self.role] += len(before)
        async with asyncio.timeout(_READY_WITHIN):
            while before and not any(_ready(pod) for pod in await self._pods() if pod.metadata.uid not in before):  # noqa: ASYNC110
                await asyncio.sleep(1)

    @property
    def _selector(self) -> str:
        return f"app.kubernetes.io/component={self.role}"

    async def _pods(self) -> list[Any]:
        found = await asyncio.to_thread(self.api.list_namespaced_pod, SYSTEM, label_selector=self._selector)
        return list(found.items)


def _ready(pod: Any) -> bool:
    return any((each.type, each.status) == ("Ready", "True") for each in pod.status.conditions or ())


async def work(options: Options) -> dict[str, Any]:
    config.load_kube_config()
    api, killed, told = client.CoreV1Api(), Counter[str](), Counter[str]()
    unfit = [f"{check.name}: {check.seen}" for check in examine(Target()) if check.verdict == "fail"]
    with TemporaryDirectory(prefix="live-") as home:
        async with open_platform(Settings(home=Path(home)), "user") as user:
            await user.wire.client.subscribe(subjects.ALL_PROGRESS, cb=_counted(told))
            began = time.monotonic()
            records = await carry(user, options, [Deployed(role, api, killed) for role in ROLES])
            found = seen(records, options.rounds, time.monotonic() - began)
            replayed = (await audit.replay(user, found["run"], ROLES)).findings
            found |= {"unfit": unfit, "killed": dict(killed), "progress": dict(told)}
            return found | {"replay": [str(each) for each in replayed]}


def _counted(told: Counter[str]) -> Any:
    async def count(message: Msg) -> None:
        told.update(_names(json.loads(message.data)))

    return count


def _names(value: Any) -> Iterator[str]:
    """The names of all numbers in it."""
    for name, each in value.items() if isinstance(value, dict) else ():
        if isinstance(each, (int, float)):
            yield name
        yield from _names(each)


def sound(found: dict[str, Any]) -> bool:
    """Whether the cluster is fit, the run complete, every experiment a Job, nothing lost, and all reproduced."""
    complete = found["state"] == "completed" and set(found["tiers"]) == {"T0"}
    return complete and not (found["unfit"] or found["lost"] or found["replay"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, default=Path("tasks/linear_attention"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--width", type=int, default=2)
    parser.add_argument("--no-kill", action="store_true", help="kill no role in the middle of the run")
    given = parser.parse_args()
    options = Options((), "", "", given.task, given.rounds, given.width, kill=not given.no_kill)
    found = asyncio.run(work(options))
    print(json.dumps(found, indent=1))
    sys.exit(0 if sound(found) else 1)


if __name__ == "__main__":
    main()
