"""The error tree. Two words decide everything: transient is retried, permanent ends with a fact that says so.

EvolventError
├── Transient            retried after `delay`, by JetStream and by nothing else
│   ├── BrokenOff        a call that may have been paid for
│   └── Unprovisioned    the server has no log yet
├── Permanent            terminated; the round ends as `handling.failed`
│   ├── Conflict         the subject holds another fact
│   ├── Diverged         the same decision came out differently
│   ├── CodeChanged      a recorded effect was asked with another request
│   ├── GrantExceeded    an effect would spend beyond its grant
│   ├── Forbidden        our user on the bus may not do this
│   └── SchemaError      bytes that are no fact of ours; dead-lettered
├── Rejected             JetStream answered with an error (raised and classified in `wire` and `log`)
├── StreamFull           the log accepts nothing until its limit is raised
├── ConsumerLost         a durable consumer was deleted under a running role
├── Halted               the run was halted; its work stops here
├── Unrecorded           a replay asked for something that was never recorded
├── Unreachable          a server cannot be reached
│   └── Unauthorized     it is there and does not let us in
└── Refused              the user asked for something that cannot be done
"""

import os
import ssl


class EvolventError(Exception):
    """Whatever Evolvent raises on purpose. The message says what, which id, and what to do next."""


class Transient(EvolventError):
    """A passing fault: the message is delivered again after `delay` seconds."""

    def __init__(self, message: str, *, delay: float = 1.0) -> None:
        super().__init__(message)
        self.delay = delay


class BrokenOff(Transient):
    """A call was sent and no whole answer came: it may have been paid for."""


class Unprovisioned(Transient):
    """Nobody has made the log on this server yet."""


class Permanent(EvolventError):
    """A fault that another try cannot mend."""

    reason = "permanent"


class Conflict(Permanent):
    """The subject already holds a fact that something else caused."""

    reason = "conflict"


class Diverged(Permanent):
    """The subject holds this very decision with another body: the handler is not a function of the log."""

    reason = "diverged"


class CodeChanged(Permanent):
    """New code asks a recorded effect something else, so the record cannot stand for its answer."""

    reason = "code_changed"


class GrantExceeded(Permanent):
    """The effect would spend more than the round was granted."""

    reason = "grant_exceeded"


class Forbidden(Permanent):
    """The server does not take this from the user that we are; the message names one who may."""


class SchemaError(Permanent):
    """Bytes or a subject that are not a fact of ours."""

    reason = "schema"


class StreamFull(EvolventError):
    """JetStream error 10077: the stream refuses new messages instead of dropping old ones."""


class Rejected(EvolventError):
    """JetStream answered with an error."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"JetStream error {code}: {description}")
        self.code = code


class ConsumerLost(EvolventError):
    """A durable consumer vanished; only the provisioner may bring it back."""


class Halted(EvolventError):
    """The run was halted: nothing more is spent on it."""


class Unrecorded(EvolventError):
    """A replay asked for an effect or an observation that the log does not hold."""


class Unreachable(EvolventError):
    """A server that the command needs does not answer."""


class Unauthorized(Unreachable):
    """A server answers and does not know us, or not by this password."""


class Refused(EvolventError):
    """A request that is understood and cannot be carried out."""


def innermost(error: BaseException) -> str:
    """Say what an error of a client comes down to, such as `Connection refused`, which its own text may not tell."""
    inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
    if inner is not None:
        return innermost(inner)
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)  # asyncio puts words of its own in its place
    return str(error) or type(error).__name__
