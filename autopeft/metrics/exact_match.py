"""Texts that are what was to be written."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import ClassVar

from autopeft.metrics._base import TextMetric


class ExactMatch(TextMetric):
    """The share of texts that are equal to a reference, but for case, punctuation at words' ends, and white space."""

    name: ClassVar[str] = "exact_match"
    description: ClassVar[str] = "share of texts equal to a reference, but for case, white space and outer punctuation"

    def compare(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """From 0 to 1."""
        pairs = zip(texts, references, strict=True)
        return sum(_plain(text) in map(_plain, own) for text, own in pairs) / len(texts)


def _plain(text: str) -> str:
    """The words without punctuation around them; a word of punctuation alone stays, as `+` is no `-`."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(_bare(word) or word for word in words)


def _bare(word: str) -> str:
    start, end = 0, len(word)
    while start < end and unicodedata.category(word[start]) in ("Ps", "Pi", "Po"):
        start += 1
    while start < end and unicodedata.category(word[end - 1]) in ("Pe", "Pf", "Po"):
        end -= 1
    return word[start:end]
