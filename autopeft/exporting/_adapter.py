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
from autopeft.exporting._folder import WEIGHTS
from autopeft.exporting._generating import write_tokenizer
from autopeft.exporting._gguf import check_gguf, write_gguf
from autopeft.exporting._lora import is_dora, is_lora_only, lora_config, lora_state
from autopeft.exporting._merged import write_merged
from autopeft.exporting._prompts import computes_the_same, reads_prompts
from autopeft.exporting._record import LORA_FORMATS, Format
from autopeft.exporting._stock import is_stock, stock_config, stock_state
from autopeft.exporting._tuner import is_one_tuner, tuner_config, tuner_state
from autopeft.folding import Form, exported, fold, folded
from autopeft.hybrid import Hybrid
from autopeft.merging import unmerged
from autopeft.models import ModelSource
from autopeft.packing_bits import make_storable
from autopeft.quantising import Kind
from autopeft.readouts import Readout
from autopeft.weight_names import HEAD, HYBRID, part
from autopeft.writing import replacing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class UnfitWeights(AutopeftError):
    """Weights that are not of the candidate: a file of the run folder was damaged or exchanged."""


def format_of(asked: Format | None, hybrid: Hybrid, quantise: Kind | None = None) -> Format:
    """The format to write: as asked, else stock LoRA or one other tuner of stock PEFT where it can express the hybrid.

    LoRA is of stock PEFT too, so "peft" is "lora" for a hybrid of LoRA only.

    `quantise`: how the backbone is kept, where stock PEFT does not know all.

    `AutopeftError` when one of them is asked for, and can't.
    """
    if asked == "merged":
        _check_merges(hybrid, quantise)
        return asked
    if quantise == "int4":
        if asked not in (None, "autopeft"):
            raise AutopeftError(f"format '{asked}': stock PEFT does not know maps kept as int4; take format autopeft")
        return "autopeft"
    if asked in LORA_FORMATS and not is_lora_only(folded(hybrid)):
        raise AutopeftError(
            f"format '{asked}': the candidate is no LoRA alone ({hybrid.describe()}); "
            "pick another one, or search a space of LoRA only (space: lora_ranks)"
        )
    if asked == "gguf" and is_dora(folded(hybrid)):
        raise AutopeftError("format 'gguf': llama.cpp knows no DoRA; take merged")
    own = exported(hybrid)
    stock: Format | None = "lora" if is_lora_only(own) else "peft" if is_stock(own) or is_one_tuner(own) else None
    if asked == "peft" and stock is None:
        raise AutopeftError(
            f"format '{asked}': the candidate is not one tuner of PEFT ({hybrid.describe()}); leave the format out"
        )
    return stock or "autopeft" if asked in (None, "peft") else asked


def _check_merges(hybrid: Hybrid, quantise: Kind | None) -> None:
    """`AutopeftError` where a hybrid cannot be put into the backbone's weights."""
    if names := unmerged(hybrid):
        which, do = ", ".join(f"'{name}'" for name in names), "do" if len(names) > 1 else "does"
        raise AutopeftError(
            f"format 'merged': {which} {do} not merge into the backbone; pick another candidate, or search with "
            "'servable: merged'"
        )
    if quantise:
        raise AutopeftError(
            f"format 'merged': the backbone is kept as {quantise}, and cannot take what is merged; export an adapter"
        )


def written(format_: Format, hybrid: Hybrid) -> Hybrid:
    """What is written of a hybrid in a format: stock LoRA of all that folds to it, else the form that is exported."""
    return folded(hybrid) if format_ in LORA_FORMATS else exported(hybrid)


