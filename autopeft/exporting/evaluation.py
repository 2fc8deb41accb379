"""Measure an exported adapter through Hugging Face PEFT alone.

An export may come from a stranger, and is data: of its files only `hybrid.json`, `adapter_config.json` and the
safetensors are read, and the configuration that PEFT gets is made here, of the hybrid.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autopeft.adapter_keys import as_saved_now
from autopeft.doors import door, read_json, within
from autopeft.engine.data import TokenizedTask
from autopeft.engine.generated import tokenized
from autopeft.engine.train import measure
from autopeft.errors import AutopeftError
from autopeft.exporting._adapter import config_of, hybrid_on
from autopeft.exporting._folder import CONFIG, WEIGHTS
from autopeft.exporting._prompts import reads_prompts, stored_weights
from autopeft.exporting._record import Record
from autopeft.fingerprint import difference, model_files
from autopeft.generating.settings import GenerationSettings, check_writes
from autopeft.generating.writing import compared, tokens_at_once, write
from autopeft.hybrid import Hybrid
from autopeft.models import BUILT_IN, ModelSource, find_model
from autopeft.packing_bits import is_packed
from autopeft.readouts._frozen_head import plain
from autopeft.recipe import FILE
from autopeft.tasks import TaskData, others_of, set_from, task_from
from autopeft.tasks._other_file import data_of_file
from autopeft.trust import trusted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Fields that say where an adapter is from, or how it is used; no part of what it computes.
_FREE = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save", "peft_version", "revision", "seed",
    "task_type",
}  # fmt: skip
_REMEDY = "export it again"
_TWICE = re.compile(r"\.(modules_to_save|original_module)\.")


def measure_export(
    folder: Path, on: Path | None = None, trust_remote_code: bool = False, model: str | None = None
) -> dict[str, float]:
    """`test_<metric>` of the adapter in `folder`, for the model, task and settings that `hybrid.json` names.

    `test_<set>_<metric>` too where its search had further test sets.
    `on`: a file with the task's columns, to measure on in place of its test split (the names are then those of the
    metrics alone). `model`: where the base model is now. `AutopeftError` for a folder that is not what an export
    writes.
    """
    opened = open_export(folder, on, trust_remote_code, model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    measured_on = opened.model.to(device)
    found: dict[str, float] = {}
    for mark, task in {"" if on else "test_": opened.task, **opened.others}.items():
        measured = measure(measured_on, task, task.test) | _texts(opened, task)
        found |= {f"{mark}{name}": value for name, value in measured.items()}
    return found


def _texts(opened: OpenedExport, task: TokenizedTask) -> dict[str, float]:
    """The metrics of what the adapter writes, where they were measured in its search."""
    asking, model = task.asking, opened.model
    if asking is None:
        return {}
    tokens = tokens_at_once(plain(model).config, next(model.parameters()).device)
    return compared(asking, "test", write(model, asking, "test", opened.source.tokenizer(), tokens)[0])


def load_export(folder: Path, record: Record, source: ModelSource, pad_id: int) -> Any:
    """The adapter of an export on its base model, a `PeftModel` in evaluation mode; a merged one is a plain model.

    `AutopeftError` unless PEFT has taken over every tensor of the file, to the bit, and the file has all. Prompts and
    prefixes of stock PEFT come back as the hybrid that computes the same: PEFT has them beside the model, not in it.
    """
    if record.written_as == "merged":
        return source.model(record.kind, torch.float32, pad_id)
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    import autopeft.peft_tuner  # noqa: F401 - registers the PEFT type
    from autopeft.peft_layer import as_dense

    stored = _stored(folder, record)
    base = source.model(record.kind, torch.float32, pad_id)
    config = _config(folder, record, base)
    with _named(folder / WEIGHTS), warnings.catch_warnings():
        # What PEFT only warns of is looked at below.
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(base, str(folder), config=config).eval()
    taken = get_peft_model_state_dict(model, save_embedding_layers=False)
    if record.written_as == "autopeft":
        # Dense: earlier versions wrote all so.
        stored, taken = (as_dense(model, model.active_adapter, tensors) for tensors in (stored, taken))
    # Of a head PEFT counts biases twice, where it stores those of the model.
    taken = {name: tensor for name, tensor in taken.items() if not _TWICE.search(name)}
    _check_taken(folder / WEIGHTS, stored, taken)
    if not reads_prompts(config):
        return model
    hybrid, base = record.value(str(folder / FILE)), source.model(record.kind, torch.float32, pad_id)
    return hybrid_on(base, hybrid, stored_weights(hybrid, stored, base), record.kind).eval()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A door whose messages all begin with the file, those of our own too."""
    with within(path, _REMEDY), door(path, f"does not fit {FILE}", _REMEDY):
        yield


