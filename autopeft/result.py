"""What a search found: read from its run folder, at any time, in any process."""

from __future__ import annotations

import json
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autopeft.budget import Budget
from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.models import find_model
from autopeft.run_folder import RunFolder
from autopeft.searching.front import ParetoFront
from autopeft.searching.identity import refuse_another
from autopeft.searching.objective import Objective
from autopeft.space import SearchSpace

if TYPE_CHECKING:
    import torch

    from autopeft.searching.explain import Explanation
    from autopeft.session import Session


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

    def explain(self) -> Explanation:
        """What the score depends on (layers, methods, training), and what the front is made of.

        Shares of variance by two methods, how far to believe each, `plot()` and `to_json()`. `AutopeftError` when too
        few candidates are finished.
        """
        from autopeft.searching.explain import explain
        from autopeft.searching.study import Study

        header, experiment = Study.read_header(self.run_dir), self.experiment
        shape = find_model(experiment.model, experiment.trust_remote_code).shape()
        space, budget = SearchSpace.load(header["space"], shape), Budget(header["budget"], header["length"])
        return explain(self.front, space, budget, experiment.training.epochs)

    def _repr_html_(self) -> str:
        return self.front.to_frame().to_html()


def export(
    run: SearchResult | str | Path, pick: str = "best", to: str | Path = "out", max_params: int | None = None
) -> Path:
    """Write a candidate of a search as a PEFT adapter: weights, `adapter_config.json`, `hybrid.json`, a model card.

    `pick` is "best" (the best score), "knee" or a candidate's key; `max_params` leaves out what is larger. Weights that
    were not kept are trained again with the search's seed. Returns the folder.
    """
    from autopeft.exporting import write_adapter, write_card, write_record
    from autopeft.session import Session

    result = run if isinstance(run, SearchResult) else SearchResult.open(run)
    chosen, to = result.front.pick(pick, max_params), Path(to)
    session = Session(result.experiment)
    _check(result, session)
    weights, metrics = _trained(session, RunFolder(result.run_dir), chosen)
    try:
        peft_type = write_adapter(session.source, chosen.candidate, weights, session.data.num_labels, to)
        record = _record(result, session, chosen, metrics, peft_type)
        write_record(to, record)
        write_card(to, record)
    except OSError as error:
        raise AutopeftError(f"{to}: cannot be written ({error.strerror or error})") from error
    return to


def _check(result: SearchResult, session: Session) -> None:
    """`AutopeftError` when data, model or training are not those of the search: `experiment.yaml` may be edited."""
    from autopeft.searching.study import Study

    now = {"fingerprint": session.data.fingerprint, **session.settings}
    refuse_another(result.run_dir, Study.read_header(result.run_dir), now, "export from it then")


def _trained(session: Session, run: RunFolder, chosen: Evaluation) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The weights, kept or trained again, and the metrics of these very weights."""
    from autopeft.engine.report import score_on_test, train_again
    from autopeft.engine.worker import load_weights

    metrics = dict(chosen.metrics)
    folder = run.weights
    spec = session.worker_spec(folder, run.setup())
    if load_weights(folder, chosen.key) is None:
        print(f"the weights of {chosen.key} were not kept: training it again", file=sys.stderr)
        metrics |= train_again(spec, session.tokens, chosen.candidate).metrics
        metrics |= score_on_test(spec, session.tokens, [chosen.candidate])[0]
    elif f"test_{session.data.metrics[0]}" not in metrics:
        metrics |= score_on_test(spec, session.tokens, [chosen.candidate])[0]
    return load_weights(folder, chosen.key) or {}, metrics


def _record(
    result: SearchResult, session: Session, chosen: Evaluation, metrics: dict[str, float], peft_type: str
) -> dict[str, Any]:
    resolved = result.experiment.resolved()
    return {
        "key": chosen.key,
        "peft_type": peft_type,
        "hybrid": chosen.candidate.hybrid.to_json(),
        "training": dict(chosen.candidate.training),
        "seed": result.experiment.training.seed,
        "metrics": metrics,
        "model": {
            "name": session.source.name,
            "location": session.source.location,
            "files": session.model_files,
        },
        "trust_remote_code": result.experiment.trust_remote_code,
        "num_labels": session.data.num_labels,
        "labels": list(session.data.label_names),
        "task": resolved["task"],
        "splits": session.data.note,
        "remarks": list(session.remarks),
        "data": session.data.fingerprint,
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
