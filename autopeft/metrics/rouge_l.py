"""ROUGE-L (Lin 2004)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import ClassVar

from autopeft.metrics._base import TextMetric

_WORD = re.compile(r"[^\W_]+")


class _Words:
    """Words in lower case: those of rouge-score's own tokenizer where a text is ASCII, and of other scripts too."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


class RougeL(TextMetric):
    """The F score of the longest common subsequence of words, without stemming: the mean over rows of the best
    reference's.
    """

    name: ClassVar[str] = "rouge_l"
    description: ClassVar[str] = "ROUGE-L's F score by rouge-score, 0 to 1"
    package: ClassVar[str] = "rouge_score"

    def compare(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """From 0 to 1."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        found = [
            scorer.score_multi(list(own), text)["rougeL"].fmeasure for text, own in zip(texts, references, strict=True)
        ]
        return float(sum(found) / len(found))

    def signature(self, references: Sequence[Sequence[str]]) -> str:
        """As sacrebleu's are."""
        return f"ROUGE-L|measure:f1|refs:best|case:lc|stem:no|tok:words|version:{version('rouge_score')}"
