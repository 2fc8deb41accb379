"""What a search found: read from its run folder, at any time, in any process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autopeft.budget import Budget
from autopeft.candidate import Candidate, Evaluation
from autopeft.doors import reason
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.fingerprint import model_files
from autopeft.models import ModelSource
from autopeft.plugins import codes_of
from autopeft.readouts import Readout
from autopeft.run_folder import RunFolder
from autopeft.searching.confirming.records import baselines_in
from autopeft.searching.confirming.verdict import judged, training_of
from autopeft.searching.front import ParetoFront
from autopeft.searching.identity import refuse_another
from autopeft.searching.objective import Objective
from autopeft.space import SearchSpace
from autopeft.task_facts import TaskFacts

#: What to do with a run folder whose experiment was changed, for messages.
_OTHERWISE = "export from it then"

if TYPE_CHECKING:
    import torch

    from autopeft.exporting import Format
    from autopeft.searching.explain import Explanation
    from autopeft.searching.stored import Stored


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
    def _stored(self) -> Stored:
        from autopeft.searching.stored import Stored

        return Stored.load(self.run_dir)

    @cached_property
    def header(self) -> dict[str, Any]:
        """What the search was begun with: model files, data, training, space, budget, objectives, sampler."""
        return self._stored.header()

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """All finished candidates, in the order in which they were proposed."""
        return self._stored.evaluations()

    @cached_property
    def front(self) -> ParetoFront:
        """The Pareto front of the validation scores and the costs; over seeds, where the search was confirmed."""
        objectives = [Objective(**o) for o in self.header["objectives"]]
        seen = ParetoFront(self.evaluations, objectives, self.header["budget"])
        return judged(seen, self.remembered, baselines_in(self.remembered))

    def remembered(self, name: str) -> dict[str, Any] | None:
        """What the study keeps under a name beside its trials."""
        return self._stored.remembered(name)

    def export(
        self,
        pick: str = "best",
        to: str | Path = "out",
        max_params: int | None = None,
        *,
        format: Format | None = None,
        seed: int | None = None,
        trust_remote_code: bool = False,
    ) -> Path:
        """Write a candidate with its trained weights as a PEFT adapter; see `autopeft.export`."""
        return export(self, pick, to, max_params, format=format, seed=seed, trust_remote_code=trust_remote_code)

    def explain(self, *, trust_remote_code: bool = False) -> Explanation:
        """What the score depends on (layers, methods, training), and what the front is made of.

        Shares of variance by two methods, how far to believe each, `plot()` and `to_json()`. `AutopeftError` when too
        few candidates are finished. The model's own code runs only where it is needed and the caller trusts it.
        """
        from autopeft.searching.explain import explain
        from autopeft.session import settings_of, source_of

        header, experiment = self.header, self.experiment
        source = source_of(experiment, trust_remote_code)
        # The model is taken for its shape only: its files are not compared.
        refuse_another(self.run_dir, header, settings_of(experiment, {}), "explain it then")
        shape = source.shape()
        space, budget = SearchSpace.load(header["space"], shape), Budget(header["budget"], header["length"])
        return explain(self.front, space, budget, experiment.training.epochs)

    def _repr_html_(self) -> str:
        return self.front.to_frame().to_html()


def export(
    run: SearchResult | str | Path,
    pick: str = "best",
    to: str | Path = "out",
    max_params: int | None = None,
    *,
    format: Format | None = None,
    seed: int | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write a candidate of a search as a PEFT adapter: weights, `adapter_config.json`, `hybrid.json`, a model card.

    `pick` is "best" (the best score), "knee" or a candidate's key; `max_params` leaves out what is larger. `format`:
    "lora" (stock PEFT LoRA), "lora-padded" (the same with one rank, for servers that scale each tensor by its own
    rank), "peft" (another tuner of stock PEFT), "autopeft", or None for a stock one where it can express the candidate.
    Of a candidate that was confirmed with several seeds, the weights of the median validation score, or those of
    `seed`. Weights that were not kept are trained again; only that, and test scores that are not known, needs the data.
    The model's own code runs only where the search needed it and the caller trusts it now. Returns the folder.
    """
    from autopeft.exporting import UnfitWeights, check_free, format_of, write_adapter, write_card, write_record

    result = run if isinstance(run, SearchResult) else SearchResult.open(run)
    chosen, to = training_of(result.front, pick, max_params, seed, result.remembered), Path(to)
    asked, format = format, format_of(format, chosen.candidate.hybrid, _quantised(result.experiment))
    check_free(to)
    trained = _kept(result, chosen, trust_remote_code)
    try:
        with _writing(to):
            peft_type = write_adapter(*trained.adapter(chosen), to, asked)
    except UnfitWeights as error:
        print(f"{error}: training it again", file=sys.stderr)
        trained = _with_data(result, chosen, trust_remote_code, why=str(error), again=True)
        with _writing(to):
            peft_type = write_adapter(*trained.adapter(chosen), to, asked)
    format = "autopeft" if peft_type == "AUTOPEFT" else format
    record = _record(result, trained, chosen, peft_type, format)
    with _writing(to):
        write_record(to, record)
        write_card(to, record, trained.source)
    return to


def _quantised(experiment: Experiment) -> Any:
    return experiment.backbone.quantise if experiment.backbone else None


