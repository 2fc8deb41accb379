"""A gate on what a method adds to a text, computed from the text. Mao et al. 2022 (UniPELT), section 3.

Shapes: K candidates, B examples a candidate, L tokens, d width.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from autopeft.errors import AutopeftError
from autopeft.methods._base import Method
from autopeft.methods._value import LATER
from autopeft.methods._weights import Weight

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank

#: What is true of a gated method, whatever its class says.
_WHEN_GATED = {"mergeable": False, "joins": False, "tokenwise": False, "reads_batch": True, "peft_type": None}


def gate_option() -> Any:
    """The field `gated` of a method, false by default."""
    return field(default=False, metadata={LATER: True})


class Gated(Method):
    """A method with the option `gated`: what it adds is scaled by sigmoid(mean over the text's tokens of w h + b).

    h [L, d] is what the method reads; w and b are zero at first, so that the gate is a half. It has d + 1 parameters.
    The mean is taken before the sigmoid, of h alone. AdapterHub takes that of the tokens' sigmoids: the two agree to
    first order, and begin at a half alike.
    """

    gated: bool

    def _check_gate(self, owner: type[Method]) -> None:
        """Check the option, which methods derived of `owner` lack."""
        if not isinstance(self.gated, bool):
            raise self._wrong("gated is true or false", self.gated)
        if self.gated and type(self) is not owner:
            raise AutopeftError(f"method '{self.name}' has no gate; leave 'gated' out")
        for name, value in _WHEN_GATED.items() if self.gated else ():
            object.__setattr__(self, name, value)

    def gate_weights(self, width: int) -> dict[str, Weight]:
        """W [d] and b [1] of the gate, where there is one."""
        return {"gate": Weight((width,)), "gate_bias": Weight((1,))} if self.gated else {}

    def bank_options(self) -> tuple[tuple[str, Any], ...]:
        """One bank has gates or none."""
        return (*super().bank_options(), ("gated", True)) if self.gated else super().bank_options()

    def row_scale(self, bank: Bank, hidden: torch.Tensor) -> torch.Tensor | None:
        """[K*B]: the gates, of what the method reads [K*B, L, d]; None where it has none."""
        if not self.gated:
            return None
        mean = bank.split(_mean(hidden, bank.place.rows("attention_mask", hidden.shape[0]))[:, None])
        return ((mean * bank.weight("gate")[:, None]).sum(2) + bank.weight("gate_bias")).sigmoid().flatten()


def _mean(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """[N, d]: over the tokens of each sequence that are no padding, in fp32."""
    hidden = hidden.float()
    if mask is None or mask.dim() != 2:
        return hidden.mean(1)
    # In generation the mask is that of all tokens so far.
    own = mask[:, -hidden.shape[1] :, None].to(hidden.dtype)
    return (hidden * own).sum(1) / own.sum(1).clamp(min=1)
