"""The local page of a running search: who is answered, and what may be asked."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_browser import opened, width_of
from tiny_project import experiment
from tiny_scored import scored_run

from autopeft.candidate import Candidate
from autopeft.experiment import Experiment
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.watching.folder import Watched
from autopeft.watching.now import Now, Running
from autopeft.watching.requests import End, Stop, candidate_of, drop, waiting
from autopeft.watching.server import HEADER, HOST, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    Now(phase="searching", notes=("<script>alert(1)</script>",)).signed().write(tmp_path)
    with Server(Watched(tmp_path, Experiment.of(experiment(tmp_path), "x"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: Server, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=60)
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body if isinstance(body, (str, bytes)) else json.dumps(body), own)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.getheaders())


def test_the_page_and_its_state_are_for_who_has_the_token(server: Server) -> None:
    status, page, headers = ask(server, "GET", f"/?token={server.token}")
    assert status == 200
    assert server.token in page
    assert "{{" not in page
    assert f"'nonce-{server.nonce}'" in headers["Content-Security-Policy"]
    status, text, headers = ask(server, "GET", "/state", **{HEADER: server.token})
    state = json.loads(text)
    assert (status, state["now"]["phase"], state["lives"], state["picture"]) == (200, "searching", True, None)
    # What others have written is data: the page sets it as text.
    assert state["now"]["notes"] == ["<script>alert(1)</script>"]
    assert "innerHTML" not in page


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {}),
        ("GET", "/?token=wrong", {}),
        ("GET", "/state", {}),
        ("GET", "/state?token=TOKEN", {}),
        ("GET", "/../progress.json", {HEADER: "TOKEN"}),
        ("POST", "/requests", {}),
        ("POST", "/requests?token=TOKEN", {}),
        ("POST", "/requests", {HEADER: "TOKEN", "Origin": "http://elsewhere.example"}),
        ("POST", "/requests", {HEADER: "TOKEN", "Host": "elsewhere.example"}),
    ],
)
def test_others_are_refused(method: str, path: str, headers: dict[str, str], server: Server, tmp_path: Path) -> None:
    own = {name: value.replace("TOKEN", server.token) for name, value in headers.items()}
    status, text, _ = ask(server, method, path.replace("TOKEN", server.token), {"kind": "end"}, **own)
    assert (status, text) == (403, "open the address that 'autopeft watch --web' printed\n")
    assert list(waiting(tmp_path)) == []


def test_a_request_lands_in_the_run_folder(server: Server, tmp_path: Path) -> None:
    token, three = {HEADER: server.token}, Running(number=3, key="k", words="lora 1 in 1", epoch=0, epochs=2)
    last = Running(number=4, key="l", words="lora 1 in 1", epoch=1, epochs=2)
    status, text, _ = ask(server, "POST", "/requests", {"kind": "stop", "number": 3}, **token)
    assert (status, json.loads(text)["error"]) == (400, "request: #3 is not in training")
    Now(phase="confirming").signed().write(tmp_path)
    status, text, _ = ask(server, "POST", "/requests", {"kind": "end"}, **token)
    assert status == 400
    assert "at its last steps" in json.loads(text)["error"]
    # A search drops what was asked before it had begun to train.
    Now(phase="beginning").signed().write(tmp_path)
    status, text, _ = ask(server, "POST", "/requests", {"kind": "end"}, **token)
    assert (status, "has not begun to train yet" in json.loads(text)["error"]) == (400, True)
    Now(phase="searching", running=(three, last)).signed().write(tmp_path)
    status, text, _ = ask(server, "POST", "/requests", {"kind": "stop", "number": 4}, **token)
    assert (status, "is in its last epoch" in json.loads(text)["error"]) == (400, True)
    status, text, _ = ask(server, "POST", "/requests", {"kind": "stop", "number": 3}, **token)
    assert (status, [request for _, request in waiting(tmp_path)]) == (200, [Stop(number=3)])
    assert [name for name, _ in waiting(tmp_path)] == [json.loads(text)["id"]]
    for body, said in (("[1]", "JSON object"), ("{", "not valid JSON"), ({"kind": "run"}, "unknown kind")):
        status, text, _ = ask(server, "POST", "/requests", body, **token)
        assert status == 400
        assert said in json.loads(text)["error"]
    Now(phase="ended").signed().write(tmp_path)
    status, text, _ = ask(server, "POST", "/requests", {"kind": "end"}, **token)
    assert (status, json.loads(text)["error"]) == (400, "request: the search is not running")
    assert len(list(waiting(tmp_path))) == 1


# --- in a browser -----------------------------------------------------------------------------------------------------

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of nine candidates, of which one has failed with hostile words."""
    return scored_run(tmp_path_factory.mktemp("watched"), HOSTILE)


