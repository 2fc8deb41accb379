"""What a search proposes and what it gets back: values, without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self, get_args

from autopeft.doors import door
from autopeft.errors import AutopeftError, shown
from autopeft.hybrid import Hybrid, short_hash
from autopeft.markup import joined, tag

#: Follows the name of a training's weights in that of the file with what cutting needs of it.
UNITS = "-units"
#: How a candidate's training ended: at its end, stopped early, or by an error.
Status = Literal["done", "stopped", "failed"]
#: How a candidate's weights came about: from their beginning, or from a larger candidate's that were cut and healed.
Born = Literal["trained", "healed"]

#: What candidates are in their search: the sampler's, where they have no role of their own; a large hybrid that will be
#: cut; asked for by who watches.
SAMPLER, LARGE, ENQUEUED = "sampler", "large hybrid", "enqueued"


@dataclass(frozen=True)
class Candidate:
    """A hybrid and the training hyper-parameters that the search chose for it (learning rate, ...)."""

    hybrid: Hybrid
    training: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Make the rates floats: equal candidates have equal keys."""
        object.__setattr__(self, "training", {name: float(value) for name, value in self.training.items()})

    @cached_property
    def key(self) -> str:
        """Short hash of the canonical JSON: the candidate's name in files and tables."""
        return short_hash(self.to_json())

    def __repr__(self) -> str:
        return f"Candidate({self.key}: {self._words})"

    def _repr_html_(self) -> str:
        return joined([tag("p", tag("b", self.key), ": ", self._words), self.hybrid._repr_html_()])

    @property
    def _words(self) -> str:
        return "; ".join([self.hybrid.describe(), *(f"{name} {value:.3g}" for name, value in self.training.items())])

    def to_json(self) -> dict[str, Any]:
        """`{"hybrid": ..., "training": ...}`, read back by `from_json`."""
        return {"hybrid": self.hybrid.to_json(), "training": dict(self.training)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The candidate that `to_json` wrote; `AutopeftError` when it is none."""
        with door("candidate", "expected {'hybrid': ..., 'training': {...}}"):
            hybrid, training = data["hybrid"], {str(name): float(value) for name, value in data["training"].items()}
        wrong = next((name for name, value in training.items() if not math.isfinite(value)), None)
        if wrong is not None:
            raise AutopeftError(f"candidate: training.{wrong} must be a finite number, not {training[wrong]}")
        return cls(Hybrid.from_json(hybrid), training)


@dataclass(frozen=True)
class Origin:
    """Where a training begins when it is not at drawn weights.

    `parent` is the key of the candidate that was cut, `start` the name of the file (without its suffix, in the folder
    of kept weights) that the cut weights are in. A training from there is a healing.
    """

    parent: str
    start: str

    @property
    def born(self) -> Born:
        """What stands in the front's file."""
        return "healed"

    def to_json(self) -> dict[str, Any]:
        """Plain data, read back by `from_json`."""
        return {"parent": self.parent, "start": self.start}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The origin that `to_json` wrote; `AutopeftError` when it is none, or names a file elsewhere."""
        with door("origin", "expected {'parent': ..., 'start': ...}"):
            parent, start = data["parent"], data["start"]
            if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in (parent, start)):
                raise ValueError("a name has letters, digits and hyphens only")
            return cls(parent, start)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,119}")


@dataclass(frozen=True)
class Job:
    """One training of a candidate: from this seed, for so many epochs; None stands for what the settings say.

    What a worker is given. Weights and evaluations belong to a candidate, a seed, and an `origin` where it has one.
    `cuttable`: what is needed to cut it is kept beside its weights. `role`: what it is in a search, in a few words,
    where no sampler proposed it; it changes nothing else.
    `AutopeftError` for a seed or a number of epochs that no training has.
    """

    candidate: Candidate
    seed: int | None = None
    epochs: int | None = None
    origin: Origin | None = None
    cuttable: bool = False
    role: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least, most in (("seed", 0, 2**32 - 1), ("epochs", 1, 10_000)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and least <= value <= most):
                raise AutopeftError(f"job: {name} must be a whole number from {least} to {most:,}, not {shown(value)}")

    @property
    def is_whole(self) -> bool:
        """Whether it begins at drawn weights and takes as many epochs as others."""
        return self.epochs is None and self.origin is None

    @property
    def name(self) -> tuple[str, int | None, Origin | None]:
        """What tells it from others of a search: the candidate's key, its epochs, where it begins."""
        return self.candidate.key, self.epochs, self.origin

    @classmethod
    def of(cls, given: Candidate | Job) -> Job:
        """A job; a candidate alone is trained as the settings say."""
        return given if isinstance(given, Job) else cls(given)

    def to_json(self) -> dict[str, Any]:
        """Plain data, read back by `from_json`."""
        own: dict[str, Any] = {} if self.origin is None else {"origin": self.origin.to_json()}
        if self.cuttable:
            own["cuttable"] = True
        if self.role:
            own["role"] = self.role
        return {"candidate": self.candidate.to_json(), "seed": self.seed, "epochs": self.epochs, **own}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The job that `to_json` wrote; `AutopeftError` when it is none."""
        with door("job", "expected {'candidate': ..., 'seed': ..., 'epochs': ...}"):
            origin = Origin.from_json(data["origin"]) if "origin" in data else None
            cuttable = data.get("cuttable", False) is True
            candidate, role = Candidate.from_json(data["candidate"]), str(data.get("role", ""))
            return cls(candidate, data["seed"], data["epochs"], origin, cuttable, role)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) and value == int(value) else f"{value:.4g}"


def failed(given: Candidate | Job, error: Exception | str) -> Evaluation:
    """The evaluation of a training that an error ended: its reason in one line."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    job = Job.of(given)
    # Whoever asked for this training must know it again, or it is asked for without end.
    return Evaluation(job.candidate, "failed", {}, seed=job.seed or 0, error=text, epochs=job.epochs, origin=job.origin)


@dataclass(frozen=True)
class Evaluation:
    """One candidate, trained and measured.

    `metrics` holds validation scores under the metric's name, test scores (only for what is reported) under
    `test_<metric>`, and costs, all in one namespace. `curve` has one mapping an epoch. `seconds` is training and
    validation, without the work around it. A stopped candidate has the metrics of its last epoch. A failed one has its
    reason in `error` and keeps its costs. `epochs` is how long it was to be trained where that is not what the settings
    say, `origin` where it began where that is not at drawn weights, `role` its job's.
    """

    candidate: Candidate
    status: Status
    metrics: Mapping[str, float]
    number: int = -1
    curve: tuple[Mapping[str, float], ...] = ()
    seed: int = 0
    seconds: float = 0.0
    error: str | None = None
    repaired: bool = False
    epochs: int | None = None
    origin: Origin | None = None
    role: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """The candidate's key."""
        return self.candidate.key

    @property
    def job(self) -> Job:
        """The training that would give it again, to the end."""
        return Job(self.candidate, self.seed, self.epochs, self.origin, role=self.role)

    @property
    def born(self) -> Born:
        """How its weights came about."""
        return "trained" if self.origin is None else self.origin.born

    @property
    def words(self) -> str:
        """What was trained, in short."""
        return self.candidate.hybrid.describe()

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {_digits(value)}" for name, value in self.metrics.items())
        ended = f"{self.status} ({self.error})" if self.error else self.status
        return f"Evaluation({self.number}, {ended}, seed {self.seed}, {self.candidate!r}, {said or 'no metrics'})"

    @property
    def fidelity(self) -> int:
        """How many epochs it was trained (and measured after)."""
        return len(self.curve)

    def to_json(self) -> dict[str, Any]:
        """Plain data, read back by `from_json`; what came later is left out at its default."""
        own: dict[str, Any] = {} if self.epochs is None else {"epochs": self.epochs}
        if self.origin is not None:
            own["origin"] = self.origin.to_json()
        if self.role:
            own["role"] = self.role
        return {
            "candidate": self.candidate.to_json(),
            "status": self.status,
            "metrics": dict(self.metrics),
            "number": self.number,
            "curve": [dict(c) for c in self.curve],
            "seed": self.seed,
            "seconds": self.seconds,
            "error": self.error,
            "repaired": self.repaired,
            **own,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The evaluation that `to_json` wrote; `AutopeftError` when it is none."""
        with door("evaluation", "not what a search wrote"):
            rest = {k: v for k, v in data.items() if k not in ("candidate", "curve", "origin")}
            candidate, curve = Candidate.from_json(data["candidate"]), tuple(data["curve"])
            origin = Origin.from_json(data["origin"]) if "origin" in data else None
            found = cls(candidate=candidate, curve=curve, origin=origin, **rest)
            if found.status not in get_args(Status) or not all(isinstance(m, dict) for m in (found.metrics, *curve)):
                raise ValueError(f"status {shown(found.status)}, or metrics that are no mapping")
            if not isinstance(found.role, str):
                raise ValueError("its role is no text")
        return found
