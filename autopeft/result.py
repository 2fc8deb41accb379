"""What a search found: read from its run folder, at any time, in any process."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.run_folder import RunFolder
from autopeft.searching.front import ParetoFront
from autopeft.searching.objective import Objective


class SearchResult:
    """The front and the evaluations of a run folder, and the export of a candidate."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    @classmethod
    def open(cls, run: str | Path) -> Self:
        """The result in an earlier search's folder."""
        return cls(RunFolder.existing(run))

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self._folder.path

    @cached_property
    def experiment(self) -> Experiment:
        """What was searched."""
        return self._folder.experiment()

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """All finished candidates, in the order in which they were proposed."""
        from autopeft.searching.study import Study

        return Study.read(self.run_dir)

    @cached_property
    def front(self) -> ParetoFront:
        """The Pareto front of the validation scores and the costs."""
        from autopeft.searching.study import Study

        header = Study.read_header(self.run_dir)
        return ParetoFront(self.evaluations, [Objective(**o) for o in header["objectives"]], header["budget"])

    def export(self, pick: str = "best", to: str | Path = "out", max_params: int | None = None) -> Path:
        """Write a candidate with its trained weights as a PEFT adapter; see `autopeft.export`."""
        return export(self, pick, to, max_params)

    def _repr_html_(self) -> str:
        return self.front.to_frame().to_html()


def export(
    run: SearchResult | str | Path, pick: str = "best", to: str | Path = "out", max_params: int | None = None
) -> Path:
    """Write a candidate of a search as a PEFT adapter: weights, `adapter_config.json`, `hybrid.json`, a model card.

    `pick` is "best" (the best score), "knee" or a candidate's key; `max_params` leaves out what is larger. Weights that
    were not kept are trained again with the search's seed. Returns the folder.
    """
    from autopeft.engine.report import train_again
    from autopeft.engine.worker import WorkerSpec, load_weights
    from autopeft.exporting import write_adapter, write_card, write_record
    from autopeft.session import Session

    result = run if isinstance(run, SearchResult) else SearchResult.open(run)
    chosen = result.front.pick(pick, max_params)
    folder, to = RunFolder(result.run_dir), Path(to)
    session = Session(result.experiment)
    spec = WorkerSpec(session.source, result.experiment.training, keep=folder.weights)
    weights = load_weights(folder.weights, chosen.key)
    if weights is None:
        train_again(spec, session.tokens, [chosen.candidate])
        weights = load_weights(folder.weights, chosen.key)
    if weights is None:
        raise AutopeftError(
            f"candidate {chosen.key}: its weights cannot be kept in {folder.weights}; is the disk full?"
        )
    try:
        peft_type = write_adapter(session.source, chosen.candidate, weights, session.data.num_labels, to)
        record = _record(result, session, chosen, peft_type)
        write_record(to, record)
        write_card(to, record)
    except OSError as error:
        raise AutopeftError(f"{to}: cannot be written ({error.strerror or error})") from error
    return to


def _record(result: SearchResult, session: Any, chosen: Evaluation, peft_type: str) -> dict[str, Any]:
    resolved = result.experiment.resolved()
    return {
        "key": chosen.key,
        "peft_type": peft_type,
        "hybrid": chosen.candidate.hybrid.to_json(),
        "training": dict(chosen.candidate.training),
        "seed": result.experiment.training.seed,
        "metrics": dict(chosen.metrics),
        "model": {"name": session.source.name, "location": session.source.location},
        "trust_remote_code": result.experiment.trust_remote_code,
        "num_labels": session.data.num_labels,
        "labels": list(session.data.label_names),
        "task": resolved["task"],
        "splits": session.data.note,
        "settings": resolved["training"],
    }


def evaluate(folder: str | Path) -> dict[str, float]:
    """Load an exported adapter on a fresh backbone, as its user would, and measure it on the test split."""
    from autopeft.engine.adapter import test_metrics

    path = Path(folder) / "hybrid.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AutopeftError(f"{path}: cannot be read; give a folder that 'autopeft export' wrote") from error
    return test_metrics(record, Path(folder))
