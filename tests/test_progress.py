"""What a search says while it runs."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console

from autopeft.candidate import Candidate, Evaluation, Job
from autopeft.doing import doing
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.progress import Lines, in_line
from autopeft.searching.study import Proposal
from autopeft.watching.board import Board
from autopeft.watching.outlook import Outlook
from autopeft.watching.telling import Teller
from autopeft.wording import duration

CANDIDATE = Candidate(Hybrid.uniform(2, LoRA(1)))


def lines_to(console: Console, trials: int | None, epochs: int = 1, live: bool = False, sources: bool = False) -> Lines:
    lines = Lines(console, live, sources)
    lines.on(Board(trials, 1, epochs))
    return lines


def said(*evaluations: Evaluation, trials: int | None = 3) -> list[str]:
    console = Console(file=StringIO(), width=200)
    lines = lines_to(console, trials)
    for evaluation in evaluations:
        lines.started(Proposal(evaluation.number, Job(CANDIDATE), False))
        lines.epoch(Proposal(evaluation.number, Job(CANDIDATE), False), {"epoch": 1, "accuracy": 0.5})
        lines.finished(evaluation)
    lines.close()
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def done(number: int, **metrics: float) -> Evaluation:
    return Evaluation(CANDIDATE, "done", metrics, number=number, seconds=2.0)


def test_every_candidate_has_a_line_with_the_best_and_what_is_left() -> None:
    lines = said(done(0, accuracy=0.5, trainable_params=1234), done(1, accuracy=0.25, trainable_params=10))
    assert lines[0] == "1/3  #0 accuracy 0.5000 with 1,234 parameters  2 s  best 0.5000"
    assert lines[1] == "2/3  #1 accuracy 0.2500 with 10 parameters  2 s  best 0.5000"


def test_a_terminals_lines_break_between_words_and_leave_to_the_view_what_it_shows() -> None:
    console = Console(file=StringIO(), width=80, force_terminal=True, color_system=None)
    lines = lines_to(console, 3, live=True)
    lines.remarked(["of many words " * 12 + "the end"])
    lines.finished(done(0, accuracy=0.5, trainable_params=1234))
    lines.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    note = text[text.index("note:") : text.index("the end")].split()
    assert set(note) == {"note:", "of", "many", "words"}
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 80
    (line,) = [line.strip() for line in re.split(r"[\r\n]+", text) if line.startswith("1/3")]
    assert line == "1/3  #0 accuracy 0.5000 with 1,234 parameters  2 s"


def test_what_is_left_is_said_once_it_can_be_known() -> None:
    console = Console(file=StringIO(), width=200)
    lines = lines_to(console, 3)
    lines.expecting(lambda: Outlook({}, 10.0, lambda job, epochs: 10.0, alone=5.0))
    lines.started(Proposal(0, Job(CANDIDATE), False))
    lines.finished(replace(done(0, accuracy=0.5), curve=({"accuracy": 0.5},)))
    lines.close()
    first, last = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert first == "expected: about 30 s left, then at most 5 s more"
    # 2 seconds where 10 were expected: all that is left takes a fifth too.
    assert last.endswith("best 0.5000  about 4 s left, then at most 1 s more")


def test_what_is_stopped_early_says_when_and_is_counted() -> None:
    stopped = replace(done(1, accuracy=0.9, trainable_params=10), status="stopped", curve=({"epoch": 1},))
    lines = said(done(0, accuracy=0.5), stopped, done(2, accuracy=0.25))
    assert "accuracy 0.9000 with 10 parameters after 1 of 1 epochs, stopped  2 s  best 0.5000, 1 stopped" in lines[-2]
    assert "best 0.5000, 1 stopped" in lines[-1]
    assert "stopped" not in lines[0]


def test_what_was_finished_before_is_counted_and_its_best_stays() -> None:
    console = Console(file=StringIO(), width=200)
    lines = lines_to(console, 4)
    lines.resumed([done(0, accuracy=0.75), replace(done(1, accuracy=0.9), status="stopped")])
    lines.finished(done(3, accuracy=0.5))
    lines.finished(done(2, accuracy=0.25))
    text = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert text[0] == "going on after 2 finished candidates, best 0.7500"
    assert text[1].startswith("3/4  #3 ")
    assert text[2].endswith("best 0.7500, 1 stopped")


def test_lines_say_what_a_candidate_is_where_some_are_not_the_samplers() -> None:
    console = Console(file=StringIO(), width=200)
    lines = lines_to(console, 4, epochs=3, sources=True)
    roles = ["control lora 1, top half", "large hybrid", "healed from abc", ""]
    for number, role in enumerate(roles):
        job = Job(CANDIDATE, epochs=1 if "healed" in role else None, role=role)
        lines.started(Proposal(number, job, False))
        lines.epoch(Proposal(number, job, False), {"epoch": 1, "accuracy": 0.5})
    running = in_line(lines._running)
    assert running == (
        "control lora 1, top half (#0 epoch 2, accuracy 0.500); large hybrid (#1 epoch 2, accuracy 0.500); "
        "healed from abc (#2 ending, accuracy 0.500); sampler (#3 epoch 2, accuracy 0.500)"
    )
    for number, role in enumerate(roles):
        lines.finished(replace(done(number, accuracy=0.5), role=role))
    text = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    for number, (line, role) in enumerate(zip(text, roles, strict=True)):
        assert line.startswith(f"{number + 1}/4  #{number} {role or 'sampler'}: accuracy 0.5000")


def test_a_stage_is_said_while_it_lasts_and_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = [100.0]
    # One function for all that look at the time: a stage, and who speaks of it.
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    teller = Teller(said.append, lambda: "training #0", beats=False)
    try:
        with doing("tokenising 8 rows"):
            teller.beat()
            clock[0] += 2
            teller.beat()
            teller.beat()
            clock[0] += 20
            teller.beat()
        clock[0] += 20
        teller.beat()
        with doing("what takes no time"):
            pass
    finally:
        teller.end()
    with doing("what nobody hears of"):
        clock[0] += 20
    assert said == [
        "tokenising 8 rows ...",
        "tokenising 8 rows, 22 s so far; training #0",
        "tokenising 8 rows: 22 s",
        "training #0",
    ]


@pytest.mark.parametrize("live", [False, True])
def test_confirming_has_a_total_and_a_time_left(live: bool) -> None:
    console = Console(file=StringIO(), width=200)
    lines = lines_to(console, 4, epochs=3, live=live)
    lines.confirming("confirmations", 3, 12, 120.0)
    if live:
        assert lines.board.now().confirmed == "3/12 confirmations, about 2.0 min left"
    lines.confirming("confirmations", 12, 12, 0.0)
    lines.close()
    text = [line for line in console.file.getvalue().splitlines() if "\x1b" not in line]  # type: ignore[attr-defined]
    assert [line for line in text if line.endswith(("left", "ions"))] == (
        [] if live else ["3/12 confirmations, about 2.0 min left"]
    ) + ["12/12 confirmations"]


def test_less_is_better_for_errors() -> None:
    assert "best 0.1000" in said(done(0, mse=0.1), done(1, mse=0.9))[-1]


def test_a_failure_with_brackets_is_shown_as_it_is() -> None:
    failed = Evaluation(CANDIDATE, "failed", {}, number=0, error="OSError: [/tmp/x] is [bold]full[/]")
    assert "failed: OSError: [/tmp/x] is [bold]full[/]" in said(failed)[-1]


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (120, "2.0 min"), (7200, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_that_a_confirmation_needs_grows_less_while_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    lines = lines_to(Console(file=StringIO(), width=200), 3)
    monkeypatch.setattr("autopeft.watching.board.time", SimpleNamespace(monotonic=lambda: clock[0], time=lambda: 0.0))
    lines.confirming("confirmations", 0, 2, 60.0)
    told = []
    for _ in range(3):
        told.append((lines.board.now().confirmed, lines._at_work()))
        clock[0] += 30
    lines.close()
    expected = ["0/2 confirmations, about 60 s left", "0/2 confirmations, about 30 s left", "0/2 confirmations"]
    assert told == [(line, line) for line in expected]


def test_the_board_knows_what_comes_after_the_confirmation() -> None:
    lines = lines_to(Console(file=StringIO(), width=200), 3)
    lines.confirming("confirmations", 1, 2, 3.0)
    assert (lines.board.now().phase, lines._at_work()) == ("confirming", "1/2 confirmations, about 3 s left")
    lines.testing()
    assert (lines.board.now().phase, lines._at_work()) == ("measuring", "")
    lines.close()
