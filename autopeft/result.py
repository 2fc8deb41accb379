"""What a search found: read from its run folder, at any time, in any process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autopeft.budget import Budget
from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.export_folder import Trained, write_export
from autopeft.fingerprint import model_files
from autopeft.plugins import codes_of
from autopeft.recipe import Recipe
from autopeft.run_folder import RunFolder, write_whole
from autopeft.searching.confirming.records import baselines_in, has_ended
from autopeft.searching.confirming.verdict import judged, training_of
from autopeft.searching.front import ParetoFront
from autopeft.searching.identity import refuse_another
from autopeft.searching.lineage import recipe_of
from autopeft.searching.objective import Objective
from autopeft.space import SearchSpace
from autopeft.task_facts import TaskFacts

#: What to do with a run folder whose experiment was changed, for messages.
_OTHERWISE = "export from it then"
_AS_IT_WAS = "the search itself is as it was"

if TYPE_CHECKING:
    from autopeft.exporting import Format
    from autopeft.reporting import Searched
    from autopeft.searching.confirming.values import Spread
    from autopeft.searching.explanation import Explanation
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

    @property
    def finished(self) -> bool:
        """Whether the search has come to its end."""
        return has_ended(self.remembered, self.experiment.trials, len(self.evaluations))

    @property
    def signatures(self) -> dict[str, str]:
        """How metrics of written texts are computed, by their names on test; empty where none were measured."""
        facts = TaskFacts.kept(self.run_dir, None)
        known = facts.generation if facts else None
        return {f"test_{name}": text for name, text in known.signatures.items()} if known else {}

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
        model: str | None = None,
        trust_remote_code: bool = False,
    ) -> Path:
        """Write a candidate with its trained weights as a PEFT adapter; see `autopeft.export`."""
        trust = trust_remote_code
        return export(self, pick, to, max_params, format=format, seed=seed, model=model, trust_remote_code=trust)

    def on(self, model: str) -> Self:
        """The same result with the model in another place."""
        moved = type(self)(self._folder)
        moved.__dict__["experiment"] = self.experiment.model_copy(update={"model": str(model)})
        return moved

    def explain(self, *, trust_remote_code: bool = False) -> Explanation:
        """What the score depends on (layers, methods, training), and what the front is made of.

        Shares of variance by two methods, how far to believe each, `plot()` and `to_json()`. `AutopeftError` when too
        few candidates are finished. The model's own code runs only where it is needed and the caller trusts it.
        """
        from autopeft.searching.explain import explain

        budget = Budget(self.header["budget"], self.header["length"])
        return explain(self.front, self._space(trust_remote_code), budget, self.experiment.training.epochs)

    def advice(self, *, trust_remote_code: bool = False) -> list[str]:
        """What to change in a next search: bounds that the front sits at, limits that bind, what it does not need."""
        from autopeft.searching.advice import advice

        return list(advice(self.front, self._space(trust_remote_code)))

    def report(self, to: str | Path | None = None, *, markdown: bool = False, trust_remote_code: bool = False) -> Path:
        """Write all of it on one page that needs no network, and return the file: `report.html` in the run folder.

        `markdown` writes what a pull request can show (`report.md`). What `explain` has not said yet is worked out,
        where enough candidates are finished.
        """
        from autopeft.reporting import document_of, to_html, to_markdown

        name = Path(to) if to is not None else self.run_dir / ("report.md" if markdown else "report.html")
        document = document_of(self._searched(*self._explained(trust_remote_code)))
        write_whole(name, to_markdown(document) if markdown else to_html(document))
        return name

    def candidate(self, pick: str) -> dict[str, Any]:
        """One candidate whole, as plain data: `best`, `knee` or the beginning of a key, of any that was trained."""
        from autopeft.reporting import chosen, facts_of

        return facts_of(self._searched(), chosen(self.front, self.evaluations, pick))

    def _space(self, trust_remote_code: bool) -> SearchSpace:
        from autopeft.reporting.learning import space_of

        return space_of(self._folder, self.header, trust_remote_code)

    def _explained(self, trust_remote_code: bool) -> tuple[Explanation | None, str]:
        """What was learned, from the run folder where it is of now; else why it can't be said."""
        from autopeft.reporting.learning import explanation_in

        try:
            known = explanation_in(self._folder, len(self.evaluations))
            return known or self.explain(trust_remote_code=trust_remote_code), ""
        except AutopeftError as error:
            return None, str(error)

    def _searched(self, explanation: Explanation | None = None, unexplained: str = "") -> Searched:
        from autopeft.reporting import Searched

        return Searched(
            self._folder, self.experiment, self.front, self.evaluations, self.finished, self._stored,
            partial(_recipe, self), explanation, unexplained,
        )  # fmt: skip

    def __repr__(self) -> str:
        try:
            front, known = self.front, f"{len(self.evaluations)} candidates"
            said = f"{known}, {'finished' if self.finished else 'not finished'}; {front!r}"
        except AutopeftError as error:
            said = str(error)
        return f"SearchResult({str(self.run_dir)!r}: {said})"

    def _repr_html_(self) -> str:
        return self.front._repr_html_()


