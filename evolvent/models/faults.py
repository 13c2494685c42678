"""The one place where what an endpoint did wrong becomes one of our two error words."""

import math
import re
from collections.abc import Collection, Mapping
from email.utils import format_datetime, parsedate_to_datetime

import httpx2
import openai

from evolvent import clock
from evolvent.errors import BrokenOff, EvolventError, Permanent, Transient, innermost

DEFAULT_DELAY = 5.0
"""Seconds until the next try where the endpoint names none."""
LONGEST_DELAY = 3600.0
"""An endpoint that names more is asked again after an hour all the same."""
_PASSING = frozenset({408, 409, 425, 429})
_NEVER_MENDED = frozenset({501, 505})
_TOO_LONG = re.compile(
    r"context.?(length|window)|maximum context|prompt is too long|too many tokens|is too large", re.IGNORECASE
)
_SHOWN = 500
"""Characters of an endpoint's own message that are repeated in ours."""

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


OPTIONAL = {
    "response_format": re.compile(r"response_format|json_schema|structured output|guided|grammar", re.IGNORECASE),
    "stream_options": re.compile(r"stream_options|include_usage", re.IGNORECASE),
    "max_tokens": re.compile(r"max_completion_tokens"),
}
"""Features of a call that an endpoint may lack, and how its 400 or 422 says so. For `max_tokens` the newer name
`max_completion_tokens` is used instead (OpenAI's reasoning models refuse the older one)."""


def retry_after(headers: Mapping[str, str]) -> float:
    """Read how many seconds to wait: `retry-after-ms`, else `Retry-After` in seconds or as an HTTP date.

    A date is compared with the answer's own `Date`, so that a wrong clock here does no harm.
    Source: RFC 9110, section 10.2.3.
    """
    try:
        if "retry-after-ms" in headers:
            return _bounded(float(headers["retry-after-ms"]) / 1000)
        return _bounded(_seconds(headers.get("retry-after", ""), headers))
    except (ValueError, TypeError, OverflowError):
        return DEFAULT_DELAY


def _seconds(text: str, headers: Mapping[str, str]) -> float:
    try:
        return float(text)
    except ValueError:
        sent = headers.get("date") or format_datetime(clock.now(), usegmt=True)
        return (parsedate_to_datetime(text) - parsedate_to_datetime(sent)).total_seconds()


def _bounded(seconds: float) -> float:
    if not math.isfinite(seconds):
        return DEFAULT_DELAY
    return min(max(seconds, 0.0), LONGEST_DELAY)


def lacking(error: openai.APIStatusError, body: Collection[str]) -> str | None:
    """Name the optional feature of a call's body that an endpoint refuses; none when it refuses something else."""
    text = _message(error)
    if error.status_code not in {400, 422} or _TOO_LONG.search(text):
        return None
    return next((feature for feature, says_so in OPTIONAL.items() if feature in body and says_so.search(text)), None)


def classified(error: openai.APIError, where: str) -> EvolventError:
    """Turn an error of the client into a passing or a lasting one; `where` names the model and the address."""
    if isinstance(error, openai.APIStatusError):
        return _by_status(error, where)
    if isinstance(error, openai.APIConnectionError):
        kind = Transient if isinstance(error.__cause__, _NEVER_SENT) else BrokenOff
        what = f"{'hung up' if kind is BrokenOff else 'cannot be reached'}: {innermost(error)}"
        if isinstance(error, openai.APITimeoutError):
            what = "gave no answer in time"
        return kind(f"{where} {what}; is the address right and the server up?", delay=DEFAULT_DELAY)
    if _TOO_LONG.search(_message(error)):
        return _permanent(error, where, _TOO_LONG_ADVICE)
    return BrokenOff(f"{where} broke the answer off: {_message(error)}", delay=DEFAULT_DELAY)


def _by_status(error: openai.APIStatusError, where: str) -> EvolventError:
    status = error.status_code
    if status == 402 or error.code == "insufficient_quota":
        return _permanent(error, where, "its credit is used up: add some, or name another endpoint")
    if status in _PASSING or (status >= 500 and status not in _NEVER_MENDED):
        delay = retry_after(error.response.headers)
        return Transient(f"{where} answered {status}: {_message(error)}", delay=delay)
    if status == 413 or _TOO_LONG.search(_message(error)):
        return _permanent(error, where, _TOO_LONG_ADVICE)
    return _permanent(error, where, _ADVICE.get(status, "the endpoint refuses this request; see its own words"))


_TOO_LONG_ADVICE = "the prompt is too long: name a model with a larger context, or lower `references` and `max_tokens`"
_ADVICE = {
    401: "check EVOLVENT_MODEL_API_KEY",
    403: "this key may not use this model here: name another model or key",
    404: "check EVOLVENT_MODEL_NAME, and EVOLVENT_MODEL_BASE_URL, which mostly ends in /v1",
}


def _permanent(error: openai.APIError, where: str, advice: str) -> Permanent:
    status = f" answered {error.status_code}" if isinstance(error, openai.APIStatusError) else ""
    return Permanent(f"{where}{status}: {advice}. It said: {_message(error)}")


def _message(error: openai.APIError) -> str:
    words = " ".join(word for word in (error.code, error.param, error.message) if word)
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}… ({len(words)} characters)"
