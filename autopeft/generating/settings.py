"""The field `generation` of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from autopeft.config import Strict, parse
from autopeft.errors import AutopeftError
from autopeft.metrics import text_metric
from autopeft.readouts import Readout


class GenerationSettings(Strict):
    """How models write texts that are measured: greedily, by beams, or drawn at a temperature."""

    metrics: tuple[str, ...] = Field(("rouge_l", "exact_match"), min_length=1, max_length=20)
    max_new_tokens: int = Field(64, ge=1, le=32_768, description="tokens of a text at most")
    beams: int = Field(1, ge=1, le=64)
    temperature: float = Field(0.0, ge=0, le=100, description="tokens are drawn at it; 0: the likeliest is taken")
    top_p: float = Field(1.0, gt=0, le=1, description="of the likelihood that tokens are drawn from")
    seed: int = Field(0, ge=0, le=2**31, description="of what is drawn, the same for all candidates")
    limit: int = Field(200, ge=1, le=1_000_000, description="prompts of a split at most")
    when: Literal["front", "last_epoch"] = Field(
        "front", description="of the front on test; last_epoch: of each candidate on validation too"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """Metrics alone are settings too."""
        return {"metrics": value} if isinstance(value, (str, list, tuple)) else value

    @field_validator("metrics", mode="before")
    @classmethod
    def _known_metrics(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ValueError("expected a metric or a list of them")
        for name in names:
            try:
                text_metric(name)
            except AutopeftError as error:
                raise ValueError(str(error)) from error
        if len(set(names)) != len(names):
            raise ValueError("the same one twice")
        return tuple(names)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.beams > 1 and self.temperature:
            raise ValueError("beams and temperature: texts are drawn, or searched by beams; leave one of them out")
        if self.top_p < 1 and not self.temperature:
            raise ValueError("top_p: is for texts that are drawn; set a temperature, or leave it out")
        return self

    @property
    def way(self) -> str:
        """How tokens are chosen, in words."""
        if self.beams > 1:
            return f"{self.beams} beams"
        if not self.temperature:
            return "greedy"
        most = "" if self.top_p == 1 else f", top_p {self.top_p:g}"
        return f"drawn at temperature {self.temperature:g}{most}, seed {self.seed}"

    @property
    def reported(self) -> tuple[str, ...]:
        """The names of its metrics on test."""
        return tuple(f"test_{name}" for name in self.metrics)


class Generation(Strict):
    """A record of texts that were measured.

    `settings`, and the same in words; `room`, how many tokens a prompt could have; how each metric is computed.
    """

    settings: dict[str, Any]
    way: str
    room: int = Field(ge=1, le=2**31)
    signatures: dict[str, str] = {}

    def settings_of(self, where: str) -> GenerationSettings:
        """The settings; `AutopeftError` with `where` for what is wrong in them."""
        return parse(GenerationSettings, self.settings, where)


def check_writes(settings: GenerationSettings | None, readout: Readout, place: str) -> None:
    """`AutopeftError` for models that write no texts, and where a metric's package is not installed."""
    if settings is None:
        return
    if not (readout.tokenises and readout.generates):
        raise AutopeftError(
            f"{place}: measures texts that a language model writes, and the task has {readout.called}; leave it out"
        )
    check_installed(settings.metrics, place)


def check_installed(metrics: Sequence[str], place: str) -> None:
    """`AutopeftError` where a package that one of the metrics needs is not installed."""
    for name in metrics:
        package = text_metric(name).package
        if package and find_spec(package) is None:
            raise AutopeftError(
                f"{place}: metric '{name}' needs the package {package}; pip install 'autopeft[generation]', or leave "
                "the metric out"
            )
