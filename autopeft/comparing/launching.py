"""Compare methods, or go on with a comparison: `comparison.json` is the state, everything beside it is a view."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from autopeft.comparing.arms import Arm, Bench, arm_of
from autopeft.comparing.choosing import RATES, choose, grid
from autopeft.comparing.contenders import Contender, contenders
from autopeft.comparing.progress import Progress, progress_for
from autopeft.comparing.result import Comparison
from autopeft.comparing.state import FILE, Entry, State, Store
from autopeft.comparing.tracked import Tracked
from autopeft.config import check_whole
from autopeft.doing import doing
from autopeft.doors import read_json
from autopeft.engine.settings import EARLIER
from autopeft.engine.setup import Setup
from autopeft.engine.worker import in_words
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment, as_begun, needing
from autopeft.phases import alone_seconds, seconds_for
from autopeft.run_folder import RunFolder
from autopeft.session import Session, middle, spec_of, typical_candidates

#: Where comparisons go that are not named, and how many seeds they have.
RUNS, SEEDS = Path("runs"), 3
_MOST_SEEDS, _MOST_RATES = 100, 20


def compare(
    experiment: str | Path | None = None,
    *,
    methods: str | Sequence[str] = "all",
    seeds: int = SEEDS,
    rates: int = RATES,
    out: str | Path | None = None,
    quiet: bool = False,
    trust_remote_code: bool = False,
    **fields: Any,
) -> Comparison:
    """Train methods side by side on an experiment's model and task, and return the table of them.

    `methods` are names (see `autopeft list methods`, `spaces` and `baselines`, and `head_only`), or "all": each method
    in its usual settings in every layer, each preset, each baseline. The learning rate of each is tuned on validation
    over a grid of `rates` rates around its usual one; then it is trained with `seeds` seeds and measured on test. The
    experiment's space, budget, sampler, trials and runner are not used. `out` is the folder (default
    `runs/<name>-compare`); the same call with the same folder goes on, and may ask for more methods or seeds. A method
    that fails is a row with its reason. With `training.method_rates` "usual" the grid of one method lies so that its
    weights still learn around its usual rate, and its head around LoRA's; presets that mix methods have grids around
    the middle of their spaces' rates, of which each method learns at its multiple. With `training.head_learning_rate`
    all rates of `head_only` are one training.
    `AutopeftError` for whatever can be known to be wrong before training.
    """
    if experiment is None:
        loaded = Experiment.of({"name": "comparison", "trials": 1, **fields}, "compare")
    else:
        loaded = Experiment.load(experiment, fields)
    loaded = needing(loaded, trust_remote_code)
    return launch(loaded, methods, seeds, rates, out, progress_for(quiet), trust_remote_code)


def launch(
    experiment: Experiment,
    methods: str | Sequence[str],
    seeds: int,
    rates: int,
    out: str | Path | None,
    progress: Progress,
    trust_remote_code: bool = False,
) -> Comparison:
    """Compare to the end; an interrupt leaves a folder that can be gone on with, and is raised."""
    check_whole(seeds, "seeds", 1, _MOST_SEEDS)
    check_whole(rates, "rates", 1, _MOST_RATES)
    folder = Path(out).absolute() if out else (RUNS / f"{experiment.name}-compare").absolute()
    with closing(progress):
        experiment = _as_begun(experiment, folder)
        with doing("reading the model and the data"):
            session = Session(experiment, trust_remote_code)
        wanted = contenders(session.shape, methods, experiment.training.method_rates)
        if (run := RunFolder(folder)).study_file.exists():
            raise AutopeftError(f"{folder}: is the folder of a search; give another one (out)")
        with run.locked():
            store = Store.open(folder, _terms(session, rates))
            store.save()
            run.write_experiment(experiment)
            for remark in (*session.data.remarks, *session.tokens.remarks):
                progress.said(remark)
            return _Comparing(session, store, wanted, seeds, rates, progress).run()


def _as_begun(experiment: Experiment, folder: Path) -> Experiment:
    """With the defaults of the comparison that the folder holds, where the experiment does not say otherwise."""
    with suppress(AutopeftError, AttributeError):
        if (folder / FILE).is_file():
            training = read_json(folder / FILE, "").get("terms", {}).get("training", {})
            return as_begun(experiment, {name: training.get(name, first) for name, first in EARLIER.items()})
    return experiment


def _terms(session: Session, rates: int) -> dict[str, Any]:
    """All that rows depend on, beside the method."""
    settings = session.settings
    names = ("model", "trust_remote_code", "backbone", "training")
    plugins = {"plugins": codes} if (codes := session.plugins_of_data) else {}
    return {**{n: settings[n] for n in names}, "data": session.data.fingerprint, "rates": rates, **plugins}


class _Comparing:
    """One run of the command."""

    def __init__(
        self, session: Session, store: Store, wanted: Sequence[Contender], seeds: int, rates: int, progress: Progress
    ) -> None:
        self.session, self.store, self.wanted, self.progress = session, store, wanted, progress
        self.metric, self.rates = session.data.metrics[0], rates
        first = session.experiment.training.seed
        self.seeds = [(first + i) % 2**32 for i in range(seeds)]
        self.weights = store.path.parent / "weights"

    def run(self) -> Comparison:
        """Every contender that is not finished, one after another; views after each."""
        entries = {c.name: self.store.entry(c.name, c.key) for c in self.wanted}
        left = [c for c in self.wanted if not entries[c.name].finished(self.seeds)]
        if len(left) < len(self.wanted):
            self.progress.said(f"going on: {len(self.wanted) - len(left)} of {len(self.wanted)} are finished")
        comparison = Comparison.of(self.session, self.store.path.parent, self.seeds, self.rates)
        with doing(f"opening {self.session.experiment.tracking.name}"):
            tracking = Tracked(self.session, comparison, self.store.state)
        with tracking as tracked:
            if left:
                bench = Bench(self.session, self._setup(), self.weights)
                self._planned(left, comparison, entries)
                for place, contender in enumerate(left, 1):
                    self.progress.begun(contender, place, len(left))
                    with self._kept():
                        self._one(contender, entries[contender.name], bench)
                    comparison.update([(c, entries[c.name]) for c in self.wanted if c not in left[place:]])
                    self.progress.finished(comparison.row(contender.name), self.metric)
                    tracked.sync()
            comparison.update([(c, entries[c.name]) for c in self.wanted])
            with doing("writing tables and plots"):
                comparison.draw()
                tracked.finish()
        return comparison

    def _setup(self) -> Setup:
        """How all are trained: measured at the beginning, and the same from then on."""
        from autopeft.engine.speed import measure

        state: State = self.store.state
        if state.setup is None:
            typical = middle(self.session, typical_candidates(self.session))
            with doing("measuring the engine"):
                state.setup = measure(spec_of(self.session, self.weights), self.session.tokens, typical, share=1)
            self.store.save()
        self.progress.measured(state.setup)
        return state.setup

    def _planned(self, left: Sequence[Contender], comparison: Comparison, entries: Mapping[str, Entry]) -> None:
        """Say how long what is left will take, by what its products take."""
        setup, session = self.store.state.setup, self.session
        assert setup is not None, "measured before"
        trainings = self.rates + len(self.seeds) - 1

        def each(contender: Contender) -> float:
            if contender.error:
                return 0.0
            hybrid = contender.hybrid
            return alone_seconds(session, setup) if hybrid is None else seconds_for(session, setup, hybrid)

        if len(left) < len(self.wanted):
            comparison.update([(c, entries[c.name]) for c in self.wanted if c not in left])
        expected = {c.name: trainings * each(c) for c in left}
        self.progress.planned(expected, trainings, comparison.rows, self.metric)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """The state is written whatever happens inside; weights of what is finished go."""
        try:
            yield
            # The folder may have been there, with more in it.
            for seed in self.seeds:
                shutil.rmtree(self.weights / str(seed), ignore_errors=True)
            with suppress(OSError):
                self.weights.rmdir()
        finally:
            self.store.save()

    def _one(self, contender: Contender, entry: Entry, bench: Bench) -> None:
        """Tune, test and measure; whatever goes wrong is the entry's error."""
        entry.forget_failures()
        try:
            if contender.error:
                raise AutopeftError(contender.error)
            arm = arm_of(contender, bench)
            self._tune(arm, entry)
            self._test(arm, entry)
        except AutopeftError as error:
            entry.error = str(error)
        except Exception as error:
            # A foreign model, an unforeseen method: the others go on.
            entry.error = in_words(error)

    def _tune(self, arm: Arm, entry: Entry) -> None:
        """All rates of the grid with the first seed; the best one on validation."""
        known = {t.learning_rate for t in entry.tuning}
        left = [rate for rate in grid(arm.contender.rate, self.rates) if rate not in known]
        while left:
            trained = arm.tune(left, self.seeds[0])
            entry.tuning += trained
            left = left[len(trained) :]
            self._recorded(trained)
        chosen = choose(self.metric, entry.tuning)
        if chosen is None:
            why = entry.tuning[0].error or f"{self.metric} is no number on validation"
            raise AutopeftError(f"no rate of its grid trains: {why}")
        entry.choose(chosen.learning_rate)

    def _test(self, arm: Arm, entry: Entry) -> None:
        """Train with each seed at the chosen rate; with the first one also what it costs."""
        rate = entry.learning_rate
        assert rate is not None, "chosen by tuning"
        for seed in entry.missing(self.seeds):
            tuned = next((t for t in entry.tuning if (t.learning_rate, t.seed) == (rate, seed)), None)
            training = arm.test(rate, seed, tuned)
            entry.trainings.append(training)
            # What tuning trained was shown then.
            self._recorded([] if tuned else [training])
            if not entry.costs and not training.error:
                entry.costs = self._costs(arm, rate, seed)
                self.store.save()
        trainings = entry.of_seeds(self.seeds)
        if not any(t.test for t in trainings):
            raise AutopeftError(f"trained at its rate {rate:g} it fails: {trainings[0].error}")
        if not entry.costs:
            entry.costs = self._costs(arm, rate, next(t.seed for t in trainings if t.test))

    def _costs(self, arm: Arm, rate: float, seed: int) -> dict[str, float | None]:
        with doing(f"measuring what {arm.contender.name} costs"):
            return arm.costs(rate, seed)

    def _recorded(self, trained: Sequence[Any]) -> None:
        self.store.save()
        self.progress.trained(trained, self.metric)
