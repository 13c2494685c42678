"""What an operator can set, from the environment (`EVOLVENT_…`) or the command line."""

import json
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from evolvent.errors import Unreachable


class Settings(BaseSettings):
    """Settings every role and command shares."""

    model_config = SettingsConfigDict(env_prefix="EVOLVENT_", use_attribute_docstrings=True)

    home: Path = Path(".evolvent")
    """Where everything is written: the log, snapshots, programs, service logs."""
    nats_url: str | None = None
    """A NATS server of your own; without it the one embedded in `home` is used."""
    nats_token: SecretStr | None = None
    """Its token, if it asks for one."""
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

    def endpoint(self) -> tuple[str, str | None]:
        """Find the server: its URL and token.

        Raises:
            Unreachable: none is set and none runs in `home`.
        """
        if self.nats_url is not None:
            return self.nats_url, self.nats_token.get_secret_value() if self.nats_token else None
        try:
            found = json.loads((self.home / "server.json").read_text())
        except (OSError, ValueError) as error:
            raise Unreachable(
                f"no server runs in {self.home}; `evolvent run TASK` starts one, or set EVOLVENT_NATS_URL"
            ) from error
        return found["url"], found["token"]
