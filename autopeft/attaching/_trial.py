"""A trial of each model, before anything is trained on it: hybrids that add nothing must change nothing.

Names of modules say where methods go; whether the model computes with its modules as other families do, and attends as
ours do, only a forward pass tells.

Shapes: N sequences, L tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from autopeft.anatomy import (
    CROSS,
    MAPS,
    ModelShape,
    hidden_states,
    input_limits,
    is_recognised,
    layers_of,
    noise_images,
    shape_of,
)
from autopeft.attaching._attachment import Attachment
from autopeft.attention import FUSED, MATMUL
from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods import METHODS, Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Of the largest number, by which outputs may differ: in fp32, and in narrower types.
_CLOSE = {True: 1e-4, False: 5e-2}
_LENGTHS = (6, 4)


@torch.no_grad()
def try_hybrids(model: PreTrainedModel, name: str, attention: str | None = None) -> None:
    """`AutopeftError` where two hybrids that add nothing, trained as one, give other hidden states than the bare model.

    `attention` is the function that hybrids will be trained with. Of a family that is known by the names of its modules
    only, prefixes must also reach attention.
    """
    shape, place = shape_of(model), f"model '{name}'"
    remedy = "nothing can be trained on it; take a model of another family"
    inputs = _inputs(model, shape)
    with door(place, "hybrids cannot be put on it", remedy):
        bare = _bare(model, inputs, attention or FUSED)
        idle = Hybrid.uniform(shape.layers, _idle(shape))
        with Attachment(model, [idle, idle], attention=attention or FUSED):
            both = _hidden(model, inputs, 2)
        heard = not is_recognised(shape.family) or not shape.row.prefix or _hears(model, shape, inputs, bare)
    scale = bare.abs().max().clamp(min=1e-6)
    difference = float(((both - bare).abs().max() / scale).nan_to_num(torch.inf))
    if difference > _CLOSE[bare.dtype == torch.float32]:
        raise AutopeftError(
            f"{place}: with hybrids that add nothing it computes something else (by {difference:.0e} of its outputs), "
            f"as its code does what autopeft does not know; {remedy}"
        )
    if not heard:
        raise AutopeftError(f"{place}: its attention does not see prefixes, though it seems to; {remedy}")


def _bare(model: PreTrainedModel, inputs: dict[str, torch.Tensor], attention: str) -> torch.Tensor:
    """Last hidden states of the model alone, with transformers' function that rounds as ours does.

    Deep models in bf16 are far apart by rounding alone, on texts that mean nothing to them.
    """
    before = model.config._attn_implementation
    if attention == MATMUL:
        model.set_attn_implementation("eager")
    try:
        return _hidden(model, inputs, 1)[0]
    finally:
        model.set_attn_implementation(before)


def _inputs(model: Any, shape: ModelShape) -> dict[str, torch.Tensor]:
    """Two texts, the second padded; or two images."""
    if shape.row.images:
        return {"pixel_values": noise_images(model, len(_LENGTHS))}
    limits = input_limits(model.config)
    length = min(max(_LENGTHS), limits.tokens)
    ids = torch.arange(len(_LENGTHS) * length, device=model.device).view(len(_LENGTHS), -1) % limits.vocabulary
    seen = torch.arange(length, device=model.device)[None] < torch.tensor(_LENGTHS, device=model.device)[:, None]
    text = {"input_ids": ids, "attention_mask": seen.long()}
    # The other way round: what a decoder is given is another text.
    other = {"decoder_input_ids": ids.flip(0), "decoder_attention_mask": seen.flip(0).long()} if shape.stacks else {}
    return text | other


def _hidden(model: Any, inputs: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    """Last hidden states [count, tokens that are not padding, d]; layers must give what their family's row says."""
    kinds: list[bool] = []
    shape, layers, called = shape_of(model), layers_of(model), set[int]()
    rows = [shape.at(i).row for i in range(shape.layers)]
    maps = [layer.get_submodule(name) for layer, row in zip(layers, rows, strict=True) for name in row.maps]
    handles = [m.register_forward_hook(lambda m, _a, _o: called.add(id(m))) for m in maps]
    handles += [
        layer.register_forward_hook(lambda _m, _a, output: kinds.append(isinstance(output, tuple))) for layer in layers
    ]
    try:
        repeated = {key: x.repeat(count, *[1] * (x.dim() - 1)) for key, x in inputs.items()}
        hidden = hidden_states(model, repeated)
    finally:
        for handle in handles:
            handle.remove()
    if kinds != [row.pair for row in rows] or len(called) < len(maps):
        raise ValueError("its code does not call each layer once, and each map in it, as its family does")
    mask = inputs.get("decoder_attention_mask", inputs.get("attention_mask"))
    found = hidden.unflatten(0, (count, -1))
    return found.flatten(1, 2) if mask is None else found[:, mask.bool()]


def _hears(model: PreTrainedModel, shape: ModelShape, inputs: dict[str, torch.Tensor], bare: torch.Tensor) -> bool:
    """Whether what stands before the keys and values of each layer alone changes the outputs."""
    kind = _first([k for k in _kinds() if k.allowed_sites == ("attention",) and not k.zero_init])
    for layer in range(shape.layers):
        hybrid = Hybrid.from_layers(shape.layers, {layer: [kind(**{kind.size: kind.step})]})
        with Attachment(model, hybrid) as attached:
            for weight in attached.banks.parameters():
                weight.fill_(1.0)
            if torch.equal(_hidden(model, inputs, 1)[0], bare):
                return False
    return True


def _idle(shape: ModelShape) -> Method:
    """A method that stands at all maps and adds nothing before training."""
    kinds = [k for k in _kinds() if k.zero_init and k.adds and set(MAPS) <= set(k.allowed_sites)]
    # Nothing is to be drawn, if that can be.
    kinds.sort(key=lambda kind: (shape.has(CROSS[0]) and CROSS[0] not in kind.allowed_sites, kind.random_init))
    kind = _first(kinds)
    sites = tuple(place for place in (*MAPS, *CROSS) if shape.has(place) and place in kind.allowed_sites)
    return kind(**{kind.size: kind.step, "sites": sites})


def _kinds() -> list[type[Any]]:
    return [METHODS.get(name) for name in METHODS.names()]


def _first(kinds: Sequence[type[Any]]) -> type[Any]:
    assert kinds, "autopeft has such a method"
    return kinds[0]
