"""The analyzer: turns raw measurements into fitness, comparisons and lessons."""

from evolvent.models.access import Access
from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_analyzer.handlers import Analyst
from evolvent_analyzer.ledger import FOLD, Ledger
from evolvent_analyzer.prompts import TEMPLATES


def service(platform: Platform) -> Service[Ledger]:
    """Build the role."""
    access = Access(platform, "analyzer", TEMPLATES)
    return Service("analyzer", FOLD, Analyst(access).handlers, running=access.running)
