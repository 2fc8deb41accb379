"""What a search found: read from its run folder, at any time, in any process."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autopeft.budget import Budget
from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.export_folder import write_export
from autopeft.exported import Found
from autopeft.run_folder import RunFolder
from autopeft.searching.confirming.records import baselines_in, has_ended
from autopeft.searching.confirming.verdict import judged, training_of
from autopeft.searching.front import ParetoFront
from autopeft.searching.objective import Objective
from autopeft.space import SearchSpace
from autopeft.task_facts import TaskFacts

#: Of a folder that an export is not written into, for messages.
_AS_IT_WAS = "the search itself is as it was"

if TYPE_CHECKING:
    from autopeft.exporting import Format
    from autopeft.reporting import Searched
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
        pick: str | int = "best",
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

    def report(
        self,
        to: str | Path | None = None,
        *,
        markdown: bool = False,
        explain: bool = True,
        trust_remote_code: bool = False,
    ) -> Path:
        """Write all of it on one page that needs no network, and return the file: `report.html` in the run folder.

        `markdown` writes what a pull request can show (`report.md`). What `explain` has not said yet is worked out,
        where enough candidates are finished; with `explain=False` it is left out.
        """
        from autopeft.reporting import explained, write

        return write(self._searched(*explained(self, trust_remote_code, explain)), to, markdown)

    def candidate(self, pick: str | int) -> dict[str, Any]:
        """One candidate whole, as plain data: `best`, `knee`, a number or the beginning of a key, of all trained."""
        from autopeft.reporting import chosen, facts_of

        return facts_of(self._searched(), chosen(self.front, self.evaluations, pick))

    @property
    def _found(self) -> Found:
        return Found(self._folder, self.experiment, self.header, self.front, self.evaluations)

    def _space(self, trust_remote_code: bool) -> SearchSpace:
        from autopeft.reporting.learning import space_of

        return space_of(self._folder, self.header, trust_remote_code)

    def _searched(self, explanation: Explanation | None = None, unexplained: str = "") -> Searched:
        from autopeft.reporting import Searched

        return Searched(
            self._folder, self.experiment, self.front, self.evaluations, self.finished, self._stored,
            self._found.recipe, explanation, unexplained,
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
    pick: str | int = "best",
    to: str | Path = "out",
    max_params: int | None = None,
    *,
    format: Format | None = None,
    seed: int | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write a candidate of a search as a PEFT adapter: weights, `adapter_config.json`, `hybrid.json`, a model card.

    `pick` is "best" (the best score), "knee", a candidate's number or its key; `max_params` leaves out what is larger.
    `format`: "lora" (stock PEFT LoRA), "lora-padded" (the same with one rank, for servers that scale each tensor by its
    own rank), "gguf" ("lora" with an `adapter.gguf` beside it, for llama.cpp), "peft" (any tuner of stock PEFT),
    "merged" (the backbone with all in its own weights, an ordinary model of transformers), "autopeft", or None for a
    stock adapter where it can express the candidate. `model`: where the base model is now, if it was moved; its files
    must be the same. Of a candidate that was confirmed with several seeds, the weights of the median validation score,
    or those of `seed`. Weights that were not kept are trained again; only that, and test scores that are not known,
    needs the data. The model's own code runs only where it is needed and the caller trusts it now. Returns the folder.
    """
    result = run if isinstance(run, SearchResult) else SearchResult.open(run)
    if model is not None:
        result = result.on(model)
    chosen, to, found = training_of(result.front, pick, max_params, seed, result.remembered), Path(to), result._found
    # Now come torch and transformers, which takes many seconds: what is no candidate was refused before.
    from autopeft.exporting import UnfitWeights, check_free, format_of

    # What cannot be is said before anything is trained again.
    format_of(format, chosen.candidate.hybrid, _quantised(result.experiment))
    check_free(to)
    try:
        trained = found.trained(chosen, trust_remote_code)
        write_export(to, result.experiment, trained, chosen, format, _AS_IT_WAS)
    except UnfitWeights as error:
        print(f"{error}: training it again", file=sys.stderr)
        trained = found.with_data(chosen, trust_remote_code, why=str(error), again=True)
        write_export(to, result.experiment, trained, chosen, format, _AS_IT_WAS)
    return to


def _quantised(experiment: Experiment) -> Any:
    return experiment.backbone.quantise if experiment.backbone else None


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
