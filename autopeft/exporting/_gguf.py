"""LoRA as a GGUF adapter, which llama.cpp lays over the base model's own GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import torch

from autopeft.adapter_keys import WRAPPED
from autopeft.errors import AutopeftError
from autopeft.models import ModelSource
from autopeft.readouts import Readout

FILE = "adapter.gguf"
_A, _B = ".lora_A.weight", ".lora_B.weight"
#: llama.cpp divides by each tensor's own rank, so this is a number that all B are multiplied for.
_ALPHA = 1.0


@dataclass(frozen=True)
class _Kind:
    """What llama.cpp calls an architecture, and whether its files hold the rows of q and k in another order."""

    name: str
    turned: bool = False


#: By transformers' `model_type`. Of others it isn't known which rows llama.cpp's own converter moves.
_KINDS = {
    "llama": _Kind("llama", turned=True),
    "mistral": _Kind("llama", turned=True),
    "qwen2": _Kind("qwen2"),
    "qwen3": _Kind("qwen3"),
}


def check_gguf(source: ModelSource, readout: Readout) -> None:
    """`AutopeftError` where no GGUF adapter can be written for a model, before its weights are read."""
    if readout.auto_class != "AutoModelForCausalLM":
        raise AutopeftError("format 'gguf': llama.cpp serves language models alone, and this has a head; take lora")
    kind = str(source.saved().get("model_type"))
    if kind not in _KINDS:
        raise AutopeftError(f"format 'gguf': is written for {', '.join(_KINDS)}, and this is {kind!r:.40}; take merged")
    if util.find_spec("gguf") is None:
        raise AutopeftError("format 'gguf': writing GGUF takes a package; pip install gguf")


def write_gguf(state: Mapping[str, torch.Tensor], config: Any, to: Path) -> None:
    """Write `adapter.gguf` of a LoRA's weights, as stock PEFT names them (alpha = r), on a model of `config`.

    Each map keeps its own rank r: llama.cpp scales a map's product by the file's alpha / r, so B [out, r] is multiplied
    by r here. The numbers are fp32. `AutopeftError` for a map that has no name in GGUF.
    """
    import gguf

    kind = _KINDS[config.model_type]
    arch = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[kind.name]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    writer = gguf.GGUFWriter(to / FILE, kind.name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, _ALPHA)
    for module in (name.removesuffix(_A) for name in state if name.endswith(_A)):
        name = names.get_name(module.removeprefix(WRAPPED))
        if name is None:
            raise AutopeftError(f"format 'gguf': {module.removeprefix(WRAPPED):.80} has no name in GGUF; take merged")
        a, b = state[f"{module}{_A}"], state[f"{module}{_B}"]
        if kind.turned and (heads := _heads(module, config)):
            b = _turned(b, heads)
        writer.add_tensor(f"{name}.weight.lora_a", a.float().contiguous().numpy())
        writer.add_tensor(f"{name}.weight.lora_b", (b.float() * (len(a) / _ALPHA)).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _heads(module: str, config: Any) -> int:
    """The heads that a map's rows belong to where llama.cpp turns these; 0 for other maps."""
    of = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return of.get(module.rpartition(".")[2]) or 0


def _turned(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows [out, r] in llama.cpp's order: rotary positions turn neighbours there, halves of a head in transformers."""
    return rows.view(heads, 2, len(rows) // heads // 2, -1).transpose(1, 2).reshape(rows.shape)
