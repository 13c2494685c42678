"""How Evolvent talks to models: requests and answers as values, prompts, limits, a bandit.

The client itself is `evolvent.models.client.Models`; it is not imported here, because the OpenAI library costs most of
a second to import and a run without models needs only the values.
"""

from evolvent.models.answers import (
    Message,
    ModelAnswer,
    ModelRequest,
    Outcome,
    PromptRef,
    UnusableAnswer,
    fit,
    read,
    wanted,
    whole,
)
from evolvent.models.bandit import Arm, choose, finished, started
from evolvent.models.limiter import Limiter, LocalLimiter
from evolvent.models.prompts import Quotes, Template, overrides_in, repaired, template
from evolvent.models.settings import ModelSettings

__all__ = [
    "Arm",
    "Limiter",
    "LocalLimiter",
    "Message",
    "ModelAnswer",
    "ModelRequest",
    "ModelSettings",
    "Outcome",
    "PromptRef",
    "Quotes",
    "Template",
    "UnusableAnswer",
    "choose",
    "finished",
    "fit",
    "overrides_in",
    "read",
    "repaired",
    "started",
    "template",
    "wanted",
    "whole",
]
