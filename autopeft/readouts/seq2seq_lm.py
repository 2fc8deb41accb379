"""A model that reads a text and writes another: cross entropy over the tokens that it shall write.

Shapes: K candidates, B examples in a batch, M tokens of the longest target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import hidden_states
from autopeft.readouts.causal_lm import CausalLM, sums_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Seq2SeqLM(CausalLM):
    """Predicts each token of a target from the source and the tokens before it, with the model's own frozen head.

    A row's text is a conversation (`autopeft.formats`), of which an encoder reads what stands before the last scored
    piece, and a decoder writes that. Sums and metrics are those of `CausalLM`.
    """

    name: ClassVar[str] = "seq2seq_lm"
    description: ClassVar[str] = "texts to be made of others by an encoder and a decoder: translations, summaries"
    called: ClassVar[str] = "texts for an encoder and a decoder"
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    peft_task: ClassVar[str] = "SEQ_2_SEQ_LM"
    encodes: ClassVar[bool] = True

    def heads(self, model: PreTrainedModel) -> list[str]:
        """None: nothing is trained beside the hybrid."""
        return []

    def read(self, model: Any, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """[K*B, 2]: of each example the sums of its target's losses and hits; labels are [B, M]."""
        from autopeft.readouts._frozen_head import plain

        head = self.head(model)
        found = hidden_states(plain(model), inputs) if head else model(**inputs).logits
        return sums_of(found, labels.repeat(len(found) // len(labels), 1), head)
