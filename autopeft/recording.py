"""What stands between a search and who watches it from outside: its record, and requests that it sees to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.candidate import Candidate, Evaluation
from autopeft.config import parse
from autopeft.engine.company import Company, check_outputs
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.progress import Progress, board_of
from autopeft.session import Session
from autopeft.space_spec import Training
from autopeft.watching.clock import Outlook
from autopeft.watching.desk import Desk
from autopeft.watching.picture import Terms
from autopeft.watching.recorder import Recorder

if TYPE_CHECKING:
    from autopeft.engine.setup import Setup
    from autopeft.searching.study import Proposal


@contextmanager
def recorded(run: Path, experiment: Experiment, progress: Progress) -> Iterator[tuple[Progress, Recorder]]:
    """A progress that is shown and written into the run folder; how it ended is written at the end."""
    recorder = Recorder(run, board_of(experiment))
    ended = "failed"
    try:
        yield Several(progress, recorder), recorder
        ended = "ended"
    except KeyboardInterrupt:
        ended = "interrupted"
        raise
    finally:
        recorder.end(ended)


def desk_of(session: Session, run: Path, recorder: Recorder) -> Desk:
    """Requests are checked against the session, and answered in the record."""
    return Desk(run, lambda candidate: check_candidate(session, candidate), recorder.answered)


def terms_of(session: Session) -> Terms:
    """What is searched, as far as a picture needs it."""
    experiment = session.experiment
    return Terms(
        experiment.name,
        experiment.trials,
        experiment.training.epochs,
        session.objectives,
        session.budget.limits,
        session.space.to_json().get("training", {}),
    )


def check_candidate(session: Session, candidate: Candidate) -> None:
    """`AutopeftError` for what the search cannot train: another model's hybrid, one over the budget, unknown rates."""
    hybrid, shape = candidate.hybrid, session.shape
    hybrid.check(shape)
    hybrid.check_room(shape)
    parse(Training, candidate.training, "candidate: training")
    check_outputs(hybrid.methods(), session.data.readout)
    Company.of(hybrid).epochs(session.experiment.training.epochs)
    session.check_positions(hybrid.input_tokens, "candidate")
    if not session.serving.takes(hybrid):
        raise AutopeftError("candidate: cannot be served as the search asks (servable); leave out what cannot")
    for name, more in session.budget.excess(hybrid, shape).items():
        limit = session.budget.limits[name]
        raise AutopeftError(f"candidate: {name} is {limit + more:,}, and the budget allows {limit:,}; make it smaller")


class Several(Progress):
    """Passes all on to several."""

    def __init__(self, *inner: Progress) -> None:
        self._inner = inner

    def begun(self, terms: Terms) -> None:
        """To each."""
        for one in self._inner:
            one.begun(terms)

    def resumed(self, finished: Sequence[Evaluation]) -> None:
        """To each."""
        for one in self._inner:
            one.resumed(finished)

    def remarked(self, remarks: Sequence[str]) -> None:
        """To each."""
        for one in self._inner:
            one.remarked(remarks)

    def measured(self, setup: Setup) -> None:
        """To each."""
        for one in self._inner:
            one.measured(setup)

    def expecting(self, outlook: Callable[[], Outlook]) -> None:
        """To each."""
        for one in self._inner:
            one.expecting(outlook)

    def confirming(self, what: str, done: int, total: int, seconds: float | None) -> None:
        """To each."""
        for one in self._inner:
            one.confirming(what, done, total, seconds)

    def testing(self) -> None:
        """To each."""
        for one in self._inner:
            one.testing()

    def started(self, proposal: Proposal) -> None:
        """To each."""
        for one in self._inner:
            one.started(proposal)

    def epoch(self, proposal: Proposal, metrics: Mapping[str, float]) -> None:
        """To each."""
        for one in self._inner:
            one.epoch(proposal, metrics)

    def finished(self, evaluation: Evaluation) -> None:
        """To each."""
        for one in self._inner:
            one.finished(evaluation)
