"""How a new run names its models: what was asked for, completed from the process settings, refused before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolvent.errors import Refused
from evolvent.models.prices import load_prices, price_of
from evolvent.models.settings import ModelSettings
from evolvent_schemas.values import Budget


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

    def options(self, budget: Budget, *, here: bool) -> dict[str, Any]:
        """Give the fields of `RunSettings`. What decides an answer is fixed there, so that a replay needs no settings.

        Args:
            budget: the run's; in money it needs a price for each model.
            here: whether this process is to make the calls, and so needs the key.

        Raises:
            Refused: the key, the model or a price is missing, or a round's share of the budget pays for no call; the
                message names what to set.
        """
        said = {"proposer": self.designer, "lessons": self.lessons, "judge": self.judge, "edit_mode": self.edit_mode}
        if not self.wanted:
            return said
        settings = ModelSettings.load(**({"name": ",".join(self.models)} if self.models else {}))
        if here:
            settings.check()
        if not settings.names:
            raise Refused("no model is named: give --model NAME or set EVOLVENT_MODEL_NAME")
        _check_tokens(settings, budget)
        _check_money(settings, budget)
        return {
            **said,
            "lessons": self.lessons or "llm",
            "models": settings.names,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
        }


def _check_tokens(settings: ModelSettings, budget: Budget) -> None:
    share = None if budget.tokens is None else budget.tokens // budget.rounds
    if share is not None and share <= settings.max_tokens:
        raise Refused(
            f"the budget gives each round {share} tokens and one answer may take {settings.max_tokens}: raise "
            "--tokens, or lower --rounds or EVOLVENT_MODEL_MAX_TOKENS"
        )


def _check_money(settings: ModelSettings, budget: Budget) -> None:
    if budget.usd is None:
        return
    prices, share = load_prices(settings.prices), budget.usd / budget.rounds
    for name in settings.names:
        price = price_of(prices, name)
        if price is None:
            raise Refused(
                f"the budget is in money and {name} has no price: give one in the file named by "
                "EVOLVENT_MODEL_PRICES, or drop the money from the budget"
            )
        if (most := price.usd(0, settings.max_tokens)) > share:
            raise Refused(
                f"the budget gives each round {share:.4f} USD and one answer of {name} may cost {most:.4f}: raise "
                "--usd, or lower --rounds or EVOLVENT_MODEL_MAX_TOKENS"
            )


def check_key(models: Sequence[str]) -> None:
    """Make sure that this process can ask the models of a run that goes on.

    Raises:
        Refused: the key is missing.
    """
    if models:
        ModelSettings.load(name=",".join(models)).check()
