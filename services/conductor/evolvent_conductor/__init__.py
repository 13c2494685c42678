"""The conductor: the life of a run, its grants and budgets. The only role that opens and closes rounds."""

from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_conductor.handlers import FOLD, HANDLERS, watch_runs
from evolvent_conductor.life import Life


def service(_platform: Platform) -> Service[Life]:
    """Build the role."""
    return Service("conductor", FOLD, HANDLERS, heeds_halt=False, background=watch_runs)
