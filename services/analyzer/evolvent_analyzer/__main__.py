"""Run one replica of the analyzer: `python -m evolvent_analyzer`."""

from evolvent.serve import main

main("analyzer")
