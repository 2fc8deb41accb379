"""What an encoder gives, computed once for candidates that differ in the decoder only.

Shapes: K candidates in the order of their starts, of which the first k adapt the encoder too, B examples, L tokens of
a source, d width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from transformers.modeling_outputs import BaseModelOutput

from autopeft.anatomy import stacks_of
from autopeft.engine.entrances import States

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class EncoderEntrance:
    """Has the encoder run on the k candidates that start below the decoder, and gives `states` for the others.

    `states` holds, under the number of the decoder's lowest layer, what the bare encoder gives [B, L, d], and is set
    before each forward pass.
    """

    def __init__(self, model: PreTrainedModel, starts: Sequence[int]) -> None:
        self.states: States = {}
        self._count, self._own, self._number = len(starts), starts.count(0), starts[-1]
        self._encoder: Any = stacks_of(model)[0]
        self._forward = self._encoder.forward
        self._encoder.__dict__["forward"] = self._encoded

    def remove(self) -> None:
        """The encoder is itself again."""
        self._encoder.__dict__.pop("forward", None)

    def _encoded(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        kept = self.states[self._number].repeat(self._count - self._own, 1, 1)
        if not self._own:
            return BaseModelOutput(last_hidden_state=kept)
        rows = len(input_ids) // self._count * self._own
        seen = None if attention_mask is None else attention_mask[:rows]
        output = self._forward(input_ids=input_ids[:rows], attention_mask=seen, **kwargs)
        output["last_hidden_state"] = torch.cat([output.last_hidden_state, kept])
        return output


class CaptureEncoder:
    """What the bare encoder gives [B, L, d] of a batch, under the number of the decoder's lowest layer."""

    def __init__(self, model: PreTrainedModel, number: int) -> None:
        self._encoder, self._number = stacks_of(model)[0], number

    def __enter__(self) -> Self:
        """Nothing is put on the model."""
        return self

    def __exit__(self, *error: object) -> None:
        """And nothing is taken away."""

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, torch.Tensor], state: torch.Tensor | None = None) -> States:
        """The states of one batch."""
        encoded = self._encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return {self._number: encoded.last_hidden_state}
