"""What the index holds: items of knowledge and lessons, cut into overlapping chunks."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from evolvent_schemas.values import KnowledgeItem, Lesson, Value

CHUNK_WORDS = 150
CHUNK_STRIDE = 100
"""Words per chunk and from one chunk's start to the next.

Measured on the 86 items of `linear_attention` and 67 questions written after them (mean reciprocal rank / recall at 5
by BM25): 90 and 60 gave .80 / .93, because they part an item from when it applies; 120 and 80 .84 / .94; 150 and 100
.84 / .96, and longer ones no more.
"""

TEXT_LIMIT = 8000
"""Characters of a document that are searched and handed out; a longer one ends with an ellipsis."""

CODE_LIMIT = 16_000
"""Characters of a snippet; a longer one is left out, because half of a program is worse than none."""


class Document(Value):
    """One item or lesson as retrieval sees it."""

    id: str = Field(min_length=1)
    kind: Literal["item", "lesson"]
    title: str
    text: str
    code: str = ""
    ordinal: int = Field(ge=0)
    """Position among the run's documents, in the order of the log."""

    @classmethod
    def of_item(cls, item: KnowledgeItem, ordinal: int) -> "Document":
        """Build the document of an item: its insight and when it applies."""
        text = f"{item.insight}\n\nApplies: {item.applies}" if item.applies else item.insight
        return cls(id=item.id, kind="item", title=item.title, text=text, code=item.code, ordinal=ordinal)

    @classmethod
    def of_lesson(cls, lesson: Lesson, *, id: str, ordinal: int) -> "Document":  # noqa: A002  the field's name
        """Build the document of a lesson: what was changed is its title, everything else its text."""
        parts = {
            "": lesson.effect,
            "Try next: ": lesson.attempt,
            "Avoid: ": lesson.avoid,
            "Expect: ": lesson.prediction,
        }
        text = "\n".join(label + part for label, part in parts.items() if part)
        return cls(id=id, kind="lesson", title=lesson.change, text=text, ordinal=ordinal)

    def trimmed(self) -> "Document":
        """Cut what exceeds the limits."""
        text = self.text if len(self.text) <= TEXT_LIMIT else self.text[: TEXT_LIMIT - 1] + "…"
        code = self.code if len(self.code) <= CODE_LIMIT else ""
        return self.model_copy(update={"title": self.title[:TEXT_LIMIT], "text": text, "code": code})


def chunks(text: str) -> Iterator[str]:
    """Cut a text into chunks of 150 words, each starting 100 words after the last; an empty text is one chunk."""
    words = text.split()
    for start in range(0, max(len(words) - CHUNK_WORDS + CHUNK_STRIDE, 1), CHUNK_STRIDE):
        yield " ".join(words[start : start + CHUNK_WORDS])
