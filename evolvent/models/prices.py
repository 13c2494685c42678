"""What models cost, from a table shipped with the package and a file of the user's."""

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from evolvent.errors import Refused
from evolvent_schemas.values import NonNegative, Value

_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|20\d{6})$")


class Price(Value):
    """US dollars for a million tokens."""

    input: NonNegative
    output: NonNegative

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.input + tokens_out * self.output) / 1_000_000


Prices = Mapping[str, Price]
_TABLE = TypeAdapter(dict[str, Price])


def load_prices(path: Path | None = None) -> Prices:
    """Read the shipped table, then the user's file over it.

    Raises:
        Refused: the file is missing, is no TOML, or holds something other than `"model" = {input, output}`.
    """
    shipped = _read((files("evolvent.models") / "prices.toml").read_text("utf-8"), "the shipped prices")
    if path is None:
        return shipped
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"the prices file {path} cannot be read: {error}; see EVOLVENT_MODEL_PRICES") from error
    return {**shipped, **_read(text, str(path))}


def _read(text: str, source: str) -> dict[str, Price]:
    try:
        return _TABLE.validate_python(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise Refused(f'{source}: {error}; each line reads "model" = {{ input = 1.0, output = 2.0 }}') from error


def price_of(prices: Prices, model: str) -> Price | None:
    """Find the price of a model; the dated release of a listed model costs what the model costs."""
    return prices.get(model) or prices.get(_DATED.sub("", model))
