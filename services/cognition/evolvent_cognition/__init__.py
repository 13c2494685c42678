"""Cognition: keeps knowledge and lessons, retrieves them for each design, screens programs for novelty."""

from evolvent.platform import Platform
from evolvent.service import Service
from evolvent_cognition.memory import FOLD, Memory


def service(platform: Platform) -> Service[Memory]:
    """Build the role; while it runs it has an index of its own below the home."""
    from evolvent_cognition.handlers import Cognition
    from evolvent_cognition.settings import CognitionSettings
    from evolvent_cognition.shelves import Shelves

    shelves = Shelves(platform.settings.home / "index", CognitionSettings())
    return Service("cognition", FOLD, Cognition(shelves).handlers, running=shelves.open)
