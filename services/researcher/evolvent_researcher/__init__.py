"""The researcher: samples a context from the population and designs the next candidate."""

from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_researcher.handlers import HANDLERS
from evolvent_researcher.studio import FOLD, Studio


def service(_platform: Platform) -> Service[Studio]:
    """Build the role."""
    return Service("researcher", FOLD, HANDLERS)
