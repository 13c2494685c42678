"""What each container of a pod is told, through its environment; `kubernetes/manifests.py` writes it."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
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
