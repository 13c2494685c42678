"""What the analyzer asks a model."""

from evolvent_analyzer.prompts.lesson import (
    TEMPLATES,
    Judgement,
    LessonReport,
    Measured,
    Relative,
    judge_request,
    lesson_request,
    repair_request,
)

__all__ = [
    "TEMPLATES",
    "Judgement",
    "LessonReport",
    "Measured",
    "Relative",
    "judge_request",
    "lesson_request",
    "repair_request",
]
