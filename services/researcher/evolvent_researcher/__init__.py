"""The researcher: samples a context from the population and designs the next candidate."""

from evolvent.models.access import Access
from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_researcher.handlers import Researcher
from evolvent_researcher.prompts import TEMPLATES
from evolvent_researcher.studio import FOLD, Studio


def service(platform: Platform) -> Service[Studio]:
    """Build the role."""
    access = Access(platform, "researcher", TEMPLATES)
    return Service("researcher", FOLD, Researcher(access).handlers, running=access.running)
