"""The analyzer: turns raw measurements into fitness, comparisons and lessons."""

from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_analyzer.handlers import HANDLERS
from evolvent_analyzer.ledger import FOLD, Ledger


def service(_platform: Platform) -> Service[Ledger]:
    """Build the role."""
    return Service("analyzer", FOLD, HANDLERS)
