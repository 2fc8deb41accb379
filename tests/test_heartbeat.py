"""What `compare` and `train` say while they run: soon, and never silent for long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from io import StringIO
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from autopeft.candidate import Candidate, Job, Origin
from autopeft.cli.heavy import loading
from autopeft.comparing import progress as comparing
from autopeft.comparing.contenders import Contender
from autopeft.comparing.progress import Left
from autopeft.comparing.state import Training
from autopeft.doing import doing
from autopeft.following import progress as following
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.watching import speaker
from autopeft.watching.telling import Teller

HYBRID = Hybrid.uniform(2, LoRA(1))


class Clock:
    """A time that tests set, and the tellers that would look at it twice a second."""

    def __init__(self) -> None:
        self.now, self.tellers = 100.0, list[Teller]()

    def passes(self, seconds: float) -> None:
        self.now += seconds
        for teller in self.tellers:
            teller.beat()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.now)

    def teller(say: Callable[[str], None], otherwise: Callable[[], str], beats: bool) -> Teller:
        assert beats, "there is no terminal here"
        clock.tellers.append(Teller(say, otherwise, beats=False))
        return clock.tellers[-1]

    monkeypatch.setattr(speaker, "Teller", teller)
    yield clock
    for each in clock.tellers:
        each.end()


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=200)


def said(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def row(method: str, score: float, status: str = "done") -> dict[str, Any]:
    scores = {"test_accuracy": score, "test_accuracy_sd": None, "trainable_params": 10, "learning_rate": 1e-3}
    return {"method": method, "status": status, "reason": None if status == "done" else "no [room]", **scores}


def tuned(rate: float, score: float) -> Training:
    return Training(learning_rate=rate, seed=0, validation={"accuracy": score})


def test_a_comparison_says_what_is_done_what_is_left_and_the_best(clock: Clock, console: Console) -> None:
    lines = comparing.Lines(console)
    lines.planned({"lora": 60.0, "full": 180.0}, 3, [row("bitfit", 0.5)], "accuracy")
    lines.begun(Contender("lora", "reparameterised", 1e-3, HYBRID), 1, 2)
    with doing("epochs of a training", 3, aside=True) as stage:
        clock.passes(2)
        stage.step()
        clock.passes(14)
    lines.trained([tuned(1e-3, 0.8)], "accuracy")
    with doing("measuring what lora costs"):
        clock.passes(2)
        clock.passes(15)
    lines.finished(row("lora", 0.75), "accuracy")
    lines.begun(Contender("full", "full", 1e-3), 2, 2)
    clock.passes(16)
    lines.finished(row("full", 0.0, "failed"), "accuracy")
    lines.close()
    best, better = "best test accuracy 0.5000 (bitfit)", "best test accuracy 0.7500 (lora)"
    assert said(console) == [
        "expected: 2 methods, 3 trainings each, about 4.0 min",
        f"lora (1/2): tuning its rate; {best}; about 4.0 min left",
        # An epoch has no line of its own.
        f"epochs of a training, 1 of 3, 16 s so far; lora (1/2): tuning its rate; {best}; about 3.7 min left",
        "lora (1/2): rate 0.001, seed 0: validation accuracy 0.8000",
        "measuring what lora costs ...",
        "measuring what lora costs, 17 s so far; lora (1/2): rate 0.001, seed 0: validation accuracy 0.8000; "
        f"{best}; about 2.6 min left",
        "measuring what lora costs: 17 s",
        # It took 33 seconds where 60 were expected.
        f"lora test accuracy 0.7500 with 10 parameters, rate 0.001  {better}; about 1.7 min left",
        f"full (2/2): tuning its rate; {better}; about 1.7 min left",
        f"full (2/2): tuning its rate; {better}; about 83 s left",
        f"full failed: no [room]  {better}",
    ]


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_what_is_left_of_a_comparison_is_reckoned_from_what_has_ended(slower: float) -> None:
    now = [0.0]
    left = Left({"a": 10.0, "b": 40.0, "c": 10.0}, 4, lambda: now[0])
    assert left.seconds == 60
    left.begun("a")
    for done in range(4):
        now[0] += slower * 2.5
        left.trained(1)
        assert left.seconds == pytest.approx(slower * (60 - 2.5 * (done + 1)))
    left.finished()
    left.begun("b")
    now[0] += slower * 10
    left.trained(1)
    assert left.seconds == pytest.approx(slower * 40)
    left.finished()
    left.begun("c")
    left.finished()
    assert left.seconds == 0


def test_a_recipe_says_what_is_done_what_is_left_and_the_best(clock: Clock, console: Console) -> None:
    lines = following.Lines(console)
    lines.planned(2, 40.0)
    for seed, score in ((0, 0.5), (1, 0.25)):
        healing = Origin("parent", "start")
        for job in (Job(Candidate(HYBRID), seed, 2), Job(Candidate(HYBRID), seed, 1, healing)):
            lines.begun(job, 1_000, 15.0 if job.origin is None else 5.0)
            for epoch in range(1, (job.epochs or 0) + 1):
                clock.passes(16)
                lines.epoch(job, {"epoch": epoch, "train_loss": 1.0, "accuracy": score, "loss": 2.0})
        lines.followed(seed, {"accuracy": score, "loss": 2.0})
    clock.passes(16)
    lines.close()
    texts = said(console)
    assert texts[:3] == [
        "seed 0: training 1,000 parameters, 2 epochs",
        "seed 0: training 1,000 parameters; 0 of 2 seeds are done",
        "  epoch 1/2: loss 1.0000, validation accuracy 0.5000",
    ]
    # A training is three times the work of a healing: 7.5 in 16 seconds, so 32.5 take 69, of which 16 have passed.
    assert texts[3] == (
        "seed 0: epoch 1/2: loss 1.0000, validation accuracy 0.5000; 0 of 2 seeds are done; about 53 s left"
    )
    assert "seed 0: cut, healing 1,000 parameters, 1 epoch" in texts
    assert (
        "seed 1: training 1,000 parameters; 1 of 2 seeds are done; best accuracy 0.5000 (seed 0); about 32 s left"
        in texts
    )
    assert texts[-1] == "best accuracy 0.5000 (seed 0)"


def test_what_is_loaded_is_said_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, known in ((False, False), (True, False), (False, True)):
        if known:
            monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
        else:
            monkeypatch.delitem(sys.modules, "torch", raising=False)
        with loading(quiet):
            said_first = capsys.readouterr().err
        assert said_first == ("" if quiet or known else "loading torch and transformers ...\n")
        # With its time where it was spoken of.
        assert capsys.readouterr().err.startswith("loading torch") != (quiet or known)


def test_nothing_is_said_when_quiet(console: Console) -> None:
    for silent in (comparing.progress_for(True, console), following.progress_for(True, console)):
        silent.said("a remark")
        silent.close()
    assert said(console) == []


def test_a_terminal_shows_what_is_done_just_now() -> None:
    terminal = Console(file=StringIO(), width=80, force_terminal=True, color_system=None)
    lines = comparing.Lines(terminal)
    lines.planned({"lora": 60.0}, 3, [], "accuracy")
    lines.begun(Contender("lora", "reparameterised", 1e-3, HYBRID), 1, 1)
    with doing("epochs of a training", 3, aside=True):
        lines._speaker._live.refresh()  # type: ignore[union-attr]
    lines.close()
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "lora (1/1): tuning its rate; about 60 s left" in text
    assert "epochs of a training, 0 of 3 (0 s)" in text
