"""What a tuner adds to the products of a map, counted by PyTorch on a stand-in."""

from __future__ import annotations

from functools import lru_cache

from autopeft.peft_tuners.profile import Map, stand_in
from autopeft.peft_tuners.setting import Setting

#: Products grow linearly with the tokens, from what a batch pays once.
_LENGTHS = (4, 8)


@lru_cache(maxsize=4096)
def flops(setting: Setting, place: Map, on_meta: bool, length: int) -> tuple[int, int, int]:
    """(Forward, backward of its own weights, backward to its input) of one map, for one sequence of `length` tokens.

    Matrix multiplications (2 a multiply-add) beside those of the map itself. What a batch pays once, such as a dense
    change of the map that is made from factors, is left out, and so are transforms by other means.
    """
    few, many = (_counted(setting, place, on_meta, n) for n in _LENGTHS)
    rise = [(b - a) / (_LENGTHS[1] - _LENGTHS[0]) for a, b in zip(few, many, strict=True)]
    forward, backward, backward_input = (max(0, round(length * r)) for r in rise)
    return forward, backward, backward_input


@lru_cache(maxsize=1024)
def _counted(setting: Setting, place: Map, on_meta: bool, length: int) -> tuple[int, int, int]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    container = stand_in(setting, (place,), torch.device("meta" if on_meta else "cpu"), 1)
    ((name, layer),) = container.layers.items()
    weights = list(container.used(name).values())
    own = 0 if place.is_norm else 2 * length * place.wide_in * place.wide_out
    counts = []
    for through in (False, True):
        x = torch.ones(1, length, place.wide_in, device="meta" if on_meta else "cpu", requires_grad=through)
        with FlopCounterMode(display=False) as forward:
            output = layer(x)
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(output.sum(), [*weights, *([x] if through else [])], allow_unused=True)
        counts.append((forward.get_total_flops(), backward.get_total_flops()))
    (total, alone), (_, through_input) = counts
    return total - own, alone, max(0, through_input - alone - own)
