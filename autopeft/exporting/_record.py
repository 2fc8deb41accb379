"""`hybrid.json`: everything that `evaluate` needs, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autopeft.config import parse
from autopeft.doors import door, read_json, within
from autopeft.engine.settings import EARLIER, TrainingSettings
from autopeft.errors import AutopeftError
from autopeft.formats import Asks
from autopeft.generating.settings import Generation
from autopeft.hybrid import Hybrid
from autopeft.quantising import Kind
from autopeft.readouts import Readout, complaint, implied, readout_from
from autopeft.recipe import FILE
from autopeft.writing import replacing

#: How a hybrid is written: stock LoRA with each module's own rank, with one rank, or with a GGUF adapter beside it,
#: another tuner of stock PEFT, the backbone with all folded in, or PEFT type AUTOPEFT.
Format = Literal["lora", "lora-padded", "gguf", "peft", "merged", "autopeft"]
#: Those whose PEFT files are stock LoRA's.
LORA_FORMATS: tuple[Format, ...] = ("lora", "lora-padded", "gguf")
_REMEDY = "give a folder that 'autopeft export' wrote"


class _Model(BaseModel):
    """The base model as it was named, where it was, its files' fingerprint and its sizes (empty where unknown)."""

    name: str = Field(min_length=1)
    location: str
    files: dict[str, str] = {}
    sizes: dict[str, int] = {}


class Engine(BaseModel):
    """How the backbone was computed with in training."""

    device: str
    precision: Literal["fp32", "bf16"]
    attention: Literal["fused", "matmul"]


class OverSeeds(BaseModel):
    """Scores over seeds: mean and sample standard deviation by metric."""

    seeds: int = Field(ge=2)
    scores: dict[str, tuple[float, float]]


class Record(BaseModel):
    """What an export says of itself. Data only: that a model needs its own code (`trust_remote_code`) runs nothing."""

    model_config = ConfigDict(frozen=True, strict=True)

    key: str
    number: int | None = Field(None, description="the candidate's in its search")
    peft_type: str = Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")
    format: Format | None = None
    hybrid: dict[str, Any] = Field(description="what is in the files: folded, where that is simpler")
    written: str | None = Field(None, description="the key that a candidate of this hybrid would have")
    searched: dict[str, Any] | None = Field(None, description="the candidate's hybrid, where it was folded")
    training: dict[str, float]
    seed: int
    metrics: dict[str, float]
    model: _Model
    trust_remote_code: bool = False
    quantise: Kind | None = None
    num_labels: int = Field(ge=1)
    labels: list[str]
    scores: list[str] = Field([], description="names of the task's metrics, main one first")
    positive: int | None = None
    readout: dict[str, Any] | None = Field(None, description="where labels and positive don't imply it")
    task: dict[str, Any]
    evaluate_on: dict[str, Any] | None = Field(None, description="further test sets that it was measured on")
    splits: str
    remarks: list[str] = []
    data: str
    settings: dict[str, Any]
    files: list[str] = Field([], description="what the export wrote into its folder")
    id2label: dict[str, str] = Field({}, description="the classes by number")
    max_length: int | None = Field(None, description="tokens of an example at most, as in training")
    spread: OverSeeds | None = Field(None, description="the scores over the seeds that it was trained with")
    engine: Engine | None = None
    asks: Asks | None = Field(None, description="of a language model: how the rows that it learned ask")
    generation: Generation | None = Field(None, description="how texts were written and measured on test")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        try:
            kind = self.kind
        except AutopeftError as error:
            raise ValueError(f"readout: {error}") from error
        if self.num_labels != kind.outputs or list(kind.labels) != self.labels:
            raise ValueError(f"num_labels is {self.num_labels}, but there are {len(self.labels)} labels")
        if wrong := complaint(self.scores, kind) if self.scores else "":
            raise ValueError(f"scores: {wrong}")
        positive = getattr(kind, "positive", None)
        if positive is not None and not 0 <= positive < len(self.labels):
            raise ValueError(f"positive: there is no class {positive}")
        return self

    @property
    def kind(self) -> Readout:
        """What the labels are."""
        return readout_from(self.readout) if self.readout else implied(self.labels, self.positive)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The record of an export; `AutopeftError` with the field that is wrong."""
        return cls.of(read_json(folder / FILE, _REMEDY), str(folder / FILE))

    @classmethod
    def of(cls, data: Mapping[str, Any], where: str) -> Self:
        """The record of plain data; its recipe, which nothing is measured by, is left to `autopeft.recipe`."""
        return parse(cls, {name: value for name, value in data.items() if name != "recipe"}, where)

    @property
    def metrics_of_task(self) -> tuple[str, ...]:
        """Names of the task's metrics, main one first."""
        # Exports that don't name them have measured them.
        return tuple(self.scores or [name for name in self.metrics if name in self.kind.metrics()])

    def settings_of(self, where: str) -> TrainingSettings:
        """The training settings; `AutopeftError` starting with `where`."""
        # Exports that don't say it are of a time with other defaults.
        return parse(TrainingSettings, {**EARLIER, **self.settings}, f"{where}: settings")

    def value(self, where: str) -> Hybrid:
        """The hybrid itself; `AutopeftError` starting with `where`."""
        with within(where), door(where, "hybrid: not valid", _REMEDY):
            return Hybrid.from_json(self.hybrid)

    @property
    def written_as(self) -> Format:
        """The format; exports that don't say it have each module's own rank."""
        return self.format or ("lora" if self.peft_type == "LORA" else "autopeft")


def write_record(to: Path, record: Mapping[str, Any]) -> None:
    """Write `hybrid.json`."""
    with replacing(to / FILE) as partial:
        partial.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
