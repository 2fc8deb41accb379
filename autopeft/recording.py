"""What stands between a search and who watches it from outside: its record, and requests that it sees to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopeft.candidate import Candidate
from autopeft.config import parse
from autopeft.engine.company import Company, check_outputs
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.session import Session
from autopeft.training_spec import Training
from autopeft.watching.board import Board
from autopeft.watching.desk import Desk
from autopeft.watching.picture import Terms
from autopeft.watching.recorder import Recorder


def board_of(experiment: Experiment) -> Board:
    """A board for a search that begins now."""
    parallel, epochs = experiment.runner.parallel, experiment.training.epochs
    return Board(experiment.trials, parallel, epochs, experiment.time_limit)


@contextmanager
def recorded(run: Path, board: Board) -> Iterator[Recorder]:
    """Inside, what the board holds is written into the run folder; how it ended is written at the end."""
    recorder = Recorder(run, board)
    ended = "failed"
    try:
        yield recorder
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
        session.space.ranges,
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