@pytest.fixture
def served(run: Path) -> Iterator[Server]:
    """The page of that search while three candidates are in training, one of them in its last epoch."""
    three = Running(number=10, key="k", words=f"{HOSTILE} lora 1 in 1", role="enqueued", epoch=0, epochs=2)
    four = Running(number=11, key="l", words="head only", epoch=1, epochs=3, score=0.5)
    five = Running(number=12, key="m", words="lora 1 in 2", epoch=2, epochs=3)
    Now(phase="searching", running=(three, four, five), notes=(HOSTILE,), left=30.0).signed().write(run)
    with Server(Watched(run, RunFolder(run).experiment())) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asked_in(run: Path) -> list[Any]:
    """The requests that a page has left, which are taken away."""
    found = list(waiting(run))
    for name, _ in found:
        drop(run, name)
    return [request for _, request in found]


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1200, False)])
def test_a_browser_shows_the_search(width: int, dark: bool, served: Server, run: Path, browser: Any) -> None:
    page = opened(browser, served.address, width, dark=dark)
    page.wait_for_selector("#front tr")
    front = SearchResult.open(run).front
    rows = page.locator("#front tr")
    # Dearest first, with the means over seeds that every other view has.
    assert rows.count() == len(front.points)
    for row, e in zip(range(rows.count()), front.points[::-1], strict=True):
        said = rows.nth(row).inner_text()
        mean = front.score.loss(front.loss_of(e, front.score))
        assert all(part in said for part in (e.key[:6], f"{mean:.4f}", f"{e.metrics['trainable_params']:,.0f}"))
        assert ("best" in said, "knee" in said) == (e is front.best(), e is front.knee())
    assert page.locator("#plot circle").count() == len(front.done)
    for box in page.evaluate("[...document.querySelectorAll('#plot circle, #plot text')].map(e => e.getBBox().x)"):
        assert 0 <= box < width
    assert "9 of 9 candidates" in page.inner_text("#counts")
    assert page.inner_text("#notes") == f"note: {HOSTILE}"
    assert f"#10 enqueued\n{HOSTILE} lora 1 in 1" in page.inner_text("#running")
    assert page.locator("img").count() == 0
    assert width_of(page) == width
    assert page.complaints == []


def test_a_browser_asks_of_the_search(served: Server, run: Path, browser: Any) -> None:
    page = opened(browser, served.address)
    stop = page.locator("#running tr", has_text="#11").locator("button")
    page.once("dialog", lambda dialog: dialog.dismiss())
    stop.click()
    assert asked_in(run) == []
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    stop.click()
    assert asked == ["Stop #11 (head only) after its epoch?"]
    assert page.is_disabled("#running tr:nth-child(3) button")
    page.locator("#said", has_text="asked").wait_for()
    assert asked_in(run) == [Stop(number=11)]
    page.fill("#own", "{")
    page.click("#enqueue")
    page.locator("#said", has_text="not valid JSON").wait_for()
    page.click("#example")
    best = SearchResult.open(run).front.best().candidate
    own = json.loads(page.input_value("#own"))
    assert Candidate.from_json(own) == best
    page.fill("#own", json.dumps({**own, "training": {"learning_rate": 0.002}}))
    page.click("#enqueue")
    page.locator("#said", has_text="asked").wait_for()
    assert page.input_value("#own") == ""
    (request,) = asked_in(run)
    assert candidate_of(request) == Candidate(best.hybrid, {"learning_rate": 0.002})
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("#end")
    assert asked_in(run) == []


def test_a_browser_ends_the_search(served: Server, run: Path, browser: Any) -> None:
    page = opened(browser, served.address)
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#end")
    page.locator("#said", has_text="asked").wait_for()
    assert asked_in(run) == [End()]


def test_a_browser_shows_how_to_take_it_home_when_it_has_ended(served: Server, run: Path, browser: Any) -> None:
    Now(phase="ended").signed().write(run)
    page = opened(browser, served.address)
    page.wait_for_selector("#home")
    assert f"autopeft export {run} --pick best --to out/best" in page.inner_text("#commands")
    assert not page.is_visible("#form")
    assert not page.is_visible("#training")
