"""BLEU (Papineni et al. 2002)."""

from __future__ import annotations

from typing import Any, ClassVar

from autopeft.metrics._sacrebleu import Sacrebleu


class Bleu(Sacrebleu):
    """Precision of n-grams up to 4 with a brevity penalty, words as mteval 13a divides them."""

    name: ClassVar[str] = "bleu"
    description: ClassVar[str] = "BLEU by sacrebleu, 0 to 100"

    def made(self, references: list[list[str | None]]) -> Any:
        """Sacrebleu's BLEU; without its warning of texts that look tokenised."""
        from sacrebleu.metrics import BLEU

        return BLEU(references=references, force=True)
