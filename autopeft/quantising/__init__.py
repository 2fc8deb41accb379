"""Backbones whose linear maps are kept in 4 or 8 bits, and what is trained on them in fp32 (QLoRA and its like).

Dettmers et al. 2022 (int8) and 2023 (nf4, fp4), through bitsandbytes; Xu et al. 2023 (int4): autopeft's own uniform
groups, whose zero points can take up a change that is one number a group.

Shapes: a map has m outputs and n inputs; its weight is [m, n].
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from autopeft.config import Strict
from autopeft.errors import AutopeftError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

#: How the maps of a backbone's layers are kept.
Kind = Literal["nf4", "fp4", "int8", "int4"]
#: Values of bitsandbytes' 4-bit kinds that share one scale, and inputs of an `int4` map that do.
BLOCK, GROUP = 64, 32
#: Fewer inputs than this a group, and the scales take as much room as the weights.
_LEAST_GROUP = 8


class BackboneSettings(Strict):
    """The backbone of an experiment; `quantise` is how the linear maps of its layers are kept in memory."""

    quantise: Kind


def check_installed(kind: Kind, place: str) -> None:
    """`AutopeftError` where what the kind needs is not installed."""
    if kind != "int4" and find_spec("bitsandbytes") is None:
        raise AutopeftError(
            f"{place}: quantise {kind} needs the package bitsandbytes; pip install 'autopeft[quantised]', or take int4"
        )


def configuration(kind: Kind, skip: Sequence[str]) -> dict[str, Any]:
    """Arguments of `BitsAndBytesConfig`, as JSON has them; `skip` are full names of maps to leave alone.

    The threshold of int8 is 0: above it a whole batch would decide which inputs are rounded, and so would a pack.
    """
    if kind == "int8":
        return {"load_in_8bit": True, "llm_int8_threshold": 0.0, "llm_int8_skip_modules": list(skip)}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_compute_dtype": "float32",
        "llm_int8_skip_modules": list(skip),
    }


def remarks_on(kind: Kind | None) -> tuple[str, ...]:
    """What a user should know of a search on a backbone kept so."""
    if kind is None:
        return ()
    into = "its dequantised weights" if kind == "int4" else "what base.dequantize() gives"
    return (
        f"the backbone's maps are kept as {kind}: scores are of that model, and an adapter belongs on it; merge one "
        f"into {into} only, as rounding would lose the trained change",
    )


def bytes_of(kind: Kind | None, wide_in: int, wide_out: int) -> int:
    """Bytes in memory of a map's weight, without its bias: of fp32 for None."""
    size = wide_in * wide_out
    if kind is None:
        return 4 * size
    if kind == "int8":
        return size + 4 * wide_out
    if kind == "int4":
        return -(-size // 2) + 8 * wide_out * (wide_in // group_of(wide_in))
    return -(-size // 2) + 4 * -(-size // BLOCK)


def group_of(wide_in: int) -> int:
    """Inputs of an `int4` map that share a scale and a zero point: 32, or the largest divisor of both."""
    return math.gcd(wide_in, GROUP)


def check_width(kind: Kind, wide_in: int, place: str) -> None:
    """`AutopeftError` for maps with so many inputs that can't be kept so."""
    # On a CPU bitsandbytes takes the scales of blocks that reach over the end of a row from the wrong place, silently.
    needed = {"int4": _LEAST_GROUP, "int8": 1}.get(kind, BLOCK)
    if wide_in % needed:
        raise AutopeftError(
            f"{place}: quantise {kind} needs maps whose inputs are a multiple of {needed}, and some have {wide_in}; "
            "take int8"
        )


def kind_of(module: nn.Module) -> Kind | None:
    """How a map is kept; None for one that is not quantised."""
    # Not the attribute, which PEFT's layers look for in each other.
    weight: Any = module._parameters.get("weight")
    name = type(weight).__name__
    if name == "Params4bit":
        found: Kind = weight.quant_type
        return found
    if name == "Int8Params":
        return "int8"
    return "int4" if type(module).__name__ == "UniformLinear" else None