@contextmanager
def _writing(to: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise AutopeftError(f"{to}: cannot be written ({reason(error)}); the search itself is as it was") from error


@dataclass(frozen=True)
class _Trained:
    """A candidate's weights, the metrics of these very weights, and what a card says of their model and task.

    `files` is the model's fingerprint.
    """

    source: ModelSource
    files: dict[str, str]
    facts: TaskFacts
    weights: dict[str, torch.Tensor]
    metrics: dict[str, float]

    def adapter(self, chosen: Evaluation) -> tuple[ModelSource, Candidate, dict[str, torch.Tensor], Readout]:
        """What `write_adapter` takes."""
        return self.source, chosen.candidate, self.weights, self.facts.readout


def _kept(result: SearchResult, chosen: Evaluation, trust_remote_code: bool) -> _Trained:
    """What the run folder has; what it lacks is trained and measured again, which needs the task's data."""
    from autopeft.engine.kept import load_weights
    from autopeft.session import settings_of, source_of

    run, header = RunFolder(result.run_dir), result.header
    name = result.experiment.training.weights_name(chosen.job)
    facts = TaskFacts.kept(run.path, header["fingerprint"])
    weights = load_weights(run.weights, name)
    why = ""
    if weights is None:
        there = (run.weights / f"{name}.safetensors").exists()
        why = f"the weights of {chosen.key} {'cannot be read' if there else 'were not kept'}"
    elif facts is None:
        why = f"{run.path} does not say enough of the task"
    elif f"test_{facts.metrics[0]}" not in chosen.metrics:
        why = f"{chosen.key} is not measured on test yet"
    if facts is None or weights is None or why:
        return _with_data(result, chosen, trust_remote_code, why)
    source = source_of(result.experiment, trust_remote_code)
    files = model_files(source.location)
    codes = codes_of(map(type, chosen.candidate.hybrid.methods()))
    refuse_another(run.path, header, settings_of(result.experiment, files) | {"plugins": codes}, _OTHERWISE)
    return _Trained(source, files, facts, weights, dict(chosen.metrics))


def _with_data(
    result: SearchResult, chosen: Evaluation, trust_remote_code: bool, why: str, again: bool = False
) -> _Trained:
    """The same with the task's data, which `AutopeftError` says `why` they are needed when they can't be read."""
    from autopeft.engine.kept import load_weights
    from autopeft.engine.report import score_on_test, train_again
    from autopeft.session import Session

    try:
        session = Session(result.experiment, trust_remote_code)
        now = {"fingerprint": session.data.fingerprint, **session.settings}
        refuse_another(result.run_dir, result.header, now, _OTHERWISE)
    except AutopeftError as error:
        raise AutopeftError(f"{error} ({why}, so the search's model and data are needed)") from error
    run, metrics = RunFolder(result.run_dir), dict(chosen.metrics)
    name = result.experiment.training.weights_name(chosen.job)
    spec = session.worker_spec(run.weights, run.setup())
    if again or load_weights(run.weights, name) is None:
        if not again:
            print(f"{why}: training it again", file=sys.stderr)
        metrics |= train_again(spec, session.tokens, chosen.job).metrics
        metrics |= score_on_test(spec, session.tokens, [chosen.job])[0]
    elif f"test_{session.data.metrics[0]}" not in metrics:
        metrics |= score_on_test(spec, session.tokens, [chosen.job])[0]
    weights = load_weights(run.weights, name) or {}
    return _Trained(session.source, session.model_files, TaskFacts.of(session), weights, metrics)


def _record(
    result: SearchResult, trained: _Trained, chosen: Evaluation, peft_type: str, format: Format
) -> dict[str, Any]:
    from autopeft.exporting import written

    resolved, facts, candidate = result.experiment.resolved(), trained.facts, chosen.candidate
    hybrid = written(format, candidate.hybrid)
    kind = {"readout": facts.kind} if facts.kind else {}
    return {
        "key": chosen.key,
        "peft_type": peft_type,
        "format": format,
        "hybrid": hybrid.to_json(),
        "written": Candidate(hybrid, candidate.training).key,
        "searched": None if hybrid == candidate.hybrid else candidate.hybrid.to_json(),
        "training": dict(chosen.candidate.training),
        "seed": chosen.seed,
        "metrics": trained.metrics,
        "model": {"name": trained.source.name, "location": trained.source.location, "files": trained.files},
        "trust_remote_code": trained.source.trust_remote_code,
        **({"quantise": trained.source.quantise} if trained.source.quantise else {}),
        "num_labels": facts.readout.outputs,
        "labels": list(facts.labels),
        "scores": list(facts.metrics),
        "positive": facts.positive,
        **kind,
        "task": resolved["task"],
        "splits": facts.splits,
        "remarks": list(facts.remarks),
        "data": facts.fingerprint,
        "settings": {**resolved["training"], "seed": chosen.seed},
    }


def evaluate(folder: str | Path, *, on: str | Path | None = None, trust_remote_code: bool = False) -> dict[str, float]:
    """Load an exported adapter on a fresh backbone, as its user would, and measure it on the test split.

    `on`: a file with the task's columns, to measure on instead; the metrics then bear no `test_`. The folder is data:
    the model's own code runs only where the search needed it and the caller trusts it now.
    """
    from autopeft.exporting.evaluation import measure_export

    return measure_export(Path(folder), None if on is None else Path(on), trust_remote_code)
