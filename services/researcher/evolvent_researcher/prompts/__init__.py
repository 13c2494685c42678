"""What the researcher asks a model."""

from evolvent_researcher.prompts.design import (
    TEMPLATES,
    Asking,
    Design,
    Question,
    Shown,
    design_request,
    read_design,
    repair_request,
)

__all__ = ["TEMPLATES", "Asking", "Design", "Question", "Shown", "design_request", "read_design", "repair_request"]
