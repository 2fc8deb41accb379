"""What the metrics of sacrebleu have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, ClassVar

from autopeft.metrics._base import TextMetric


class Sacrebleu(TextMetric):
    """A metric over all rows together, from 0 to 100, as sacrebleu (Post 2018) computes it by default."""

    package: ClassVar[str] = "sacrebleu"

    @abstractmethod
    def made(self, references: list[list[str | None]]) -> Any:
        """Sacrebleu's metric on R references [R, N], where a row with fewer has None."""

    def compare(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """From 0 to 100."""
        return float(self._on(references).corpus_score(list(texts), None).score)

    def signature(self, references: Sequence[Sequence[str]]) -> str:
        """Sacrebleu's own."""
        metric = self._on(references)
        return f"{type(metric).__name__}|{metric.get_signature()}"

    def _on(self, references: Sequence[Sequence[str]]) -> Any:
        return self.made([list(column) for column in zip_longest(*references)])
