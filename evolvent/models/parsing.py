"""Find the one JSON object in what a model wrote, without guessing."""

import re

import orjson
from pydantic import JsonValue

from evolvent.models.answers import UnusableAnswer

_FENCE = re.compile(r"^```json[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_AROUND = 40
"""Characters shown on either side of a syntax error."""


def json_object(text: str) -> dict[str, JsonValue]:
    """Read the JSON object of an answer: the whole text, its one ```json block, or its first `{` to its last `}`.

    Nothing is repaired: a trailing comma, a comment or a second object is an error that says so.

    Raises:
        UnusableAnswer: no object, several, or a syntax error, with its place.
    """
    source = _object_text(text.strip().removeprefix("\ufeff"))
    try:
        value = orjson.loads(source)
    except orjson.JSONDecodeError as error:
        raise UnusableAnswer(_syntax_error(source, error)) from None
    if not isinstance(value, dict):
        raise UnusableAnswer(f"the answer is a JSON {type(value).__name__}; one JSON object was asked for")
    return value


def _object_text(text: str) -> str:
    if text[:1] in {"{", "["}:
        return text
    blocks = _FENCE.findall(text)
    if len(blocks) > 1:
        raise UnusableAnswer(f"the answer holds {len(blocks)} ```json blocks; send exactly one")
    if blocks:
        return str(blocks[0])
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise UnusableAnswer("the answer holds no JSON object; send exactly one and nothing else")
    return text[start : end + 1]


def _syntax_error(source: str, error: orjson.JSONDecodeError) -> str:
    before = source[max(0, error.pos - _AROUND) : error.pos]
    after = source[error.pos : error.pos + _AROUND]
    place = f"line {error.lineno}, column {error.colno}"
    return f"the JSON is not valid at {place}: {error.msg}; it reads {before!r} and then {after!r}"
