"""What an operator can set, from the environment (`EVOLVENT_…`) or the command line."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from evolvent.errors import Unreachable


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the server is, and who we are to it."""

    url: str
    token: str | None = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None


class Settings(BaseSettings):
    """Settings every role and command shares."""

    model_config = SettingsConfigDict(env_prefix="EVOLVENT_", use_attribute_docstrings=True)

    home: Path = Path(".evolvent")
    """Where everything is written: the log, snapshots, programs, service logs."""
    nats_url: str | None = None
    """A NATS server of your own; without it the one embedded in `home` is used."""
    nats_token: SecretStr | None = None
    """Its token, if it asks for one."""
    nats_user: str | None = None
    """Who to be on a server with a user per role: the role's name, `user` for a person, `provisioner`, `tools`."""
    nats_password: SecretStr | None = None
    """Password of that user."""
    nats_ca: Path | None = None
    """File with the certificate authority of a server that speaks TLS, where the system does not know it."""
    replicas: int = Field(default=1, ge=1, le=5)
    """Copies of each stream: 1 on one server, 3 on a cluster."""
    log_max_bytes: int = Field(default=-1, ge=-1)
    """Largest size of the log in bytes; -1 is as large as the disk."""
    ack_wait: float = Field(default=10.0, gt=0.2)
    """Seconds without a heartbeat after which a fact is given to another replica."""
    max_deliveries: int = Field(default=5, ge=1)
    """So many deliveries without an answer make a fact a failed one."""
    retry_delay: float = Field(default=0.5, gt=0)
    """Seconds before the second delivery of a fact whose handler raised; doubled for each further one."""
    engineer_workers: int | None = Field(default=None, ge=1)
    """Experiments that one engineer runs at once; the number of cores when not set."""
    allow_unsafe_sandbox: bool = False
    """Run candidates where nothing contains them (tier T3)."""
    health_port: int = Field(default=0, ge=0, le=65535)
    """Port on which a served role answers `/live` and `/ready`; 0 for none."""
    health_host: str = "127.0.0.1"
    """Address of that port; `0.0.0.0` in a pod, where the kubelet asks."""

    def endpoint(self) -> Endpoint:
        """Find the server and the credentials for it.

        Raises:
            Unreachable: none is set and none runs in `home`.
        """
        if self.nats_url is not None:
            token, password = _plain(self.nats_token), _plain(self.nats_password)
            return Endpoint(self.nats_url, token, self.nats_user, password, self.nats_ca)
        try:
            found = json.loads((self.home / "server.json").read_text())
        except (OSError, ValueError) as error:
            raise Unreachable(
                f"no server runs in {self.home}; `evolvent run TASK` starts one, or set EVOLVENT_NATS_URL"
            ) from error
        return Endpoint(found["url"], found["token"])


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
