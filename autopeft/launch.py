"""Launch a search, or go on with one: the study is the state, everything written beside it is a view."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopeft.begin import begin_measuring, going_on, open_study, search_info, setup_of, tracking_ended, upgraded
from autopeft.candidate import UNITS, Evaluation
from autopeft.confirming import confirm, front_of, needed_by, seeds_kept, sources_of
from autopeft.doing import doing
from autopeft.experiment import Experiment, needing
from autopeft.fingerprint import model_bytes
from autopeft.phases import outlook_of
from autopeft.plugins import use_plugins
from autopeft.progress import Progress
from autopeft.recording import board_of, desk_of, recorded, terms_of
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.scoring import score_on_test
from autopeft.searching.confirming.records import keep_end
from autopeft.searching.confirming.verdict import reported
from autopeft.searching.front import ParetoFront
from autopeft.searching.highlights import Highlights, figures, highlights
from autopeft.searching.loop import Listener, SearchLoop
from autopeft.searching.sources import Source
from autopeft.session import Session
from autopeft.task_facts import TaskFacts
from autopeft.tracking import Status, Tracker, sizes_over
from autopeft.wording import in_bytes

if TYPE_CHECKING:
    from autopeft.engine.setup import Setup
    from autopeft.searching.study import Proposal, Study
    from autopeft.watching.desk import Desk

#: Where run folders go that are not named.
RUNS = Path("runs")
#: Bytes of a model from which on it takes a while to read them.
_LARGE = 8 * 2**30
#: Seconds between two writings of the views. Candidates may end faster than that, and a view is of all of them.
_PAUSE = 1.0
#: Seconds of training from which on the 5 to 20 seconds of explaining a search are not noticed at its end.
_WORTH_EXPLAINING = 600.0


def search(
    experiment: str | Path | None = None,
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    trust_remote_code: bool = False,
    plugins: Sequence[str | Path] = (),
    **fields: Any,
) -> SearchResult:
    """Search, and return the Pareto front with what belongs to it.

    `experiment` is a shipped name or a YAML file; `fields` are an experiment's fields and replace those of the file, or
    stand alone: `autopeft.search(model="minilm", task="docstrings", budget={"trainable_params": "0.5%"}, trials=40)`.
    `controls`, `descent` and `confirm` are on if they are not "none" (see `docs/fronts.md`).
    `out` is the run folder (default `runs/<name>`). The same call with the same folder resumes. `AutopeftError` for
    whatever can be known to be wrong, before anything is trained. `trust_remote_code` has the model's own Python run:
    it is the caller's word, and a file that says it needs that is refused without. So are `plugins`, folders with
    plug-ins (see `autopeft.use_plugins`).
    """
    from autopeft.progress import progress_for

    use_plugins(*plugins)
    if experiment is None:
        loaded = Experiment.of({"name": "search", **fields}, "search")
    else:
        loaded = Experiment.load(experiment, fields)
    loaded = needing(loaded, trust_remote_code)
    out = Path(out) if out else RUNS / loaded.name
    return launch(loaded, out, progress_for(loaded, quiet), trust_remote_code)


def launch(experiment: Experiment, out: Path, progress: Progress, trust_remote_code: bool = False) -> SearchResult:
    """Run an experiment to its end in a run folder; an interrupt leaves a folder that can be resumed, and is raised."""
    with closing(progress):
        experiment.runner.check()
        folder = RunFolder(out.absolute())
        experiment = going_on(experiment, folder)
        progress.on(board_of(experiment))
        with doing("reading the model and the data"):
            session = Session(experiment, trust_remote_code)
        with folder.locked(), ThreadPoolExecutor(2) as background:
            if (size := model_bytes(session.source.location)) > _LARGE:
                progress.remarked([f"the model's {in_bytes(size)} are read once, to know it again"])
            study = open_study(session, folder)
            # A new MLflow database takes seconds to make; the texts are tokenised meanwhile.
            opening = background.submit(experiment.tracking.open, search_info(session, folder, study))
            with tracking_ended(opening) as begun, recorded(folder.path, progress.board) as recorder:
                progress.begun(terms_of(session))
                progress.resumed(study.evaluations())
                progress.remarked([*session.remarks, *upgraded(study)])
                TaskFacts.of(session).keep(folder.path)
                measuring = begin_measuring(session, folder, study, background)
                with experiment.runner.session():
                    if opening.done():
                        opening.result()
                    setup = setup_of(session, folder, study, measuring)
                    progress.measured(setup)
                    progress.expecting(lambda: outlook_of(session, setup))
                    sources = sources_of(session, study, folder)
                    views = Views(session, folder, study, opening.result(), needed_by(session, study, sources))
                    begun.set()
                    desk = desk_of(session, folder.path, recorder)
                    _run(session, study, setup, views, progress, sources, desk)
    return SearchResult(folder)


def _run(
    session: Session,
    study: Study,
    setup: Setup,
    views: Views,
    progress: Progress,
    sources: Sequence[Source],
    desk: Desk,
) -> None:
    """Search, and measure the front on test; the views are brought to their end whatever happens."""
    experiment = session.experiment
    status: Status = "FAILED"
    listeners: list[Listener] = [progress, views]
    try:
        spec = session.worker_spec(views.folder.weights, setup)
        ends = experiment.trials, experiment.time_limit, experiment.stopping, experiment.training.epochs
        loop = SearchLoop(study, session.costs, listeners, *ends, sources, desk)
        keep_end(study, False)
        experiment.runner.run_through(spec, session.tokens, loop, setup.pack)
        if not loop.is_over:
            # A runner that ends quietly at an interrupt.
            raise KeyboardInterrupt
        desk.close(study.evaluations())
        confirm(session, study, spec, setup.pack, progress)
        progress.testing()
        score_on_test(session, study, spec)
        views.needed_later = lambda: loop.needed
        keep_end(study, True)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with doing("writing tables and plots"):
            views.finish(status)


class Views(Listener):
    """Keeps run folder and tracker in step with the study: a moment behind it, and level with it at the end."""

    def __init__(
        self,
        session: Session,
        folder: RunFolder,
        study: Study,
        tracker: Tracker,
        needed: Callable[[], set[str]] = set,
    ) -> None:
        self._session, self.folder, self._study, self._tracker = session, folder, study, tracker
        self._sizes = sizes_over(session.space.methods.values())
        self._dropped: set[str] = set()
        self._behind, self._next = False, 0.0
        #: Keys of candidates off the front whose weights are still asked for.
        self.needed = needed
        #: The same once the search has ended: what one with more trials would go on from.
        self.needed_later: Callable[[], set[str]] = set
        if study.finished:
            self._update()

    def front(self, evaluations: Sequence[Evaluation]) -> ParetoFront:
        """The front of these evaluations."""
        return front_of(self._session, self._study, evaluations)

    def started(self, proposal: Proposal) -> None:
        """An occasion to catch up."""
        self._catch_up()

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """An occasion to catch up."""
        self._catch_up()

    def finished(self, evaluation: Evaluation) -> None:
        """There is something new."""
        self._behind = True
        self._catch_up()

    def finish(self, status: Status) -> None:
        """The last views, with plots, hypervolume and summary; the tracker ends even when they can't be written."""
        evaluations = self._study.evaluations()
        if not evaluations:
            self._tracker.finish([], [], [], [], {}, status)
            return
        front = self.front(evaluations)
        files: list[Path] = []
        seen = highlights(front, self.folder.path)
        try:
            self._write(evaluations, front, seen)
            if status == "FINISHED":
                self._tidy(evaluations, front)
            files += [self.folder.front_file, self.folder.trials_file, self.folder.setup_file]
            files += self.folder.write_plots(front)
            if status == "FINISHED":
                files += [*_explained(self._session, self.folder, front), *_reported(self.folder)]
        except BaseException as error:
            if status == "FINISHED":
                status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            raise
        finally:
            hypervolume, keys = front.hypervolume_curve(relative=True), [e.key for e in front.points]
            summary = self._summary(evaluations, front)
            self._tracker.finish(evaluations, keys, files, hypervolume, summary, status, seen)

    def _tidy(self, evaluations: Sequence[Evaluation], front: ParetoFront) -> None:
        """Weights of the front stay, of all its seeds, what they began at, and what is still asked for."""
        name, needed = self._session.experiment.training.weights_name, self.needed_later()
        numbers = {e.number for e in reported(front)}
        kept = [e for e in evaluations if e.key in needed or e.number in numbers]
        names = {name(e.job) for e in kept} | {f"{name(e.job)}{UNITS}" for e in kept if e.key in needed}
        names |= {e.origin.start for e in kept if e.origin is not None}
        self.folder.keep_weights(names | seeds_kept(self._session, self._study, front))

    def _summary(self, evaluations: Sequence[Evaluation], front: ParetoFront) -> dict[str, float]:
        return {
            **figures(front),
            **self._study.widened(),
            "training_samples": sum(e.fidelity for e in evaluations) * len(self._session.tokens.train),
            "share_of_optimal_flops": self._session.cost_model.share(
                [e.candidate.hybrid for e in evaluations],
                self._session.experiment.runner.parallel,
                [e.fidelity for e in evaluations],
            ),
        }

    def _catch_up(self) -> None:
        if self._behind and time.monotonic() >= self._next:
            self._update()

    def _update(self) -> None:
        evaluations = self._study.evaluations()
        front = self.front(evaluations)
        self._write(evaluations, front, highlights(front, self.folder.path))

    def _write(self, evaluations: Sequence[Evaluation], front: ParetoFront, seen: Highlights) -> None:
        keys = {e.key for e in front.points}
        self.folder.write_views(front, evaluations)
        # What left the front does not come back to it, and what is cut or asked for no more neither.
        training, needed = self._session.experiment.training, {e.key for e in reported(front)} | self.needed()
        off_front = {training.weights_name(e.job) for e in evaluations if e.key not in needed}
        self.folder.drop_weights(off_front - self._dropped)
        self._dropped |= off_front
        self._tracker.sync(evaluations, self._sizes, keys, seen)
        self._behind, self._next = False, time.monotonic() + _PAUSE


def _explained(session: Session, folder: RunFolder, front: ParetoFront) -> list[Path]:
    """The files of what the search has learned; none where that says little, or takes long beside the search."""
    from autopeft.searching.explain import ENOUGH, explain

    ended = [e for e in front.evaluations if e.status == "done"]
    if len(ended) < ENOUGH or sum(e.seconds for e in front.evaluations) < _WORTH_EXPLAINING:
        return []

    def write() -> list[Path]:
        explanation = explain(front, session.space, session.budget, session.experiment.training.epochs)
        return folder.write_explanation(explanation)

    return _if_it_can_be(write, "what was learned", "autopeft explain")


def _reported(folder: RunFolder) -> list[Path]:
    """All of it on one page, for who browses; only what is explained already, as the rest takes long."""
    return _if_it_can_be(lambda: [SearchResult(folder).report(explain=False)], "the report", "autopeft report")


def _if_it_can_be(write: Callable[[], list[Path]], what: str, verb: str) -> list[Path]:
    """The search is over, and its results stand: neither an error nor an impatient user may take its end away."""
    try:
        return write()
    except (Exception, KeyboardInterrupt) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())
        warnings.warn(f"{what} is not written ({reason}); '{verb}' tries again", stacklevel=2)
        return []
