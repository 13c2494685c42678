"""Orders and settings that the tests of the backend share."""

from pathlib import Path
from typing import Any

from kubernetes.client.configuration import Configuration

from evolvent_engineer.backend import Completed, Experiment, Failed, Outcome
from evolvent_engineer.kubernetes.backend import KubernetesBackend
from evolvent_engineer.kubernetes.client import Client, Patience
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.kubernetes.settings import ClusterSettings, Order
from evolvent_schemas.values import Limits, Program, ProgramSpec, Stage, sha256

NAMESPACE = "evolvent-experiments"
IMAGE = "registry.example/experiment@sha256:" + "0" * 64
SPEC = ProgramSpec(functions=("pack",))
PATIENCE = Patience(first=0.02, longest=0.1, attempts=6)


def settings(**more: Any) -> ClusterSettings:
    return ClusterSettings.model_validate({"image": IMAGE, "namespace": NAMESPACE, "start_seconds": 5} | more)


def stage(**more: Any) -> Stage:
    return Stage.model_validate({"limits": Limits(wall_seconds=10, memory_mb=512)} | more)


def order(number: int = 1, *, run: str = "r1", attempt: int = 0, **more: Any) -> Order:
    identity = Identity(run, f"{number}.0", "explore", 0, attempt)
    program = Program.of({"program.py": f"# {number}"}).digest
    return Order(identity, sha256(b"bundle"), program, SPEC, stage(**more), "score")


def client(url: str, token: str, patience: Patience = PATIENCE) -> Client:
    configuration = Configuration(host=url, api_key={"BearerToken": token}, api_key_prefix={"BearerToken": "Bearer"})
    return Client(configuration, NAMESPACE, patience=patience)


class Shelf:
    """The log's part in tests: remembers orders and gives out one score."""

    def __init__(self, score: float = 0.5) -> None:
        self.score = score

    async def order(self, experiment: Experiment) -> Order:
        program = Program.of(experiment.files).digest
        identity = Identity.parse(experiment.id)
        return Order(identity, sha256(b"bundle"), program, experiment.program, experiment.stage, experiment.metric)

    async def result(self, identity: Identity) -> Outcome:
        return Completed(self.score, {}, 1.0, 1.0, 1.0, str(identity))


def backend(url: str, token: str, patience: Patience = PATIENCE, **more: Any) -> KubernetesBackend:
    return KubernetesBackend(client(url, token, patience), settings(**more), Shelf())


def experiment(number: int = 1) -> Experiment:
    files = {"program.py": f"# {number}"}
    return Experiment(f"r1-{number}.0.explore.0.0", Path("/nowhere"), files, SPEC, stage(), "score", 0)


__all__ = ["NAMESPACE", "Failed", "Shelf", "backend", "client", "experiment", "order", "settings", "stage"]
