"""A language model that goes on from what it was given: cross entropy over the tokens that are scored.

Shapes: K candidates, B examples in a batch, N of a split, L tokens of the longest, T tokens of a split, V words.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from autopeft.anatomy import FAMILIES, family_of
from autopeft.errors import AutopeftError
from autopeft.readouts._base import IGNORED, Labelled, Measure, Readout

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from autopeft.readouts._frozen_head import FrozenHead

#: Logits in memory at once, where they have to be the model's own.
_AT_ONCE = 2**25
#: Above it a perplexity is no number that is of use.
_MOST = 700.0


def _loss(scored: int, sums: Sequence[float]) -> float:
    return sums[0] / scored


def _perplexity(scored: int, sums: Sequence[float]) -> float:
    return math.exp(min(sums[0] / scored, _MOST))


def _accuracy(scored: int, sums: Sequence[float]) -> float:
    return sums[1] / scored


@dataclass(frozen=True)
class CausalLM(Readout):
    """Predicts each scored token from those before it, with the model's own frozen head.

    A row's text is a conversation (`autopeft.formats`). Of an example two sums are kept: of its tokens' losses, and of
    those whose word is the likeliest.
    """

    name: ClassVar[str] = "causal_lm"
    description: ClassVar[str] = "texts that go on: instructions and answers, prompts and completions"
    called: ClassVar[str] = "texts for a language model"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    peft_task: ClassVar[str] = "CAUSAL_LM"
    reads: ClassVar[Literal["one", "all"]] = "all"
    per_token: ClassVar[bool] = True
    summed: ClassVar[bool] = True
    tokenises: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    own_metrics: ClassVar[Mapping[str, Measure]] = {
        "loss": Measure(_loss, "min"),
        "perplexity": Measure(_perplexity, "min"),
        "token_accuracy": Measure(_accuracy),
    }

    @property
    def outputs(self) -> int:
        """The two sums of an example."""
        return 2

    def configuration(self) -> dict[str, Any]:
        """Nothing: the head is the checkpoint's."""
        return {}

    def heads(self, model: PreTrainedModel) -> list[str]:
        """None: nothing is trained beside the hybrid. `AutopeftError` for a model that sees what it shall predict."""
        if not family_of(model.config).causal:
            known = ", ".join(name for name, family in FAMILIES.items() if family.causal)
            raise AutopeftError(
                f"model family '{model.config.model_type}': its tokens see those after them, so it is no language "
                f"model that goes on from a text; take one of {known}"
            )
        return []

    # --- the rows

    @classmethod
    def of(cls, train: Labelled, names: tuple[str, ...] | None = None) -> Self:
        """The same for all rows."""
        return cls()

    def encode(self, rows: Labelled, known: Collection[Any] | None, known_in: str) -> tuple[int, ...]:
        """0 for each row: the labels are in the texts."""
        return (0,) * len(rows.labels)

    def array(self, labels: Sequence[Any]) -> np.ndarray:
        """int64 [T]: a token's own number where it is scored."""
        import numpy as np

        return np.asarray(labels, dtype=np.int64)

    # --- the model

    def opened(self, model: PreTrainedModel) -> None:
        """Compare the logits of the head, as it is declared, with the model's own."""
        from autopeft.readouts._frozen_head import head_of

        head_of(model)

    def most_tokens(self, model: Any) -> int | None:
        """A bound where the model's own logits are needed."""
        from autopeft.readouts._frozen_head import head_of

        config = getattr(model, "config", None)
        if config is None or head_of(model):
            return None
        return max(1, _AT_ONCE // int(config.get_text_config().vocab_size))

    def read(self, model: Any, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """[K*B, 2]: of each example the sums of its scored tokens' losses and hits.

        Rows of scored tokens are taken out before the head. Where what the model gives is not the head of its last
        hidden states alone, its own logits are computed, all of them.
        """
        from autopeft.readouts._frozen_head import head_of, hidden_of

        head = head_of(model)
        found = hidden_of(model, inputs) if head else model(**inputs).logits
        # The token at a place is predicted from the place before it.
        return summed(found, labels[:, 1:], head)

    # --- loss and scores

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """The loss, and with it what costs nothing more."""
        return tuple(self.own_metrics)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over scored tokens; 0 where there is none."""
        return outputs[..., 0].sum(1) / (labels != IGNORED).sum().clamp(min=1)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The sums [N, 2]."""
        return outputs

    def score(
        self, metrics: Sequence[str], labels: np.ndarray, outputs: np.ndarray, offsets: np.ndarray | None = None
    ) -> dict[str, float]:
        """Each metric of sums [N, 2] and labels [T]; NaN when a sum is not finite."""
        import numpy as np

        measures = {name: self._known(name) for name in metrics}
        scored, sums = int((labels != IGNORED).sum()), np.asarray(outputs, dtype=np.float64).sum(0)
        if not scored or sums.shape != (2,):
            raise ValueError(f"labels {labels.shape} and outputs {outputs.shape} don't fit {', '.join(metrics)}")
        if not np.isfinite(sums).all():
            return dict.fromkeys(measures, float("nan"))
        return {name: float(measure.of(scored, sums.tolist())) for name, measure in measures.items()}  # type: ignore[call-arg, arg-type]


def summed(found: torch.Tensor, labels: torch.Tensor, head: FrozenHead | None) -> torch.Tensor:
    """[K*B, 2]: of each example the sums of losses and hits of `labels` [B, L], where it has one.

    `found` [K*B, L, ...] are the hidden states that `head` is given, or logits where there is none.
    """
    targets = labels.repeat(len(found) // len(labels), 1)
    example, place = (targets != IGNORED).nonzero(as_tuple=True)
    rows, words = found[example, place], targets[example, place]
    sums = found.new_zeros(len(found), 2, dtype=rows.new_empty(0).float().dtype)
    return sums.index_add(0, example, head.losses(rows, words) if head else _plain_losses(rows, words))


def _plain_losses(logits: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """[R, 2], of the model's own logits [R, V]."""
    import torch
    from torch.nn import functional

    losses = functional.cross_entropy(logits.float(), words, reduction="none")
    return torch.stack([losses, (logits.argmax(1) == words).float()], 1)
