"""Semantic near-duplicates by SemHash.

SemHash's own encoder comes from the Hub. The default here needs no download: hashed n-grams of words and characters.
It finds prompts that share most of their wording, in any language; a model2vec model also finds paraphrases.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from latent2pixel.data.judge import WORD
from latent2pixel.errors import ConfigError, SourceError

NGRAMS = "ngrams"
"""Name of the encoder that needs no download."""
DIMENSION = 512
"""Two texts without a common word differ from cosine 0 by about 1 / sqrt(512) = 0.04; 100,000 texts take 200 MB."""
SHORT_WORD = 3
"""Letters up to which a word is taken for grammar, such as "the" and "of"."""
SHORT_WEIGHT = 0.25
"""Weight of such words: prompts share them all."""
BIGRAM_WEIGHT = 0.5
"""Weight of two words in succession: the order counts, but less than the words."""
STEM_WEIGHT = 0.5
"""Weight of a word's beginning: "walks" and "walking" have it in common."""
STEM_LETTERS = 4


class NgramEncoder:
    """Texts as hashed, weighted counts of words, word pairs and beginnings of words, in vectors of length 1."""

    def encode(self, inputs: Sequence[str], **_: Any) -> np.ndarray:
        """Return an array of shape (texts, ``DIMENSION``), float32; SemHash passes options that do not matter here."""
        return np.stack([_vector(text) for text in inputs])


def load_encoder(name: str) -> Any:
    """Return the encoder of that name.

    Args:
        name: "ngrams", or the folder or Hub id of a model2vec model.

    Raises:
        ConfigError: The package model2vec is missing.
        SourceError: The model cannot be loaded.
    """
    if name == NGRAMS:
        return NgramEncoder()
    try:
        from model2vec import StaticModel
    except ImportError as error:
        raise _missing(error) from error
    try:
        return StaticModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise SourceError(
            "The encoder for near-duplicates cannot be loaded",
            found=f"{name}: {str(error).splitlines()[0]}",
            expected=f"{NGRAMS}, or the folder or Hub id of a model2vec model",
            fix="Check the setting encoder.",
        ) from error


def near_duplicates(
    kept: Sequence[tuple[str, str]], new: Sequence[tuple[str, str]], *, encoder: Any, threshold: float
) -> dict[str, tuple[str, float]]:
    """Find new texts that say nearly what an earlier text says.

    Args:
        kept: Name and text of what stays, whatever is found.
        new: Name and text in order of precedence; of two that are alike the first stays. All names differ.
        encoder: From texts to vectors.
        threshold: Cosine similarity from which two texts are alike.

    Returns:
        For each name to be rejected, the name of the text that stays, and their similarity.

    Raises:
        ConfigError: The package semhash is missing.
    """
    if not new:
        return {}
    try:
        from semhash import SemHash
        from vicinity import Backend
    except ImportError as error:
        raise _missing(error) from error
    # Exact search: 10,000 prompts take 3 s on one core, where building SemHash's default, approximate index takes 14 s,
    # and the same folder comes out whatever the machine.
    options = {"columns": ["text"], "model": encoder, "ann_backend": Backend.BASIC}
    found: dict[str, tuple[str, float]] = {}
    left = _records(new)
    if kept:
        result = SemHash.from_records(_records(kept), **options).deduplicate(left, threshold=threshold)
        found |= _filtered(result)
        left = [record for record in left if record["name"] not in found]
    if left:
        found |= _filtered(SemHash.from_records(left, **options).self_deduplicate(threshold=threshold))
    return found


def _records(texts: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "text": text} for name, text in texts]


def _filtered(result: Any) -> dict[str, tuple[str, float]]:
    return {one.record["name"]: (one.duplicate_of["name"], one.score) for one in result.filtered}


def _vector(text: str) -> np.ndarray:
    vector = np.zeros(DIMENSION, dtype=np.float32)
    words = WORD.findall(re.sub("_", " ", text.lower()))
    weights = [_weight(word) for word in words]
    for word, weight in zip(words, weights, strict=True):
        _add(vector, word, weight)
        if len(word) > STEM_LETTERS:
            _add(vector, f"{word[:STEM_LETTERS]}*", weight * STEM_WEIGHT)
    for first, second, weight in zip(words, words[1:], map(max, weights, weights[1:]), strict=False):
        _add(vector, f"{first} {second}", weight * BIGRAM_WEIGHT)
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector


def _weight(word: str) -> float:
    return SHORT_WEIGHT if len(word) <= SHORT_WORD and word.isascii() else 1.0


def _add(vector: np.ndarray, feature: str, weight: float) -> None:
    # crc32, not hash(): Python's own differs from process to process.
    code = zlib.crc32(feature.encode())
    vector[code % DIMENSION] += weight if code & 0x10000000 else -weight


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(
        "The check for near-duplicates needs a package that is not installed",
        found=str(error),
        expected="the package semhash",
        fix="Install it with `pip install 'latent2pixel[data]'`, or leave the check out: --set near_duplicates=0.",
    )
