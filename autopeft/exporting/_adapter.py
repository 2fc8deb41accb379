"""`adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from autopeft.candidate import Candidate
from autopeft.doors import door
from autopeft.engine.backbone import REPORTED, Backbone
from autopeft.engine.images import processor_of
from autopeft.engine.report import complaint
from autopeft.errors import AutopeftError
from autopeft.exporting._generating import write_tokenizer
from autopeft.exporting._lora import is_lora_only, lora_config, lora_state
from autopeft.exporting._record import FILE, Format
from autopeft.exporting._stock import is_stock, stock_config, stock_state
from autopeft.exporting._tuner import is_one_tuner, tuner_config, tuner_state
from autopeft.folding import Form, exported, fold, folded
from autopeft.hybrid import Hybrid
from autopeft.models import ModelSource
from autopeft.packing_bits import make_storable
from autopeft.quantising import Kind
from autopeft.readouts import Readout
from autopeft.writing import replacing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class UnfitWeights(AutopeftError):
    """Weights that are not of the candidate: a file of the run folder was damaged or exchanged."""


def check_free(to: Path) -> None:
    """`AutopeftError` when an export would overwrite what is no export's, there or where a link leads to."""
    for name, whose in (("study.db", "a search"), ("config.json", "a model")):
        if (to / name).exists():
            raise AutopeftError(f"{to}: is the folder of {whose} (it has a {name}); give a folder of its own (to)")
    for name in ("README.md", CONFIG, WEIGHTS, FILE):
        if (to / name).is_symlink():
            raise AutopeftError(f"{to}: its {name} is a link to another file; give another folder (to), or remove it")
    if not (to / FILE).is_file():
        taken = [name for name in ("README.md", CONFIG, WEIGHTS) if (to / name).exists()]
        if taken:
            raise AutopeftError(f"{to}: holds a {taken[0]} that is not of an export; give another folder (to)")


def format_of(asked: Format | None, hybrid: Hybrid, quantise: Kind | None = None) -> Format:
    """The format to write: as asked, else stock LoRA or one other tuner of stock PEFT where it can express the hybrid.

    `quantise`: how the backbone is kept, where stock PEFT does not know all.

    `AutopeftError` when one of them is asked for, and can't.
    """
    if quantise == "int4":
        if asked not in (None, "autopeft"):
            raise AutopeftError(f"format '{asked}': stock PEFT does not know maps kept as int4; take format autopeft")
        return "autopeft"
    if asked in ("lora", "lora-padded") and not is_lora_only(folded(hybrid)):
        raise AutopeftError(
            f"format '{asked}': the candidate is no LoRA alone ({hybrid.describe()}); "
            "pick another one, or search a space of LoRA only (space: lora_ranks)"
        )
    own = exported(hybrid)
    if asked == "peft" and not (is_stock(own) or is_one_tuner(own)):
        raise AutopeftError(
            f"format '{asked}': the candidate is not one tuner of PEFT ({hybrid.describe()}); leave the format out"
        )
    return asked or ("lora" if is_lora_only(own) else "peft" if is_stock(own) or is_one_tuner(own) else "autopeft")


def written(format_: Format, hybrid: Hybrid) -> Hybrid:
    """What is written of a hybrid in a format: stock LoRA of all that folds to it, else the form that is exported."""
    return folded(hybrid) if format_ in ("lora", "lora-padded") else exported(hybrid)


