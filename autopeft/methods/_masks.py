"""What methods with masks share: which entries of their weights take part, by a score over all layers or drawn.

Shapes: K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from autopeft.methods._base import Method
from autopeft.methods._candidates import by_candidate

if TYPE_CHECKING:
    import torch

    from autopeft.methods._bank import Bank
    from autopeft.methods._weights import Draw


def drawn(kept: int) -> Draw:
    """Initial values of a mask: ones at so many places that are drawn, zeros elsewhere."""
    return partial(_drawn, kept)


def _drawn(kept: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    import torch

    mask = torch.zeros(shape)
    mask.view(-1)[torch.randperm(mask.numel(), generator=generator)[:kept]] = 1
    return mask


def keep_largest(
    banks: Sequence[Bank],
    names: Sequence[str],
    score: Callable[[Bank, str], torch.Tensor],
    asked: Callable[[Method], bool] = lambda method: True,
) -> None:
    """Set `<name>_mask` of weights to 1 where a candidate's score is among its largest over all its banks, else to 0.

    `score` gives [K, ...] of a bank's weight. As many entries are kept in all as the weights declare (`Weight.kept`).
    Masks of methods that are not `asked` stay as they are.
    """
    import torch

    scores = {(bank, name): score(bank, name) for bank in banks for name in names}
    for k, own in by_candidate(banks):
        chosen = [bank for bank in own if asked(bank.methods[k])]  # type: ignore[arg-type]
        places = [(bank, name, bank.corners(k)[name]) for bank in chosen for name in names]
        if not places:
            continue
        flat = torch.cat([scores[bank, name][at].flatten() for bank, name, at in places])
        best = torch.zeros_like(flat)
        best[flat.topk(sum(bank.kept[k][name] for bank, name, _ in places)).indices] = 1
        parts = best.split([scores[bank, name][at].numel() for bank, name, at in places])
        for (bank, name, at), part in zip(places, parts, strict=True):
            mask = bank.weight(f"{name}_mask")[at]
            mask.copy_(part.view(mask.shape))


def keep_all(bank: Bank, name: str) -> None:
    """Have all entries of a weight take part."""
    bank.weight(f"{name}_mask").copy_(bank.own(name))


def straight_through(hard: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """`hard`, exactly, with the gradient of `scores` (Bengio et al. 2013)."""
    return hard + (scores - scores.detach())
