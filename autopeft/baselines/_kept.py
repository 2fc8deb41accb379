"""What is kept of a trained baseline: a JSON file that says what it is, and a safetensors file with its weights."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator
from torch import nn

from autopeft.baselines._base import Baseline
from autopeft.config import Strict, parse
from autopeft.doors import door, read_json
from autopeft.errors import AutopeftError, shown
from autopeft.fingerprint import difference, model_files
from autopeft.quantising import Kind
from autopeft.readouts import Readout, readout_from
from autopeft.weight_names import HEAD, part
from autopeft.writing import replacing

if TYPE_CHECKING:
    import torch

    from autopeft.engine.backbone import Backbone
    from autopeft.engine.data import TokenizedTask
    from autopeft.models import ModelSource

RECORD, WEIGHTS = "baseline.json", "baseline.safetensors"
_REMEDY = "give a folder that `save_baseline` wrote"


class Record(Strict):
    """What the JSON file says: which baseline, on which model, for which labels, and its own options.

    `files` is the model's fingerprint (empty in older ones), `quantise` how its maps are kept in memory.
    """

    baseline: str
    model: str = Field(min_length=1)
    files: dict[str, str] = {}
    quantise: Kind | None = None
    readout: dict[str, Any]
    pad_id: int = Field(ge=0)
    options: dict[str, int | float | str | bool] = {}

    @model_validator(mode="after")
    def _has_readout(self) -> Self:
        try:
            _ = self.kind
        except AutopeftError as error:
            raise ValueError(f"readout: {error}") from error
        return self

    def same_model(self, other: Record) -> bool:
        """Whether both are of one base model, kept alike: by its files, where they are known."""
        known = bool(self.files and other.files)
        same = self.files == other.files if known else self.model == other.model
        return same and self.quantise == other.quantise

    @property
    def kind(self) -> Readout:
        """What the labels are."""
        return readout_from(self.readout)


@dataclass(frozen=True)
class Kept:
    """A record, and the tensors that the backbone's checkpoint does not have."""

    record: Record
    tensors: Mapping[str, torch.Tensor] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Bytes of the tensors, but for the head's."""
        return sum(t.numel() * t.element_size() for n, t in self.tensors.items() if not n.startswith(HEAD))

    def write(self, folder: Path) -> None:
        """Write both files."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS) as partial:
            partial.write_bytes(save({name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}))
        with replacing(folder / RECORD) as partial:
            partial.write_text(json.dumps(self.record.model_dump(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read both files; `AutopeftError` names the one that is not what `write` writes, and the field in it."""
        from safetensors.torch import load_file

        record = parse(Record, read_json(folder / RECORD, _REMEDY), str(folder / RECORD))
        with door(folder / WEIGHTS, "not readable as safetensors", _REMEDY):
            tensors = load_file(folder / WEIGHTS)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise AutopeftError(f"{folder / WEIGHTS}: '{name}' holds what is no finite number; {_REMEDY}")
        return cls(record, tensors)


class KeptModel(nn.Module, ABC):
    """A trained baseline's model that can say what must be kept of it; `self.model` is the backbone with its head."""

    model: nn.Module

    def forward(self, **inputs: Any) -> Any:
        """The model's own output; its `logits` are [B, C] (or [B, T, C], of tokens)."""
        return self.model(**inputs)

    @abstractmethod
    def kept(self) -> Kept:
        """All that turns the checkpoint into this model."""


class KeptBaseline(Baseline):
    """A baseline whose trained model can be saved and loaded again."""

    @abstractmethod
    def restore(self, backbone: Backbone, kept: Kept) -> KeptModel:
        """The model that `kept` was made of, on a fresh backbone; any error where it does not fit."""


def check_option(baseline: Baseline, field: str, least: float, most: float) -> None:
    """`AutopeftError` unless a number among the options lies within these bounds, and is whole if they are."""
    value = getattr(baseline, field)
    whole = isinstance(least, int) and isinstance(most, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not least <= value <= most:
        kind = "whole number" if whole else "number"
        raise AutopeftError(
            f"{baseline.name}: {field}: expected a {kind} from {least} to {most} (given: {shown(value)})"
        )


def save_baseline(model: KeptModel, folder: Path | str) -> None:
    """Write `baseline.json` and `baseline.safetensors` of a fitted model (`Fitted.model`) into `folder`."""
    model.kept().write(Path(folder))


def load_baseline(folder: Path | str) -> KeptModel:
    """Load what `save_baseline` wrote, on the base model that it names; the outputs are the same to the bit.

    It warns where that model is not the one that the baseline was trained on. `AutopeftError` for a folder that holds
    something else.
    """
    import torch

    from autopeft.baselines import BASELINES
    from autopeft.engine.backbone import REPORTED, Backbone
    from autopeft.models import find_model

    kept = Kept.read(Path(folder))
    kind: Any = BASELINES.get(kept.record.baseline)
    if not issubclass(kind, KeptBaseline):
        raise AutopeftError(f"{folder}/{RECORD}: baseline '{kept.record.baseline}' keeps a whole model, not a folder")
    of = kept.record
    source = replace(find_model(of.model), quantise=of.quantise)
    if differs := difference(of.files, model_files(source.location)):
        warnings.warn(f"{folder}: the base model is not the one that it was trained on: {differs}", stacklevel=2)
    backbone = Backbone(source, of.kind, REPORTED, torch.device("cpu"), of.pad_id)
    with door(f"{folder}/{WEIGHTS}", "does not fit the model", _REMEDY):
        model = kind(**kept.record.options).restore(backbone, kept)
    model.eval().requires_grad_(False)
    return model


def record_of(baseline: Any, source: ModelSource, task: TokenizedTask) -> Record:
    """What is said of a baseline, which is a dataclass of its options, that was trained on a task."""
    return Record(
        baseline=baseline.name,
        model=source.name,
        files=model_files(source.location),
        quantise=source.quantise,
        readout=task.readout.to_json(),
        pad_id=task.pad_id,
        options=asdict(baseline),
    )


def check_rank(rank: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """`ValueError`, before anything is built, where kept weights of LoRA are of another rank."""
    if any(t.shape[0] != rank for name, t in tensors.items() if name.endswith(".A")):
        raise ValueError(f"the weights are not of rank {rank}")


def load_head(backbone: Backbone, tensors: Mapping[str, torch.Tensor]) -> None:
    """Set what `Backbone.head_weights` gave."""
    for name, head in backbone.heads.items():
        head.load_state_dict(part(tensors, f"{HEAD}{name}."))
