"""Orders and settings that the tests of the backend share."""

from typing import Any

from kubernetes.client.configuration import Configuration

from evolvent_engineer.kubernetes.backend import KubernetesBackend
from evolvent_engineer.kubernetes.client import Client, Patience
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.settings import ClusterSettings, Order
from evolvent_engineer.pod.results import Slip
from evolvent_schemas.values import Limits, Program, ProgramSpec, Stage, sha256

NAMESPACE = "evolvent-experiments"
IMAGE = "registry.example/experiment@sha256:" + "0" * 64
NATS = "nats://nats.evolvent.svc.cluster.local:4222"
SECRET = "a secret that only the engineers share"
SPEC = ProgramSpec(functions=("pack",))
PATIENCE = Patience(first=0.02, longest=0.1, attempts=6)


def settings(**more: Any) -> ClusterSettings:
    return ClusterSettings.model_validate(
        {"image": IMAGE, "nats_url": NATS, "namespace": NAMESPACE, "start_seconds": 5, "signing_secret": SECRET} | more
    )


def stage(**more: Any) -> Stage:
    return Stage.model_validate({"limits": Limits(wall_seconds=10, memory_mb=512)} | more)


def order(number: int = 1, *, run: str = "r1", attempt: int = 0, **more: Any) -> Order:
    identity = Identity(run, f"{number}.0", "explore", 0, attempt)
    program = Program.of({"program.py": f"# {number}"}).digest
    bundle = sha256(b"bundle")
    key = Slip(str(identity), bundle, program).key(SECRET)
    return Order(identity, bundle, program, SPEC, stage(**more), "score", key)


def client(url: str, token: str, patience: Patience = PATIENCE) -> Client:
    configuration = Configuration(host=url, api_key={"BearerToken": token}, api_key_prefix={"BearerToken": "Bearer"})
    return Client(configuration, NAMESPACE, patience=patience)


def backend(url: str, token: str, patience: Patience = PATIENCE, **more: Any) -> KubernetesBackend:
    return KubernetesBackend(client(url, token, patience), settings(**more))


__all__ = ["NAMESPACE", "SECRET", "backend", "client", "order", "settings", "stage"]
