"""Runs a pod's containers as processes of this machine, from the manifest alone."""

import asyncio
import itertools
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
VOLUMES = ("task", "program", "socket", "credentials")
_PASSED = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_HERE = {"EVOLVENT_GROUP_HOST": "127.0.0.1"}
"""All pods are on this machine, which looks no name of a cluster up."""
_FIELD = re.compile(r"metadata\.labels\['(?P<label>.+)'\]")


class Kubelet:
    """Init containers one after the other, the others together; what a container of a pod mounts, all of it see.

    A folder stands for the pod's root, each container's `/tmp` apart; `started` counts pods by their Job.
    With `user` all containers are that user, in a user namespace of their own where root plays the kubelet: without
    capabilities, and with root's files. Otherwise they are whoever plays it.
    """

    def __init__(self, folder: Path, credentials: Mapping[str, str], user: int | None = None) -> None:
        self.folder = folder
        mapped = [f"--map-user={user}", f"--map-group={user}"]
        self._user_namespace = [] if user is None or os.geteuid() else ["unshare", "--user", *mapped]
        self.started: list[str] = []
        self.codes: list[dict[str, int]] = []
        self._credentials = credentials
        self._numbers = itertools.count()

    async def __call__(self, pod: Manifest) -> Mapping[str, int]:
        self.started.append(pod["metadata"]["labels"]["job-name"])
        root = self._root()
        spec = pod["spec"]
        codes: dict[str, int] = {}
        for container in spec["initContainers"]:
            codes |= await self._run([container], pod, root)
        if not any(codes.values()):
            codes |= await self._run(spec["containers"], pod, root)
        self.codes.append(codes)
        return {container["name"]: codes.get(container["name"], 1) for container in spec["containers"]}

    def _root(self) -> Path:
        """Short, for a socket's path may take 107 bytes."""
        root = self.folder / str(next(self._numbers))
        for name in VOLUMES:
            (root / name).mkdir(parents=True)
        for name, text in self._credentials.items():
            (root / "credentials" / name).write_text(text)
        return root

    async def _run(self, containers: list[Manifest], pod: Manifest, root: Path) -> dict[str, int]:
        processes: dict[str, asyncio.subprocess.Process] = {}
        try:
            for container in containers:
                processes[container["name"]] = await self._start(container, pod, root)
            return {name: await process.wait() for name, process in processes.items()}
        finally:
            for process in processes.values():
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()

    async def _start(self, container: Manifest, pod: Manifest, root: Path) -> asyncio.subprocess.Process:
        own = root / container["name"]
        own.mkdir()
        for name in VOLUMES:
            if any(mount["mountPath"] == f"/{name}" for mount in container["volumeMounts"]):
                (own / name).symlink_to(root / name)
        environment = {item["name"]: _value(item, pod) for item in container["env"]} | {"EVOLVENT_POD_ROOT": str(own)}
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        program, *arguments = container["command"]
        assert "python" == program
        command = [*self._user_namespace, sys.executable, *arguments]
        with (root / f"{container['name']}.log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *command, env=passed | environment, stdout=log, stderr=log, start_new_session=True
            )

    def logs(self) -> str:
        return "\n".join(f"{path}:\n{path.read_text()}" for path in sorted(self.folder.glob("*/*.log")))


def _value(item: Manifest, pod: Manifest) -> str:
    """A variable's value, or the pod's label that it refers to."""
    if "value" in item:
        return _HERE.get(item["name"], str(item["value"]))
    field = _FIELD.fullmatch(item["valueFrom"]["fieldRef"]["fieldPath"])
    assert field is not None, item
    return str(pod["metadata"]["labels"][field["label"]])