def _task(record: Record, folder: Path) -> Any:
    return task_from(record.task, f"{folder / FILE}: task")


def _data(record: Record, folder: Path) -> TaskData:
    """The task's own data; the classes must be those that the adapter has outputs for."""
    task = _task(record, folder)
    try:
        data = task.load()
    except AutopeftError as error:
        raise AutopeftError(f"{error}; the adapter can be measured on another file: --on FILE") from error
    if list(data.label_names) != record.labels or data.readout.name != record.kind.name:
        raise AutopeftError(
            f"{folder / FILE}: the task's classes are not those that the adapter was trained for; bring the data back, "
            "or measure it on another file: --on FILE"
        )
    if data.fingerprint != record.data:
        warnings.warn("the task's data are not those that the adapter was trained and measured on", stacklevel=4)
    return data


def _others(record: Record, folder: Path, data: TaskData) -> dict[str, TaskData]:
    """The further test sets that are to be had; of the others it is said that they are not measured on."""
    found: dict[str, TaskData] = {}
    for name, value in (record.evaluate_on or {}).items():
        try:
            found |= others_of({name: set_from(value)}, _task(record, folder), data)
        except AutopeftError as error:
            warnings.warn(f"not measured on the set '{name}' of {folder / FILE}: {error}", stacklevel=4)
    return found


def _stored(folder: Path, record: Record) -> dict[str, torch.Tensor]:
    """The tensors of the safetensors file, all finite; pickled weights are refused."""
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
        what = f"pickled weights ({pickled[0]}) are not opened, as they can run code" if pickled else "no such file"
        raise AutopeftError(f"{path}: {what}; {_REMEDY}")
    with door(path, "not readable as safetensors", _REMEDY):
        stored: dict[str, torch.Tensor] = load_file(path)
    for name, tensor in stored.items():
        numbers = tensor.is_floating_point() or is_packed(name, tensor)
        numbers = numbers or (record.written_as == "peft" and not tensor.is_complex())
        if not numbers or not bool(torch.isfinite(tensor).all()):
            raise AutopeftError(f"{path}: '{name}' holds what is no finite number; {_REMEDY}")
    return {as_saved_now(name): tensor for name, tensor in stored.items()}


def _config(folder: Path, record: Record, base: PreTrainedModel) -> Any:
    """The configuration of the hybrid on `base`; `AutopeftError` where the one in the folder says something else."""
    hybrid = record.value(str(folder / FILE))
    with _named(folder / FILE):
        config = config_of(record.written_as, hybrid, base, record.kind)
    path = folder / CONFIG
    found, expected = read_json(path, _REMEDY), _plain(config.to_dict())
    if "hybrid" in found:
        with door(path, "hybrid: not valid", _REMEDY):
            # As a value: its JSON may leave out what is a default.
            found["hybrid"] = Hybrid.from_json(found["hybrid"]).to_json()
    for name, value in found.items():
        if name not in _FREE and name in expected and _plain(value) != expected[name]:
            raise AutopeftError(f"{path}: {name}: not that of the hybrid in {FILE}; {_REMEDY}")
    config.base_model_name_or_path = None
    return config


