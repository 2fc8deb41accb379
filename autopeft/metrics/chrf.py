"""The F score of n-grams of characters (Popović 2015)."""

from __future__ import annotations

from typing import Any, ClassVar

from autopeft.metrics._sacrebleu import Sacrebleu


class Chrf(Sacrebleu):
    """F2 of n-grams of up to 6 characters."""

    name: ClassVar[str] = "chrf"
    description: ClassVar[str] = "chrF2 by sacrebleu, 0 to 100"

    def made(self, references: list[list[str | None]]) -> Any:
        """Sacrebleu's chrF."""
        from sacrebleu.metrics import CHRF

        return CHRF(references=references)
