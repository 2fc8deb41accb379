"""The folder of an export: one training as a PEFT adapter, with its record and its card."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft import __version__
from autopeft.anatomy import ModelShape
from autopeft.candidate import Candidate, Evaluation
from autopeft.doors import reason
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.models import ModelSource
from autopeft.recipe import FILE, Recipe
from autopeft.searching.confirming.values import Spread
from autopeft.task_facts import TaskFacts

if TYPE_CHECKING:
    import torch

    from autopeft.engine.setup import Setup
    from autopeft.exporting import Format


@dataclass(frozen=True)
class Trained:
    """A candidate's weights, the metrics of these very weights, and what a card says of their model and task.

    `files` is the model's fingerprint, `setup` how the engine was measured and `recipe` how the weights came about,
    where that is known. `seeds` are the scores over so many seeds, where there were several.
    """

    source: ModelSource
    files: dict[str, str]
    facts: TaskFacts
    weights: dict[str, torch.Tensor]
    metrics: dict[str, float]
    setup: Setup | None = None
    recipe: Recipe | None = None
    seeds: tuple[int, Mapping[str, Spread]] | None = None


def write_export(
    to: Path, experiment: Experiment, trained: Trained, chosen: Evaluation, asked: Format | None, remedy: str = ""
) -> None:
    """Write the adapter in a format (None: stock PEFT where it can be), then `hybrid.json` and the model card.

    All of it comes to its place when all is written. `UnfitWeights` for weights that are not of the candidate, before
    anything is written; `AutopeftError` with `remedy` where the folder cannot be written.
    """
    from autopeft.exporting import filling, format_of, write_adapter, write_card, write_record

    format_ = format_of(asked, chosen.candidate.hybrid, trained.source.quantise)
    source, most = replace(trained.source, chat=trained.facts.chat), experiment.training.max_length
    with _writing(to, remedy), filling(to) as made:
        readout = trained.facts.readout
        kind = write_adapter(source, chosen.candidate, trained.weights, readout, made, asked, most)
        record = _record(experiment, trained, chosen, kind, "autopeft" if kind == "AUTOPEFT" else format_)
        # What the folder will hold: the record and the card are written next.
        record["files"] = sorted({*(path.name for path in made.iterdir()), FILE, "README.md"})
        write_record(made, record)
        write_card(made, record, source)


def sizes_of(shape: ModelShape) -> dict[str, int]:
    """The sizes of a model that a hybrid's costs depend on."""
    return {
        "layers": shape.layers,
        "hidden": shape.hidden,
        "ffn": shape.ffn,
        "key_value": shape.kv_heads * shape.head_dim,
        "embedding": shape.embedding or shape.hidden,
    }


@contextmanager
def _writing(to: Path, remedy: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        after = f"; {remedy}" if remedy else ""
        raise AutopeftError(f"{to}: cannot be written ({reason(error)}){after}") from error


def _record(
    experiment: Experiment, trained: Trained, chosen: Evaluation, peft_type: str, format_: Format
) -> dict[str, Any]:
    from autopeft.exporting import written

    resolved, facts, candidate, source = experiment.resolved(), trained.facts, chosen.candidate, trained.source
    hybrid, setup = written(format_, candidate.hybrid), trained.setup
    sizes = sizes_of(source.shape(facts.readout))
    return {
        "written_by": f"autopeft {__version__}",
        "key": chosen.key,
        **({"number": chosen.number} if chosen.number >= 0 else {}),
        "peft_type": peft_type,
        "format": format_,
        "hybrid": hybrid.to_json(),
        "written": Candidate(hybrid, candidate.training).key,
        "searched": None if hybrid == candidate.hybrid else candidate.hybrid.to_json(),
        "training": dict(candidate.training),
        "seed": chosen.seed,
        "metrics": trained.metrics,
        "model": {"name": source.name, "location": source.location, "files": trained.files, "sizes": sizes},
        "trust_remote_code": source.trust_remote_code,
        **({"quantise": source.quantise} if source.quantise else {}),
        "num_labels": facts.readout.outputs,
        **_asking(experiment, facts),
        "scores": list(facts.metrics),
        "positive": facts.positive,
        **({"readout": facts.kind} if facts.kind else {}),
        "task": resolved["task"],
        **({"evaluate_on": resolved["evaluate_on"]} if "evaluate_on" in resolved else {}),
        "splits": facts.splits,
        "remarks": list(facts.remarks),
        "data": facts.fingerprint,
        "settings": {**resolved["training"], "seed": chosen.seed},
        **({"engine": setup.model_dump(include={"device", "precision", "attention"})} if setup else {}),
        **({"generation": facts.generation.model_dump(mode="json")} if facts.generation else {}),
        **({"asks": facts.asks} if facts.asks else {}),
        **({"spread": _spread(*trained.seeds)} if trained.seeds else {}),
        **({"recipe": trained.recipe.to_json()} if trained.recipe else {}),
    }


def _asking(experiment: Experiment, facts: TaskFacts) -> dict[str, Any]:
    """What asking the model takes."""
    return {
        "labels": list(facts.labels),
        "id2label": {str(number): name for number, name in enumerate(facts.labels)},
        "max_length": experiment.training.max_length,
    }


def _spread(seeds: int, scores: Mapping[str, Spread]) -> dict[str, Any]:
    finite = {name: [s.mean, s.sd] for name, s in scores.items() if math.isfinite(s.mean) and math.isfinite(s.sd)}
    return {"seeds": seeds, "scores": finite}