def export(
    run: SearchResult | str | Path,
    pick: str = "best",
    to: str | Path = "out",
    max_params: int | None = None,
    *,
    format: Format | None = None,
    seed: int | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write a candidate of a search as a PEFT adapter: weights, `adapter_config.json`, `hybrid.json`, a model card.

    `pick` is "best" (the best score), "knee" or a candidate's key; `max_params` leaves out what is larger. `format`:
    "lora" (stock PEFT LoRA), "lora-padded" (the same with one rank, for servers that scale each tensor by its own
    rank), "peft" (any tuner of stock PEFT), "merged" (the backbone with all in its own weights, an ordinary model of
    transformers), "autopeft", or None for a stock adapter where it can express the candidate. `model`: where the base
    model is now, if it was moved; its files must be the same.
    Of a candidate that was confirmed with several seeds, the weights of the median validation score, or those of
    `seed`. Weights that were not kept are trained again; only that, and test scores that are not known, needs the data.
    The model's own code runs only where the search needed it and the caller trusts it now. Returns the folder.
    """
    result = run if isinstance(run, SearchResult) else SearchResult.open(run)
    if model is not None:
        result = result.on(model)
    chosen, to = training_of(result.front, pick, max_params, seed, result.remembered), Path(to)
    # Now come torch and transformers, which takes many seconds: what is no candidate was refused before.
    from autopeft.exporting import UnfitWeights, check_free, format_of

    # What cannot be is said before anything is trained again.
    format_of(format, chosen.candidate.hybrid, _quantised(result.experiment))
    check_free(to)
    trained = _kept(result, chosen, trust_remote_code)
    try:
        write_export(to, result.experiment, trained, chosen, format, _AS_IT_WAS)
    except UnfitWeights as error:
        print(f"{error}: training it again", file=sys.stderr)
        trained = _with_data(result, chosen, trust_remote_code, why=str(error), again=True)
        write_export(to, result.experiment, trained, chosen, format, _AS_IT_WAS)
    return to


def _quantised(experiment: Experiment) -> Any:
    return experiment.backbone.quantise if experiment.backbone else None


def _kept(result: SearchResult, chosen: Evaluation, trust_remote_code: bool) -> Trained:
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
    return Trained(
        source,
        files,
        facts,
        weights,
        dict(chosen.metrics),
        run.setup(),
        _recipe(result, chosen),
        _seeds(result, chosen),
    )


def _with_data(
    result: SearchResult, chosen: Evaluation, trust_remote_code: bool, why: str, again: bool = False
) -> Trained:
    """The same with the task's data, which `AutopeftError` says `why` they are needed when they can't be read."""
    from autopeft.engine.kept import load_weights
    from autopeft.engine.report import marked, score_on_test, train_again
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
        again = True
    if again or f"test_{session.data.metrics[0]}" not in metrics:
        for mark, task in session.tests.items():
            metrics |= marked(score_on_test(spec, task, [chosen.job])[0], mark)
    weights = load_weights(run.weights, name) or {}
    facts, recipe, seeds = TaskFacts.of(session), _recipe(result, chosen), _seeds(result, chosen)
    return Trained(session.source, session.model_files, facts, weights, metrics, run.setup(), recipe, seeds)


def _seeds(result: SearchResult, chosen: Evaluation) -> tuple[int, Mapping[str, Spread]] | None:
    """How many seeds the chosen one was trained with, and its scores over them; None of one alone."""
    known = result.front.verdict.confirmed.get(chosen.number)
    return (known.seeds, known.scores) if known and known.seeds > 1 else None


def _recipe(result: SearchResult, chosen: Evaluation) -> Recipe | None:
    """How the chosen one came about in its search."""
    header = result.header
    objectives = [Objective(**o) for o in header["objectives"]]
    return recipe_of(chosen, result.evaluations, objectives, result.experiment.training, int(header["length"]))


def evaluate(
    folder: str | Path,
    *,
    on: str | Path | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, float]:
    """Load an exported adapter on a fresh backbone, as its user would, and measure it on the test split.

    `on`: a file with the task's columns, to measure on instead; the metrics then bear no `test_`. `model`: where the
    base model is now, if it was moved. The folder is data:
    the model's own code runs only where the search needed it and the caller trusts it now.
    """
    from autopeft.exporting.evaluation import measure_export

    return measure_export(Path(folder), None if on is None else Path(on), trust_remote_code, model)
