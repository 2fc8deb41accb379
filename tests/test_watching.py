"""A search as it is seen from outside: what it has found, and what may be asked of it."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
from rich.console import Console

from autopeft.candidate import Candidate, Evaluation, Job, Origin
from autopeft.dimensions import Continuous
from autopeft.errors import AutopeftError
from autopeft.hybrid import Hybrid
from autopeft.methods.lora import LoRA
from autopeft.searching.objective import Objective
from autopeft.watching.desk import Desk
from autopeft.watching.now import FILE, Answer, Machine, Now, Running
from autopeft.watching.picture import Picture, Terms
from autopeft.watching.requests import FOLDER, End, Enqueue, Stop, put, request_of, waiting
from autopeft.watching.text_plot import ASCII, plot
from autopeft.watching.view import render, status


def candidate(rank: int, rate: float = 1e-3) -> Candidate:
    return Candidate(Hybrid.uniform(2, LoRA(rank)), {"learning_rate": rate})


def ended(number: int, accuracy: float, params: int, rank: int = 1, rate: float = 1e-3) -> Evaluation:
    metrics = {"accuracy": accuracy, "trainable_params": params}
    return Evaluation(candidate(rank, rate), "done", metrics, number=number, seconds=1.0)


OBJECTIVES = (Objective.of("accuracy"), Objective.of("trainable_params"))
TERMS = Terms("mine", 20, 2, OBJECTIVES, {}, (Continuous("learning_rate", 1e-4, 1e-2, True),))
SEEN = [ended(0, 0.5, 100), ended(1, 0.8, 10_000), ended(2, 0.7, 400), ended(3, 0.6, 9_000)]


# --- the picture


def test_a_picture_has_the_front_with_best_and_knee() -> None:
    picture = Picture.of(TERMS, [*SEEN, Evaluation(candidate(1), "failed", {}, number=4, error="no [room]")])
    assert [p.number for p in picture.points if p.on_front] == [0, 1, 2]
    assert (picture.best and picture.best.number, picture.knee and picture.knee.number) == (1, 2)
    assert picture.counts == {"done": 4, "failed": 1}
    assert picture.failures == ("#4 no [room]",)
    assert picture.said == ()


def test_a_picture_has_the_means_over_seeds_that_a_study_knows() -> None:
    runs = [{"number": 1, "seed": 7, "status": "done", "metrics": {"accuracy": 0.6}, "seconds": 1.0, "error": None}]
    points = {p.number: p for p in Picture.of(TERMS, SEEN, {"confirmed pack 0": {"runs": runs}}.get).points}
    # Its other seed was 0.2 worse, and so much less is expected of the others.
    found = {number: (round(p.score, 4), p.unconfirmed) for number, p in points.items()}
    assert found == {0: (0.3, True), 1: (0.7, False), 2: (0.5, True), 3: (0.6, False)}
    assert not any(p.unconfirmed for p in Picture.of(TERMS, SEEN).points)


def test_rates_at_the_end_of_their_range_are_said() -> None:
    at_end = [ended(0, 0.5, 100, rate=9.9e-3), ended(1, 0.8, 10_000, rate=1e-2), ended(2, 0.1, 20_000, rate=1e-3)]
    assert Picture.of(TERMS, at_end).said == (
        "learning_rate: 2 of the front's 2 members are at the end of its range (0.01)",
    )
    # A healing is too short to say something of the rate, and one in two is not most.
    healed = [replace(e, origin=Origin("0" * 12, "large")) for e in at_end]
    assert Picture.of(TERMS, healed).said == ()
    assert Picture.of(TERMS, [at_end[0], replace(at_end[1], candidate=candidate(1, 1e-3))]).said == ()


def test_a_plot_has_every_sign_at_its_place() -> None:
    lines = plot(Picture.of(TERMS, SEEN), 40, 7, ASCII)
    assert len(lines) == 9
    assert lines[0].rstrip() == "     0.8 |                             B"
    assert lines[6].rstrip() == "     0.5 |o"
    assert sum(line.count("K") for line in lines) == 1
    assert "trainable_params (log)" in lines[-1]
    assert plot(Picture.of(TERMS, []), 40, 7) == []


@pytest.mark.parametrize("height", [10, 24, 50])
def test_the_view_fits_a_terminal_and_shows_foreign_text_as_it_is(height: int) -> None:
    console = Console(file=StringIO(), width=80, height=height, force_terminal=True, color_system=None)
    running = tuple(Running(number=i, key="k", words="lora [bold]1", epoch=1, epochs=2) for i in range(9))
    now = Now(phase="searching", running=running, left=90.0, doing=("loading the model (3 s)",))
    console.print(render(Picture.of(TERMS, SEEN), now, console))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) <= max(height, 18)
    assert lines[0].startswith("mine searching · about 1.5 min left")
    assert any("#0 epoch 2 of 2  lora [bold]1" in line for line in lines)
    assert ("★ best: #1" in "\n".join(lines)) or ("B best: #1" in "\n".join(lines))
    assert status(Picture.of(TERMS, SEEN), now) == (
        "searching; 4 of 20 candidates: 4 done, 9 running, 0 stopped, 0 failed; best accuracy 0.8000 (#1); "
        "loading the model (3 s); about 1.5 min left"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_has_no_room_in_the_view_says_that_there_is_more(encoding: str) -> None:
    terminal = TextIOWrapper(BytesIO(), encoding=encoding)
    console = Console(file=terminal, width=60, height=30, force_terminal=True, color_system=None)
    running = (Running(number=0, key="k", words="[a] " * 30, epoch=1, epochs=2),)
    machine = Machine(held=2**30, free=2**30, total=2**32, cpu=0.5)
    engine = "training on cpu: bf16, matmul attention, packs of 1"
    now = Now(phase="ended", running=running, elapsed=90.0, engine=engine, machine=machine, doing=("[b] " * 30,))
    console.print(render(Picture.of(TERMS, SEEN), now, console))
    terminal.flush()
    lines = terminal.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) < 60
    more = "…" if encoding == "utf-8" else "..."
    assert lines[0] == f"mine ended {'·' if encoding == 'utf-8' else '-'} after 1.5 min"
    cut = [line for line in lines if line.endswith(more)]
    assert cut[0].startswith("[b] [b] ")
    assert any(line.startswith("  #0 epoch 2 of 2  [a] [a] ") for line in cut)
    assert lines[-2:] == [engine, "memory 1.0 GiB, 1.0 of 4.0 GiB free; CPUs 50% busy"]


def test_what_a_search_does_is_read_from_its_folder_and_not_believed(tmp_path: Path) -> None:
    assert Now.read(tmp_path) is None
    now = Now(phase="searching").signed()
    now.write(tmp_path)
    assert Now.read(tmp_path) == now
    assert now.lives
    assert not now.model_copy(update={"time": 0.0}).lives
    assert not now.model_copy(update={"phase": "ended"}).lives
    (tmp_path / FILE).write_text(json.dumps({"phase": "searching", "running": 3}))
    assert Now.read(tmp_path) is None


# --- requests


class Heard:
    def __init__(self, run: Path) -> None:
        self.said: list[str] = []
        self.desk = Desk(run, self.check, lambda answer: self.answers(answer), pause=0.0)

    def answers(self, answer: Answer) -> None:
        self.said.append(answer.said)

    @staticmethod
    def check(one: Candidate) -> None:
        if len(one.hybrid.layers) != 2:
            raise AutopeftError("hybrid: made for another model")


def test_a_desk_sees_to_requests_and_answers(tmp_path: Path) -> None:
    put(tmp_path, Stop(number=1))
    heard = Heard(tmp_path)
    # What was asked of an earlier run is dropped.
    assert heard.desk.stops([1]) == set()
    put(tmp_path, Stop(number=7))
    assert heard.desk.stops([6]) == set()
    assert heard.desk.stops([6, 7]) == {7}
    assert heard.desk.stops([6, 7]) == set()
    own = candidate(3)
    for given in (own.to_json(), own.to_json(), Candidate(Hybrid.uniform(3, LoRA(1))).to_json()):
        put(tmp_path, Enqueue(candidate=given))
    assert [job.candidate for job in heard.desk.next([], [], 4)] == [own]
    assert heard.desk.next([], [Job(own)], 4) == []
    assert not heard.desk.ending
    put(tmp_path, End())
    assert heard.desk.ending
    assert list((tmp_path / FOLDER).iterdir()) == []
    assert [said for said in heard.said if "enqueued" not in said] == [
        "#7 will be stopped after its epoch",
        "#7 is stopped",
        "hybrid: made for another model",
        f"candidate {own.key} is trained now",
        f"candidate {own.key} is trained already",
        "no more trainings are begun",
    ]


def test_what_was_enqueued_and_not_begun_outlives_a_kill(tmp_path: Path) -> None:
    put(tmp_path, Enqueue(candidate=candidate(3).hybrid.to_json()))
    assert len(Heard(tmp_path).desk.next([], [], 0)) == 0
    (job,) = Heard(tmp_path).desk.next([], [], 1)
    assert (job.candidate, job.role) == (Candidate(candidate(3).hybrid), "enqueued")
    # It was handed out, and not written down: so it comes again, until it was.
    desk = Heard(tmp_path).desk
    assert desk.next([], [], 1) == [job]
    assert desk.next([], [job], 1) == []
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_desk_says_what_came_too_late(tmp_path: Path) -> None:
    heard, own, waits = Heard(tmp_path), candidate(3), candidate(4)
    for request in (Stop(number=7), Enqueue(candidate=own.to_json())):
        put(tmp_path, request)
    (job,) = heard.desk.next([], [], 1)
    heard.desk.ended([6])
    heard.desk.ended([7])
    assert heard.desk.stops([7]) == set()
    for request in (Stop(number=9), Enqueue(candidate=waits.to_json())):
        put(tmp_path, request)
    # A kill may come any time, so what is not in the study stays in the folder; what is there does not.
    heard.desk.close([Evaluation(own, "done", {}, number=8)])
    (left,) = (tmp_path / FOLDER).iterdir()
    assert waits.hybrid.to_json() == json.loads(left.read_text())["candidate"]["hybrid"]
    assert [said for said in heard.said if "was through" in said or "waits" in said] == [
        "#7 was through before",
        "#9 was through before",
        f"candidate {waits.key} waits: the search has ended, and it comes first where that goes on",
    ]
    assert [job.candidate for job in Heard(tmp_path).desk.next([], [job], 4)] == [waits]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "expected a JSON object"),
        ("{", "not valid JSON"),
        ('{"kind": "run", "code": "x"}', "unknown kind of request; known: stop, enqueue, end"),
        ('{"kind": "stop", "number": -1}', "number"),
        ('{"kind": "stop", "number": 1, "more": 2}', "more: unknown key"),
        ('{"kind": "enqueue", "candidate": {"layers": [[{"method": "lorra"}]]}}', "lorra"),
        ('{"kind": "enqueue", "candidate": {"layers": [], "training": {}}}', "hybrid"),
    ],
)
def test_what_is_no_request_is_refused_in_a_line(text: str, said: str, tmp_path: Path) -> None:
    heard = Heard(tmp_path)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / f"{'0' * 32}.json").write_text(text)
    (tmp_path / FOLDER / "other.json").write_text("not looked at")
    assert not heard.desk.ending
    assert len(heard.said) == 1
    assert said in heard.said[0]
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["other.json"]


def test_requests_behind_a_link_are_not_looked_at(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.mkdir()
    put(other, End())
    (run / FOLDER).symlink_to(other / FOLDER)
    assert list(waiting(run)) == []
    with pytest.raises(AutopeftError, match="is a link"):
        put(run, End())
    assert len(list((other / FOLDER).iterdir())) == 1


def test_a_request_is_what_it_says() -> None:
    assert request_of({"kind": "end"}, "request") == End()
    with pytest.raises(AutopeftError, match="kind"):
        request_of({"kind": ["end"]}, "request")
