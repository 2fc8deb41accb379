"""Training settings of an experiment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from autopeft.candidate import Candidate, Job
from autopeft.config import Strict

#: Options that came later, and what older trainings had.
_LATER: dict[str, Any] = {
    "head": "drawn", "method_rates": "shared", "head_learning_rate": None, "batch_tokens": None, "checkpoint": False,
}  # fmt: skip
#: Options whose default has changed since, and what it was.
EARLIER = {name: _LATER[name] for name in ("head", "method_rates")}


@dataclass(frozen=True)
class TokenSize:
    """Batches of at most so many tokens with padding, and of one example at least."""

    tokens: int


class TrainingSettings(Strict):
    """How every candidate is trained; the search space may set the rates per candidate."""

    epochs: int = Field(3, ge=1, le=10_000)
    batch_size: int = Field(32, ge=1, le=65_536)
    batch_tokens: int | None = Field(
        None, ge=1, le=2**30, description="tokens with padding in a batch, in the place of batch_size"
    )
    max_length: int = Field(
        128, ge=4, le=2**20, description="tokens; longer texts are cut, and FLOPs are counted at this length"
    )
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(0, ge=0, lt=2**32, description="of initial weights and of the order of the data")
    learning_rate: float = Field(1e-3, gt=0, lt=1e38)
    weight_decay: float = Field(0.01, ge=0, lt=1e38)
    warmup: float = Field(0.06, ge=0, lt=1, description="share of the steps with a rising rate; then linear decay")
    max_grad_norm: float = Field(1.0, gt=0, lt=1e38)
    head: Literal["drawn", "probe"] = Field(
        "probe", description="what a head starts from: weights drawn by the seed, or a linear probe of the backbone"
    )
    method_rates: Literal["shared", "usual"] = Field(
        "usual", description="what methods learn at: the candidate's rate, or its multiple that is usual for each"
    )
    head_learning_rate: float | None = Field(
        None, gt=0, lt=1e38, description="of the head alone, whatever the candidate's; none: the candidate's"
    )

    checkpoint: bool = Field(
        False, description="compute layers again in the backward pass: less memory, about a third more time"
    )

    @property
    def batches(self) -> int | TokenSize:
        """The size of batches: in examples, or in tokens."""
        return self.batch_size if self.batch_tokens is None else TokenSize(self.batch_tokens)

    def identity(self) -> dict[str, Any]:
        """What scores depend on; what came later is left out at its first default, as in old studies."""
        return {n: v for n, v in self.model_dump(mode="json").items() if n not in _LATER} | self.chosen_later()

    def chosen_later(self) -> dict[str, Any]:
        """Of the options that came later, those that are not at their first default."""
        values = self.model_dump(mode="json")
        return {name: values[name] for name, first in _LATER.items() if values[name] != first}

    def job(self, given: Candidate | Job) -> Job:
        """What is trained, with its seed and epochs: those of the settings where it does not say."""
        job = Job.of(given)
        seed = self.seed if job.seed is None else job.seed
        return replace(job, seed=seed, epochs=self.epochs if job.epochs is None else job.epochs)

    def of(self, job: Job) -> TrainingSettings:
        """The settings of one job."""
        job = self.job(job)
        return self.model_copy(update={"seed": job.seed, "epochs": job.epochs})

    def weights_name(self, given: Candidate | Job) -> str:
        """The name of the file of a job's weights: the candidate's key, and what differs from the settings."""
        job = self.job(given)
        seed = "" if job.seed == self.seed else f"-seed{job.seed}"
        epochs = "" if job.epochs == self.epochs else f"-epochs{job.epochs}"
        origin = "" if job.origin is None else f"-from-{job.origin.start}"
        return f"{job.candidate.key}{seed}{epochs}{origin}"