def _plain(value: Any) -> Any:
    """A configuration's values as JSON has them; sets and lists of names in one order."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)) or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return getattr(value, "value", value)


def _check_taken(path: Path, stored: Mapping[str, torch.Tensor], taken: Mapping[str, torch.Tensor]) -> None:
    for name in sorted(stored.keys() ^ taken.keys()):
        what = "is missing" if name in taken else "is not of this adapter"
        raise AutopeftError(f"{path}: tensor '{name}' {what}; {_REMEDY}")
    for name, tensor in stored.items():
        if not math.prod(tensor.shape) or not torch.equal(taken[name].cpu(), tensor.to(taken[name].dtype)):
            raise AutopeftError(f"{path}: tensor '{name}' does not fit the adapter; {_REMEDY}")


def _asked(record: Record, folder: Path) -> tuple[GenerationSettings | None, int | None]:
    """How the adapter is to write, and how many tokens prompts have, where that was measured in its search."""
    if (known := record.generation) is None:
        return None, None
    where = f"{folder / FILE}: generation"
    settings = known.settings_of(where).model_copy(update={"when": "front"})
    check_writes(settings, record.kind, where)
    return settings, known.room


@dataclass(frozen=True)
class OpenedExport:
    """An export with all that it names: the record, the base model's source, the task's data, the adapter in memory.

    `others`: the same with further test splits, by what the names of their scores begin with.
    """

    record: Record
    source: ModelSource
    task: TokenizedTask
    model: Any
    others: dict[str, TokenizedTask] = field(default_factory=dict)


def source_of(folder: Path, record: Record, trust_remote_code: bool, model: str | None = None) -> ModelSource:
    """The base model of an export, with a warning where its files are not those that the adapter was trained on.

    `model`: where it is now. A merged export is a model of its own.
    """
    trust = trusted(record.trust_remote_code, trust_remote_code, str(folder / FILE))
    if record.written_as == "merged":
        if model is not None:
            raise AutopeftError(f"{folder}: is a merged model, which needs no other one; leave --model out")
        return find_model(str(folder.resolve()), trust)
    try:
        found = find_model(model or _now_at(record), trust)
    except AutopeftError as error:
        if model or record.model.name in BUILT_IN:
            raise
        raise AutopeftError(f"{error}; if it was moved, say where it is: --model FOLDER") from error
    source = replace(found, quantise=record.quantise)
    if differs := difference(record.model.files, model_files(source.location)):
        warnings.warn(f"the base model is not the one that the adapter was trained on: {differs}", stacklevel=4)
    return source


def _now_at(record: Record) -> str:
    """The folder where the base model was, if it is there still: its name may have been of another folder."""
    name, location = record.model.name, record.model.location
    here = name not in BUILT_IN and not Path(name).exists() and Path(location).is_absolute()
    return location if here and Path(location).exists() else name


def open_export(
    folder: Path, on: Path | None = None, trust_remote_code: bool = False, model: str | None = None
) -> OpenedExport:
    """Open the adapter in `folder` with its model and task; arguments and errors as those of `measure_export`."""
    record = Record.read(folder)
    settings = record.settings_of(str(folder / FILE))
    data = (
        _data(record, folder)
        if on is None
        else data_of_file(_task(record, folder), on, record.kind, record.metrics_of_task)
    )
    source = source_of(folder, record, trust_remote_code, model)
    asked, room = _asked(record, folder)
    task = tokenized(data, source, settings.max_length, asked, room=room)
    others = {}
    for name, other in ({} if on else _others(record, folder, data)).items():
        read = tokenized(other, source, settings.max_length, asked, room=room)
        others[f"test_{name}_"] = task.measured_on(read)
    return OpenedExport(record, source, task, load_export(folder, record, source, task.pad_id), others)
