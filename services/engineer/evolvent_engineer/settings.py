"""Where the engineer runs experiments."""

from typing import Literal

from pydantic_settings import BaseSettings, SettingsConfigDict


class EngineerSettings(BaseSettings):
    """From the environment (`EVOLVENT_ENGINEER_…`)."""

    model_config = SettingsConfigDict(env_prefix="EVOLVENT_ENGINEER_", frozen=True, use_attribute_docstrings=True)

    backend: Literal["local", "kubernetes"] = "local"
    """`local`: in sandboxes on this machine. `kubernetes`: as Jobs, see `EVOLVENT_EXPERIMENT_…`."""
