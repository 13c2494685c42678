"""What a cluster must be told, and what one experiment asks of it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from evolvent_engineer.backend import pods_of, whole
from evolvent_engineer.kubernetes.identity import Identity
from evolvent_schemas.values import Digest, ProgramSpec, Stage


class ClusterSettings(BaseSettings):
    """Where experiments run and how long the engineer waits for what; from the environment (`EVOLVENT_EXPERIMENT_…`).

    The word `none` unsets a setting that has a default.
    """

    model_config = SettingsConfigDict(
        env_prefix="EVOLVENT_EXPERIMENT_",
        env_parse_none_str="none",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    namespace: str = "evolvent-experiments"
    image: str = Field(min_length=1)
    """Image of the pod's three containers, by digest in production."""
    nats_url: str = Field(min_length=1)
    """What a pod of an experiment calls the log."""
    credentials: str = "experiment-credentials"
    """Secret that only the fetching and the evaluating container mount."""
    signing_secret: SecretStr = Field(min_length=32)
    """Shared by all engineers, and by nobody else: the key of each experiment's result is derived from it."""
    sandbox: Literal["T2", "T3"] | None = None
    """What holds a program within its container; T3 under gVisor, which has no landlock, and T2 elsewhere.

    With T3 the pod remains the boundary, but the two sandboxes of a training experiment are apart only by process
    and folder.
    """
    service_account: str = "experiment"
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()
    """Beside the toleration of `nvidia.com/gpu`, which every experiment with a GPU has."""
    priority_class: str | None = None
    runtime_class: str | None = "gvisor"
    user_namespaces: bool = True
    """Off where the node's runtime cannot map users for GPU devices."""
    queue: str | None = None
    """Kueue's local queue: the Job is created suspended, and Kueue starts it when there is room."""
    queue_priority: str | None = None
    start_seconds: int = Field(default=600, ge=1)
    """Added to the Job's deadline, which also runs while images are pulled and pods wait for a node.

    So long the pods of one experiment wait for each other.
    """
    group_service: str = "ranks"
    """Headless Service that gives the pods of an experiment of several their names."""
    group_port: int = Field(default=29500, ge=1024, le=65535)
    """Where rank 0 of such an experiment is met."""
    pending_seconds: float = Field(default=3600, gt=0)
    """A pod that no node can take for so long ends the experiment; a suspended Job has no pods and waits for ever."""
    image_seconds: float = Field(default=300, gt=0)
    """A container that cannot be created for so long ends the experiment."""
    disruptions: int = Field(default=0, ge=0)
    """So many evictions, preemptions and lost nodes are made good by a new pod of the same Job, which no fact tells.

    One more ends the experiment, and another try of it begins. More than 0 is for nodes that come and go.
    """
    retries: int = Field(default=2, ge=0)
    """Pods that may fail for reasons no container has an exit code for."""
    ttl_seconds: int = Field(default=86400, ge=0)
    """A finished Job stays so long, so that an engineer that was away can still learn how it ended."""
    headroom_mb: int = Field(default=256, ge=0)
    """Memory and disk of the sandbox's own processes, beyond what the stage grants to the candidate, in MiB."""
    evaluator_cpu: str = "1"
    evaluator_memory_mb: int = Field(default=4096, ge=64)
    bundle_mb: int = Field(default=1024, ge=1)
    """Largest unpacked task folder."""

    @property
    def within(self) -> Literal["T2", "T3"]:
        """The sandbox within a container."""
        return self.sandbox or ("T3" if self.runtime_class == "gvisor" else "T2")


@dataclass(frozen=True, slots=True)
class Order:
    """Everything a pod needs to know to run one experiment."""

    identity: Identity
    bundle: Digest
    """Artifact with the task folder."""
    program: Digest
    """Artifact with the candidate's files."""
    spec: ProgramSpec
    stage: Stage
    metric: str
    key: str = field(repr=False)
    """Private key of this experiment's result."""


@dataclass(frozen=True, slots=True)
class Box:
    """What the candidate's container gets; requests equal limits."""

    pods: int
    gpus: int
    cpus: int
    memory_mb: int
    disk_mb: int

    @classmethod
    def of(cls, stage: Stage, headroom_mb: int) -> "Box":
        """Read a stage: memory and disk from its limits, the rest from its settings `gpus`, `cpus` and `pods`.

        Without them: one pod, one CPU, and one GPU for training.

        Raises:
            Refused: a setting is no whole number in its range.
        """
        return cls(
            pods=pods_of(stage),
            gpus=whole(stage, "gpus", 1 if stage.kind == "training" else 0, 0),
            cpus=whole(stage, "cpus", 1, 1),
            memory_mb=stage.limits.memory_mb + headroom_mb,
            disk_mb=stage.limits.disk_mb + headroom_mb,
        )
