"""A language model that fills in what is masked: cross entropy over the masked tokens.

Shapes: K candidates, B examples in a batch, N sequences, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from autopeft.anatomy import FAMILIES, family_of
from autopeft.errors import AutopeftError
from autopeft.readouts._base import Readout
from autopeft.readouts.causal_lm import CausalLM, sums_of

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from autopeft.readouts._frozen_head import FrozenHead


@dataclass(frozen=True)
class MaskedLM(CausalLM):
    """Predicts each masked token from those around it, with the model's own frozen head.

    15% of a text's tokens are masked, by `seed` and the text, the same in every epoch.
    """

    name: ClassVar[str] = "masked_lm"
    description: ClassVar[str] = "plain texts of which some tokens are masked: BERT's own task"
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    # PEFT has no name for it.
    peft_task: ClassVar[str | None] = None
    masks: ClassVar[bool] = True
    generates: ClassVar[bool] = False

    seed: int = 0

    @property
    def identity(self) -> tuple[Any, ...]:
        """With the seed of the masks."""
        return (self.name, self.seed)

    def seeded(self, seed: int) -> Readout:
        """The same with masks of that seed."""
        return replace(self, seed=seed)

    def check_model(self, config: PretrainedConfig, name: str) -> None:
        """`AutopeftError` for a model that sees nothing of what follows, too."""
        if family_of(config).causal:
            known = ", ".join(name for name, family in FAMILIES.items() if not (family.causal or family.images))
            raise AutopeftError(
                f"model '{name}': its tokens see none after them, so it fills nothing in; take one of {known}"
            )
        super().check_model(config, name)

    def heads(self, model: PreTrainedModel) -> list[str]:
        """None: nothing is trained beside the hybrid."""
        return []

    def head(self, model: Any) -> FrozenHead | None:
        """The last map of the model's head, where it gives the model's own logits; else None."""
        from autopeft.readouts._frozen_head import given_to_head, head_of

        return head_of(model, given_to_head)

    def read(self, model: Any, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """[K*B, 2]: of each example the sums of its masked tokens' losses and hits.

        The head's transformation is the model's own, of all tokens; rows of masked ones are taken out before the map
        to the vocabulary.
        """
        from autopeft.readouts._frozen_head import given_to_head

        head = self.head(model)
        found = given_to_head(model, inputs) if head else model(**inputs).logits
        return sums_of(found, labels.repeat(len(found) // len(labels), 1), head)
