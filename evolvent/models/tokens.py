"""Estimate tokens where nobody counted them."""

import orjson

from evolvent.models.answers import ModelRequest

BYTES_PER_TOKEN = 2
"""On the safe side of what o200k_base and cl100k_base take: Python 3.9 to 4.6 bytes a token, English 4.2, Chinese 2.7
to 3.9, columns of digits 2.2 (measured with gpt-tokenizer). Only dense noise is undercounted: hexadecimal takes 1.8
and random printable text 1.3."""
MESSAGE_TOKENS = 8
"""What a message costs beside its text: the chat formats in use add 3 to 5."""


def estimate(text: str) -> int:
    """Count the tokens of a text, rounded up; too many for anything people write."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def prompt_tokens(request: ModelRequest) -> int:
    """Count what a request sends: its messages and its schema."""
    schema = orjson.dumps(request.answer_schema).decode() if request.answer_schema else ""
    return sum(estimate(message.text) + MESSAGE_TOKENS for message in request.messages) + estimate(schema)


def worst_case(request: ModelRequest) -> int:
    """Count the most tokens that a request can cost: the prompt and the longest answer."""
    return prompt_tokens(request) + request.max_tokens
