"""A node whose containers are real: pods become `podman run`, from their manifests alone. Needs root and podman."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Manifest = dict[str, Any]
Objects = Mapping[tuple[str, str, str], Mapping[str, str]]
"""Texts by key of each ConfigMap and Secret, by kind, namespace and name."""
_MEBIBYTES = {"Mi": 1, "Gi": 1024}
_MAPPED = 1_000_000
"""User 0 of a pod with users of its own is this one outside."""
_REMOVALS = 20
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
"""Open files and processes; the engine's own default is more than an ordinary machine lets it ask for."""


@dataclass
class Node:
    """Containers of one pod share its volumes and the machine's network; each has processes and a root of its own."""

    engine: tuple[str, ...]
    folder: Path
    objects: Objects
    codes: list[dict[str, int]] = field(default_factory=list)
    """Exit codes by container, pod by pod, of those that ran to their end."""

    async def __call__(self, pod: Manifest) -> Mapping[str, int]:
        """Run a pod to its end: init containers one after the other, then the others together."""
        try:
            with self.volumes(pod) as volumes:
                codes = await self._in_turn(pod, volumes)
        except (OSError, subprocess.SubprocessError):
            traceback.print_exc()  # a cluster that is only played has nobody else to tell
            raise
        self.codes.append(codes)
        return {container["name"]: codes.get(container["name"], 1) for container in pod["spec"]["containers"]}

    async def _in_turn(self, pod: Manifest, volumes: Path) -> dict[str, int]:
        codes: dict[str, int] = {}
        for container in pod["spec"].get("initContainers", []):
            codes |= await self._together(pod, [container], volumes)
        return codes if any(codes.values()) else codes | await self._together(pod, pod["spec"]["containers"], volumes)

    async def _together(self, pod: Manifest, containers: list[Manifest], volumes: Path) -> dict[str, int]:
        async with contextlib.AsyncExitStack() as stack:
            running = {}
            for container in containers:
                running[container["name"]] = await stack.enter_async_context(self.running(pod, container, volumes))
            return {name: await process.wait() for name, process in running.items()}

    @contextlib.asynccontextmanager
    async def running(
        self, pod: Manifest, container: Manifest, volumes: Path
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start one container in the foreground of a process, whose exit code is the container's; remove it at last."""
        name = container_name(pod, container)
        command = [*self.engine, *arguments(pod, container, volumes, self.objects)]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            yield process
        finally:
            await self._remove(name)
            await process.wait()

    async def _remove(self, name: str) -> None:
        """Remove a container; the engine refuses while its own watcher clears up after it."""
        for attempt in range(_REMOVALS):
            try:
                await asyncio.to_thread(self.do, "rm", "--force", "--time", "0", "--ignore", name)
            except subprocess.CalledProcessError as error:
                if attempt + 1 == _REMOVALS:
                    raise OSError(f"{name} stays: {error.stderr}") from error
                await asyncio.sleep(0.5)
            else:
                return

    def do(self, *command: str) -> str:
        """Have the engine do something at once."""
        done = subprocess.run([*self.engine, *command], capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    @contextlib.contextmanager
    def volumes(self, pod: Manifest) -> Iterator[Path]:
        """Lay out a pod's volumes; those that are empty at first are tmpfs of their size, so that their limit holds."""
        root = self.folder / f"{pod['metadata']['name']}.volumes"
        first = _first_user(pod)
        group = first + pod["spec"]["securityContext"]["fsGroup"]
        mounted = []
        try:
            for volume in pod["spec"]["volumes"]:
                (path := root / volume["name"]).mkdir(parents=True)
                if "emptyDir" in volume:
                    options = f"size={_mebibytes(volume['emptyDir']['sizeLimit'])}m,mode=2777,gid={group}"
                    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
                    mounted.append(path)
                else:
                    _lay_out(self.objects[_source(pod, volume)], path, group, volume["secret"]["defaultMode"])
            yield root
        finally:
            for path in mounted:
                subprocess.run(["umount", "--lazy", path], check=True)
            shutil.rmtree(root)


def container_name(pod: Manifest, container: Manifest) -> str:
    return f"{pod['metadata']['name']}.{container['name']}"


def arguments(pod: Manifest, container: Manifest, volumes: Path, objects: Objects) -> list[str]:
    """Say what the kubelet would ask of its runtime: nothing is granted that the manifest does not grant."""
    environment = resolve(pod, container, objects)
    entry = [_expanded(word, environment) for word in container["command"]]
    return [
        "run",
        *("--name", container_name(pod, container), "--network", "host", "--pull", "never", "--passwd=false"),
        *LIMITS,
        *_security(pod["spec"]["securityContext"] | container["securityContext"]),
        *_users(_first_user(pod)),
        *_limits(container.get("resources", {}).get("limits", {})),
        *(word for name, value in environment.items() for word in ("--env", f"{name}={value}")),
        *(word for mount in container["volumeMounts"] for word in ("--volume", _bound(mount, volumes))),
        *("--entrypoint", json.dumps(entry), container["image"]),
    ]


def _first_user(pod: Manifest) -> int:
    return 0 if pod["spec"].get("hostUsers", True) else _MAPPED


def _users(first: int) -> list[str]:
    return ["--uidmap", f"0:{first}:65536", "--gidmap", f"0:{first}:65536"] if first else []


def _security(context: Manifest) -> list[str]:
    assert not context.get("privileged"), "no pod of ours may be"
    found = ["--user", f"{context['runAsUser']}:{context['runAsGroup']}", "--group-add", str(context["fsGroup"])]
    found += [word for name in context["capabilities"]["drop"] for word in ("--cap-drop", name.lower())]
    if context["readOnlyRootFilesystem"]:
        found += ["--read-only", "--read-only-tmpfs=false"]
    return found if context["allowPrivilegeEscalation"] else [*found, "--security-opt", "no-new-privileges"]


def _limits(limits: Mapping[str, str]) -> list[str]:
    found = []
    if "memory" in limits:
        memory = f"{_mebibytes(limits['memory'])}m"
        found += ["--memory", memory, "--memory-swap", memory]
    return found + (["--cpus", limits["cpu"]] if "cpu" in limits else [])


def _mebibytes(quantity: str) -> int:
    return int(quantity[:-2]) * _MEBIBYTES[quantity[-2:]]


def _bound(mount: Manifest, volumes: Path) -> str:
    return f"{volumes / mount['name']}:{mount['mountPath']}" + (":ro" if mount.get("readOnly") else "")


def resolve(pod: Manifest, container: Manifest, objects: Objects) -> dict[str, str]:
    """Resolve a container's environment; what is named one by one goes before what comes as a whole."""
    namespace = pod["metadata"]["namespace"]
    found: dict[str, str] = {}
    for whole in container.get("envFrom", []):
        found |= objects["ConfigMap", namespace, whole["configMapRef"]["name"]]
    for item in container["env"]:
        value = item.get("value") if "value" in item else _looked_up(item["valueFrom"], pod, objects)
        if value is not None:
            found[item["name"]] = value
    return found


def _looked_up(source: Manifest, pod: Manifest, objects: Objects) -> str | None:
    match source:
        case {"fieldRef": {"fieldPath": path}}:
            label: str = pod["metadata"]["labels"][path.removeprefix("metadata.labels['").removesuffix("']")]
            return label
        case {"secretKeyRef": {"name": name, "key": key, **more}}:
            secret = objects.get(("Secret", pod["metadata"]["namespace"], name), {})
            assert key in secret or more.get("optional"), f"secret {name} has no {key}"
            return secret.get(key)
    raise AssertionError(f"no pod of ours takes a value from {source}")


def _expanded(word: str, environment: Mapping[str, str]) -> str:
    for name, value in environment.items():
        word = word.replace(f"$({name})", value)
    return word


def _source(pod: Manifest, volume: Manifest) -> tuple[str, str, str]:
    return "Secret", pod["metadata"]["namespace"], volume["secret"]["secretName"]


def _lay_out(texts: Mapping[str, str], folder: Path, group: int, mode: int) -> None:
    for name, text in texts.items():
        (path := folder / name).write_text(text)
        os.chown(path, 0, group)
        path.chmod(mode)