def write_adapter(
    source: ModelSource,
    candidate: Candidate,
    weights: Mapping[str, torch.Tensor],
    readout: Readout,
    to: Path,
    asked: Format | None = None,
    max_length: int | None = None,
) -> str:
    """Write `adapter_config.json` and `adapter_model.safetensors`; the PEFT type written ("LORA", "AUTOPEFT", ...).

    A "merged" one is the backbone's `config.json` and weights, and called "MERGED". With `max_length` the tokenizer is
    written beside it, which cuts texts of classifiers at so many tokens; that of a model that writes texts always is.

    The hybrid is folded first (see `written`). One of LoRA only becomes stock PEFT LoRA, and one of (IA)3, VeRA or
    one tuner of PEFT that tuner's files; all load without autopeft. What a tuner's configuration cannot say of this
    model is written as AUTOPEFT, unless the format was asked for.
    Before anything is written: `UnfitWeights` for weights that are not of the candidate, `AutopeftError` for a format
    that cannot be.
    """
    format_ = format_of(asked, candidate.hybrid, source.quantise)
    if format_ == "gguf":
        check_gguf(source, readout)
    backbone = Backbone(source, readout, REPORTED, torch.device("cpu"))
    if wrong := complaint(backbone, candidate.hybrid, weights):
        raise UnfitWeights(f"the weights of {candidate.key} are not those of the candidate ({wrong})")
    if format_ == "merged":
        return _write_merged(source, candidate.hybrid, weights, backbone, to, max_length)
    hybrid, weights = _folded(format_, candidate.hybrid, weights, backbone)
    config, state = _of_peft(format_, hybrid, weights, backbone)
    if config is None and asked == "peft":
        raise _cannot_say(hybrid)
    _write_beside(source, backbone, to, max_length)
    if config is None:
        _write_hybrid(source, hybrid, weights, backbone, to)
        return "AUTOPEFT"
    _write_stock(config, state, source, to)
    if format_ == "gguf":
        write_gguf(state, backbone.model.config, to)
    return str(config.peft_type.value)


def _write_stock(config: Any, state: Mapping[str, torch.Tensor], source: ModelSource, to: Path) -> None:
    config.base_model_name_or_path = source.location
    config.save_pretrained(str(to))
    with replacing(to / WEIGHTS) as partial:
        # Not `save_file`, whose files nobody else may read, whatever the umask.
        partial.write_bytes(save(dict(state), metadata={"format": "pt"}))


def _write_merged(
    source: ModelSource,
    hybrid: Hybrid,
    weights: Mapping[str, torch.Tensor],
    backbone: Backbone,
    to: Path,
    max_length: int | None,
) -> str:
    pad_id = source.tokenizer().pad_token_id if max_length else None
    to.mkdir(parents=True, exist_ok=True)
    write_merged(hybrid, weights, backbone, pad_id, to)
    _write_beside(source, backbone, to, max_length)
    return "MERGED"


def _of_peft(
    format_: Format, hybrid: Hybrid, weights: Mapping[str, torch.Tensor], backbone: Backbone
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Configuration and weights for stock PEFT; None where it has none that computes the same on this model."""
    model = backbone.model
    config = None if format_ == "autopeft" else config_of(format_, hybrid, model, backbone.readout)
    if config is None:
        return None, {}
    if format_ != "peft":
        return config, lora_state(hybrid, weights, model, format_ == "lora-padded")
    state = (tuner_state if is_one_tuner(hybrid) else stock_state)(hybrid, weights, model)
    if reads_prompts(config) and not computes_the_same(config, state, hybrid, part(weights, HYBRID), model):
        return None, {}
    return config, state


def _write_beside(source: ModelSource, backbone: Backbone, to: Path, max_length: int | None) -> None:
    """Make the folder, with what reads texts, or images, and says how to generate."""
    to.mkdir(parents=True, exist_ok=True)
    readout = backbone.readout
    if readout.generates or (max_length and readout.given == "text"):
        write_tokenizer(source, backbone.model, to, None if readout.generates else max_length)
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
    form: Form = "folded" if format_ in LORA_FORMATS else "exported"
    new, own = fold(hybrid, part(weights, HYBRID), backbone.shape, form)
    heads = {name: w for name, w in weights.items() if name.startswith(HEAD)}
    return new, {f"{HYBRID}{name}": w for name, w in own.items()} | heads


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
    wrapped = hybrid_on(backbone.model, hybrid, weights, backbone.readout)
    wrapped.peft_config["default"].base_model_name_or_path = source.location
    make_storable(wrapped.base_model.model.autopeft.autopeft_banks["default"])
    wrapped.save_pretrained(str(to), save_embedding_layers=False)


def hybrid_on(model: Any, hybrid: Hybrid, weights: Mapping[str, torch.Tensor], readout: Readout) -> Any:
    """A `PeftModel` of type AUTOPEFT with these weights, its head's among them."""
    from autopeft.peft_tuner import HybridConfig, peft_model

    task, heads = readout.peft_task, readout.heads(model)
    # What PEFT knows a task for it adds itself.
    own = list(heads) if task is None else None
    config = HybridConfig(hybrid=hybrid, task_type=task, inference_mode=False, modules_to_save=own)
    wrapped: Any = peft_model(model, config)
    wrapped.base_model.model.autopeft.autopeft_banks["default"].load(part(weights, HYBRID))
    for name in heads:
        head = wrapped.base_model.model.get_submodule(name)
        head.modules_to_save["default"].load_state_dict(part(weights, f"{HEAD}{name}."))
    return wrapped