def write_adapter(
    source: ModelSource,
    candidate: Candidate,
    weights: Mapping[str, torch.Tensor],
    readout: Readout,
    to: Path,
    asked: Format | None = None,
) -> str:
    """Write `adapter_config.json` and `adapter_model.safetensors`; the PEFT type written ("LORA", "AUTOPEFT", ...).

    The hybrid is folded first (see `written`). One of LoRA only becomes stock PEFT LoRA, and one of (IA)3, VeRA or
    one tuner of PEFT that tuner's files; all load without autopeft. What a tuner's configuration cannot say of this
    model is written as AUTOPEFT, unless the format was asked for.
    Before anything is written: `UnfitWeights` for weights that are not of the candidate, `AutopeftError` for a format
    that cannot be.
    """
    format_ = format_of(asked, candidate.hybrid, source.quantise)
    backbone = Backbone(source, readout, REPORTED, torch.device("cpu"))
    if wrong := complaint(backbone, candidate.hybrid, weights):
        raise UnfitWeights(f"the weights of {candidate.key} are not those of the candidate ({wrong})")
    hybrid, weights = _folded(format_, candidate.hybrid, weights, backbone)
    config = None if format_ == "autopeft" else config_of(format_, hybrid, backbone.model, readout)
    if config is None and asked == "peft":
        raise _cannot_say(hybrid)
    _prepare(source, backbone, to)
    if config is None:
        _write_hybrid(source, hybrid, weights, backbone, to)
        return "AUTOPEFT"
    if format_ == "peft":
        of_peft = tuner_state if is_one_tuner(hybrid) else stock_state
        state = of_peft(hybrid, weights, backbone.model)
    else:
        state = lora_state(hybrid, weights, backbone.model, format_ == "lora-padded")
    config.base_model_name_or_path = source.location
    config.save_pretrained(str(to))
    with replacing(to / WEIGHTS) as partial:
        # Not `save_file`, whose files nobody else may read, whatever the umask.
        partial.write_bytes(save(state, metadata={"format": "pt"}))
    return str(config.peft_type.value)


def _prepare(source: ModelSource, backbone: Backbone, to: Path) -> None:
    """Make the folder, with what generating, or reading images, takes beside an adapter."""
    to.mkdir(parents=True, exist_ok=True)
    if backbone.readout.generates:
        write_tokenizer(source, backbone.model, to)
    if backbone.readout.given == "image":
        with door(to, "the image processor cannot be written here"):
            processor_of(source).save_pretrained(str(to))


def _cannot_say(hybrid: Hybrid) -> AutopeftError:
    """Of a hybrid that is one tuner's, on a model where that tuner's configuration does not reach."""
    instead = "lora" if is_lora_only(folded(hybrid)) else "autopeft"
    return AutopeftError(
        "format 'peft': that tuner's configuration cannot say where the candidate stands in this model "
        f"({hybrid.describe()}); take format {instead}"
    )


def _folded(
    format_: Format, hybrid: Hybrid, weights: Mapping[str, torch.Tensor], backbone: Backbone
) -> tuple[Hybrid, dict[str, torch.Tensor]]:
    """`written` with its weights."""
    form: Form = "folded" if format_ in ("lora", "lora-padded") else "exported"
    new, own = fold(hybrid, _part(weights, "hybrid."), backbone.shape, form)
    heads = {name: w for name, w in weights.items() if name.startswith("head.")}
    return new, {f"hybrid.{name}": w for name, w in own.items()} | heads


def config_of(format_: Format, hybrid: Hybrid, model: PreTrainedModel, readout: Readout) -> Any:
    """The PEFT configuration of a hybrid in a format, for loading it on `model`; None where a tuner has none for it."""
    if format_ == "peft":
        return (tuner_config if is_one_tuner(hybrid) else stock_config)(hybrid, model, readout)
    if format_ != "autopeft":
        return lora_config(hybrid, model, readout, format_ == "lora-padded")
    from autopeft.peft_tuner import HybridConfig

    heads = readout.heads(model)
    return HybridConfig(hybrid=hybrid, task_type=readout.peft_task, inference_mode=True, modules_to_save=heads)


def _write_hybrid(
    source: ModelSource, hybrid: Hybrid, weights: Mapping[str, torch.Tensor], backbone: Backbone, to: Path
) -> None:
    from peft import get_peft_model

    from autopeft.peft_tuner import HybridConfig

    task = backbone.readout.peft_task
    # What PEFT knows a task for it adds itself.
    heads = list(backbone.heads) if task is None else None
    config = HybridConfig(hybrid=hybrid, task_type=task, inference_mode=False, modules_to_save=heads)
    config.base_model_name_or_path = source.location
    wrapped = get_peft_model(backbone.model, config)
    layer: Any = wrapped.base_model.model.autopeft
    banks = layer.autopeft_banks["default"]
    banks.load(_part(weights, "hybrid."))
    make_storable(banks)
    for name in backbone.heads:
        head: Any = wrapped.base_model.model.get_submodule(name)
        head.modules_to_save["default"].load_state_dict(_part(weights, f"head.{name}."))
    wrapped.save_pretrained(str(to), save_embedding_layers=False)


def _part(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
