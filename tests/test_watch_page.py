"""The local page of a running search: who is answered, and what may be asked."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_project import experiment

from autopeft.experiment import Experiment
from autopeft.watching.folder import Watched
from autopeft.watching.now import Now, Running
from autopeft.watching.requests import Stop, waiting
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
    status, text, _ = ask(server, "POST", "/requests", {"kind": "stop", "number": 3}, **token)
    assert (status, json.loads(text)["error"]) == (400, "request: #3 is not in training")
    Now(phase="confirming").signed().write(tmp_path)
    status, text, _ = ask(server, "POST", "/requests", {"kind": "end"}, **token)
    assert status == 400
    assert "at its last steps" in json.loads(text)["error"]
    Now(phase="searching", running=(three,)).signed().write(tmp_path)
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
