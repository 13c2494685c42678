"""How a new run names its models: what was asked for, completed from the process settings, refused before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolvent.errors import Refused
from evolvent.models.prices import load_prices, price_of
from evolvent.models.settings import ModelSettings


@dataclass(frozen=True)
class Wishes:
    """What the user said about models; none where nothing was said."""

    proposer: str | None = None
    models: Sequence[str] = ()
    lessons: str | None = None
    judge: bool = False
    edit_mode: str | None = None

    @property
    def designer(self) -> str | None:
        """Who designs; to name a model is to ask for it."""
        return self.proposer or ("llm" if self.models else None)

    @property
    def wanted(self) -> bool:
        return self.designer == "llm" or self.lessons == "llm" or self.judge

    def options(self, *, usd: float | None, here: bool) -> dict[str, Any]:
        """Give the fields of `RunSettings`. What decides an answer is fixed there, so that a replay needs no settings.

        Args:
            usd: the run's budget in money, which needs a price for each model.
            here: whether this process is to make the calls, and so needs the key.

        Raises:
            Refused: the key, the model or a price is missing; the message names what to set.
        """
        said = {"proposer": self.designer, "lessons": self.lessons, "judge": self.judge, "edit_mode": self.edit_mode}
        if not self.wanted:
            return said
        settings = ModelSettings.load(**({"name": ",".join(self.models)} if self.models else {}))
        if here:
            settings.check()
        if not settings.names:
            raise Refused("no model is named: give --model NAME or set EVOLVENT_MODEL_NAME")
        if usd is not None:
            _priced(settings)
        return {
            **said,
            "lessons": self.lessons or "llm",
            "models": settings.names,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
        }


def _priced(settings: ModelSettings) -> None:
    prices = load_prices(settings.prices)
    if unpriced := [name for name in settings.names if price_of(prices, name) is None]:
        raise Refused(
            f"the budget is in money and {', '.join(unpriced)} has no price: give one in the file named by "
            "EVOLVENT_MODEL_PRICES, or drop the money from the budget"
        )


def check_key(models: Sequence[str]) -> None:
    """Make sure that this process can ask the models of a run that goes on.

    Raises:
        Refused: the key is missing.
    """
    if models:
        ModelSettings.load(name=",".join(models)).check()
