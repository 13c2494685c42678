"""What each container of a pod is told, through its environment; `kubernetes/manifests.py` writes it."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from evolvent_engineer.kubernetes.identity import Identity
from evolvent_engineer.pod.results import Slip
from evolvent_schemas.values import Digest, ProgramSpec, Stage

SandboxWithin = Literal["T2", "T3"]
"""What holds a program within its container; T3 where the container's runtime has no landlock."""


class Container(BaseSettings):
    """What all three share."""

    model_config = SettingsConfigDict(env_prefix="EVOLVENT_", frozen=True, use_attribute_docstrings=True)

    pod_root: Path = Path("/")
    """Where the volumes are mounted."""
    pods: int = Field(default=1, ge=1)
    """Pods of this experiment; each is a rank."""
    index: int | None = Field(default=None, ge=0, validation_alias="JOB_COMPLETION_INDEX")
    """Which of them this is. Kubernetes sets it in the containers of an Indexed Job."""
    group_seconds: float = Field(default=0.0, ge=0)
    """How long the pods wait for each other."""

    @model_validator(mode="after")
    def _has_a_rank(self) -> Self:
        if self.pods > 1 and (self.index is None or self.index >= self.pods):
            raise ValueError(f"JOB_COMPLETION_INDEX must be below {self.pods}, and is {self.index}")
        return self

    @property
    def rank(self) -> int:
        """0 for a pod that is alone."""
        return self.index or 0

    @property
    def task(self) -> Path:
        return self.pod_root / "task" / "bundle"

    @property
    def files(self) -> Path:
        return self.pod_root / "program" / "files.json"

    @property
    def socket(self) -> Path:
        return self.pod_root / "socket" / "candidate"

    @property
    def fault(self) -> Path:
        """Why the candidate's container gave up."""
        return self.pod_root / "socket" / "fault"

    @property
    def work(self) -> Path:
        return self.pod_root / "tmp" / "work"

    @property
    def credentials(self) -> Path:
        """Folder of the Secret: `user` and `password`, or `token`; `ca.crt` where the bus has its own authority."""
        return self.pod_root / "credentials"


class Fetching(Container):
    """The container that loads both artifacts."""

    nats_url: str
    bundle: Digest
    program: Digest


class Evaluating(Fetching):
    """The container that measures."""

    experiment: str
    stage: Stage
    spec: ProgramSpec
    metric: str
    seed: int = Field(ge=0)
    signing_key: SecretStr
    """Signs the result of this one experiment and nothing else."""
    sandbox: SandboxWithin = "T2"

    @property
    def identity(self) -> Identity:
        return Identity.parse(self.experiment)

    @property
    def slip(self) -> Slip:
        return Slip(self.experiment, self.bundle, self.program)


class Keeping(Container):
    """The container that holds the program."""

    spec: ProgramSpec
    profile: Literal["eager", "compile"] = "eager"
    sandbox: SandboxWithin = "T2"
    group_host: str = ""
    """Name of rank 0's pod."""
    group_port: int = Field(default=29500, ge=1024, le=65535)
    """Where rank 0 is met, first by the pods and then by their programs."""
