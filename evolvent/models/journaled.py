"""A question to a model as a journaled effect."""

from typing import Protocol

from evolvent.errors import Refused
from evolvent.journal import Answer, Effects
from evolvent.models.answers import ModelAnswer, ModelRequest
from evolvent_schemas.values import Grant


class Completes(Protocol):
    """Whoever answers: `evolvent.models.client.Models`."""

    async def complete(self, request: ModelRequest, *, grant: Grant) -> ModelAnswer: ...


async def asked(
    effects: Effects, name: str, request: ModelRequest, models: Completes | None, *, grant: Grant
) -> ModelAnswer:
    """Return the recorded answer to a request, or ask, record and return it; unusable answers are recorded alike.

    Without `models` only what is recorded can be read, which is all that a replay needs.

    Raises:
        Refused: nothing is recorded and there is no model to ask.
        CodeChanged, EffectFailed, Halted, Transient: see `Effects.once`.
    """

    async def call() -> Answer:
        if models is None:
            raise Refused(f"{name} asks the model {request.model!r} and none is set up: set EVOLVENT_MODEL_API_KEY")
        answer = await models.complete(request, grant=grant)
        return Answer(answer.model_dump(mode="json"), answer.cost)

    return ModelAnswer.model_validate(await effects.once(name, request.model_dump(mode="json"), call))
