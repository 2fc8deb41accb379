"""What an export of a candidate needs: kept in the run folder, or trained and measured again."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autopeft.candidate import Evaluation
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.export_folder import Trained
from autopeft.fingerprint import model_files
from autopeft.plugins import codes_of
from autopeft.recipe import Recipe
from autopeft.run_folder import RunFolder
from autopeft.searching.front import ParetoFront
from autopeft.searching.identity import refuse_another
from autopeft.searching.lineage import recipe_of
from autopeft.searching.objective import Objective
from autopeft.searching.tables import doubt
from autopeft.task_facts import TaskFacts

if TYPE_CHECKING:
    from autopeft.searching.confirming.values import Spread

#: What to do with a run folder whose experiment was changed, for messages.
_OTHERWISE = "export from it then"


@dataclass(frozen=True)
class Found:
    """What a search has found, and its folder."""

    folder: RunFolder
    experiment: Experiment
    header: Mapping[str, Any]
    front: ParetoFront
    evaluations: Sequence[Evaluation]

    def trained(self, chosen: Evaluation, trust_remote_code: bool) -> Trained:
        """What the run folder has; what it lacks is trained and measured again, which needs the task's data."""
        from autopeft.engine.kept import load_weights
        from autopeft.session import settings_of, source_of

        run, header = self.folder, self.header
        name = self.experiment.training.weights_name(chosen.job)
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
            return self.with_data(chosen, trust_remote_code, why)
        source = source_of(self.experiment, trust_remote_code)
        files = model_files(source.location)
        codes = codes_of(map(type, chosen.candidate.hybrid.methods()))
        refuse_another(run.path, header, settings_of(self.experiment, files) | {"plugins": codes}, _OTHERWISE)
        return Trained(
            source,
            files,
            self._doubted(facts, chosen),
            weights,
            dict(chosen.metrics),
            run.setup(),
            self.recipe(chosen),
            self._seeds(chosen),
        )

    def with_data(self, chosen: Evaluation, trust_remote_code: bool, why: str, again: bool = False) -> Trained:
        """The same with the task's data, which `AutopeftError` says `why` they are needed when they can't be read."""
        from autopeft.engine.kept import load_weights
        from autopeft.engine.report import marked, score_on_test, train_again
        from autopeft.session import Session

        try:
            session = Session(self.experiment, trust_remote_code)
            now = {"fingerprint": session.data.fingerprint, **session.settings}
            refuse_another(self.folder.path, self.header, now, _OTHERWISE)
        except AutopeftError as error:
            raise AutopeftError(f"{error} ({why}, so the search's model and data are needed)") from error
        run, metrics = self.folder, dict(chosen.metrics)
        name = self.experiment.training.weights_name(chosen.job)
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
        facts = self._doubted(TaskFacts.of(session), chosen)
        recipe, seeds = self.recipe(chosen), self._seeds(chosen)
        return Trained(session.source, session.model_files, facts, weights, metrics, run.setup(), recipe, seeds)

    def _doubted(self, facts: TaskFacts, chosen: Evaluation) -> TaskFacts:
        """With what to know of one that was not confirmed as others were: the card and the record say it."""
        said = doubt(self.front, chosen)
        return facts if said is None else facts.model_copy(update={"remarks": (*facts.remarks, said)})

    def _seeds(self, chosen: Evaluation) -> tuple[int, Mapping[str, Spread]] | None:
        """How many seeds the chosen one was trained with, and its scores over them; None of one alone."""
        known = self.front.verdict.confirmed.get(chosen.number)
        return (known.seeds, known.scores) if known and known.seeds > 1 else None

    def recipe(self, chosen: Evaluation) -> Recipe | None:
        """How the chosen one came about in its search."""
        objectives = [Objective(**o) for o in self.header["objectives"]]
        return recipe_of(chosen, self.evaluations, objectives, self.experiment.training, int(self.header["length"]))
