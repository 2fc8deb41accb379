"""A user, a password or a token gives no trace: not in a file, a message, an argument, an artifact."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from tiny_project import experiment, not_measured, write_experiment
from tiny_server import Server

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.launch import launch
from autopeft.progress import progress_for
from autopeft.secrets import hidden, holds_secret, remember
from autopeft.tracking import SearchInfo, tracking_from
from autopeft.tracking._mlflow_calls import one_line, our_calls
from autopeft.tracking._mlflow_check import check_place
from autopeft.tracking._mlflow_uri import place_of, resolve
from autopeft.tracking.mlflow_store import MlflowTracking, ui_command

S = "s3cr3t-pw"

#: Addresses with a secret that mean something.
MEANT = [
    f"http://user:{S}@host.invalid:5000",
    f"HTTPS://user:%40{S}%2F%3A%23@host.invalid/mlflow/",
    f"http://user:x:{S}@[::1]:1",
    f"postgresql://user:{S}@host.invalid/db",
    f"postgresql://host.invalid/db?password={S}&sslmode=require",
    f"postgresql+psycopg2://user:{S}@host.invalid:5432/db?password={S}2",
    f"mysql+pymysql://user:{S}@host.invalid/db?charset=utf8mb4",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3D%7Bx%7D%3BUID%3Dme%3BPWD%3D{S}%3B",
    f"databricks://user:{S}@host",
]
#: Addresses with one that mean nothing.
MEANINGLESS = [
    *(f"http://user:{x}@host:5000" for x in (f"{S}/x", f"x@{S}", f"#{S}", f"?{S}", f"a/b/{S}", f"{S}\n", f"{S} /")),
    *(f"http://{x}@host:5000" for x in (S, f"{S}:", f":{S}")),
    f"http://host:5000?token={S}",
    f"http://host:5000/x?a=b&access_token={S}",
    f"http://host:5000/;password={S}",
    f"http://host:5000#token={S}",
    f"https://host/?token=a@{S}",
    f"http://host/{S}@x",
    f"http://user:{S}@host:99999",
    f"http://user:{S}@[::1",
    f"http:/user:{S}@host",
    f"http:user:{S}@host",
    f"user:{S}@host:5000",
    f"//user:{S}@host",
    f"ftp://user:{S}@host/x",
    f"file://user:{S}@host/x",
    f"postgresql://user:{S}/a@host/db",
    f"postgresql://user:a@{S}@host/db",
    f"mysql://user:{S}#@host/db",
    f"sqlite+pysqlcipher://:{S}@/x.db",
    f"http://user:{S}@host/{'x' * 5_000}",
]


@pytest.fixture(autouse=True)
def _no_uri_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("uri", [*MEANT, *MEANINGLESS, f"sqlite:///x.db?key={S}"], ids=lambda uri: uri[:40])
def test_a_file_with_a_secret_is_refused_without_repeating_it(uri, tmp_path):
    path = write_experiment(tmp_path, tracking={"name": "mlflow", "uri": uri})
    with pytest.raises(AutopeftError, match="tracking: uri: ") as caught:
        Experiment.load(path)
    said = "".join(traceback.format_exception(caught.value))
    assert S not in said
    assert "MLFLOW_TRACKING_" in said or uri in MEANINGLESS
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", MEANT)
def test_in_the_environment_it_is_taken_and_not_shown(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    place = resolve(None, tmp_path / "run")
    assert S not in repr(place) + str(place) + place.shown
    assert S in place.uri + str(place.environment)
    assert hidden(f"could not reach {uri} ({S})").count(S) == 0
    # Both the place's own check and MLflow's calls, one of which says the address.
    with pytest.raises(AutopeftError) as caught:
        MlflowTracking().open(SearchInfo("s", tmp_path / "run", "id"))
    assert S not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("uri", MEANINGLESS, ids=lambda uri: uri[:40])
def test_in_the_environment_what_means_nothing_is_refused(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(AutopeftError, match="MLFLOW_TRACKING_URI: ") as caught:
        check_place(resolve(None, tmp_path / "run"))
    assert S not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "uri",
    [
        *("http://host:5000", "https://[::1]:5000/mlflow", "sqlite:///a b/x@y.db", "sqlite:////x/y.db?timeout=30"),
        *("postgresql://me@host/db?sslmode=require", "mssql+pyodbc://host/db?driver=ODBC+Driver+18", "databricks"),
        "databricks://profile",
    ],
)
def test_what_holds_no_secret_may_stand_in_a_file(uri):
    assert tracking_from({"uri": uri}).uri == uri


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", f"https://user:{S}@huggingface.co/org/model"),
        ("model", f"https://huggingface.co/org/model?token={S}"),
        ("warm_start", f"https://{S}@host/x"),
        ("description", f"from https://u:{S}@host"),
    ],
)
def test_other_addresses_in_an_experiment(name, value, tmp_path):
    with pytest.raises(AutopeftError, match=f"{name}: an address with a user, password or token") as caught:
        Experiment.load(write_experiment(tmp_path, **{name: value}))
    assert S not in str(caught.value)


def test_a_task_of_an_address_with_a_secret(tmp_path):
    fields = experiment(tmp_path)
    fields["task"]["train"] = f"https://user:{S}@host/train.jsonl"
    with pytest.raises(AutopeftError, match=r"task\.train: an address") as caught:
        Experiment.of(fields, "x")
    assert S not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"tracking": MEANT[0]}, {"tracking": {"name": MEANT[0]}}, {"sampler": MEANT[0]}])
def test_an_address_where_none_belongs_is_not_repeated(wrong, tmp_path):
    with pytest.raises(AutopeftError) as caught:
        Experiment.of({**experiment(tmp_path), **wrong}, "x")
    assert S not in str(caught.value)


def test_forms_of_a_known_secret(monkeypatch):
    secret = "p@ss/w:ö'rd #1"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
    for form in (secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]):
        assert hidden(f"it was <{form}>") == "it was <***>"
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    assert "hf_abc" not in str(AutopeftError("hub: no access with hf_abcdefgh"))


def test_texts_without_secrets_stay_as_they_are():
    for text in (
        *("sqlite:////home/me@work/a:b@c/mlflow.db", "see https://host/a/b?x=1#y", "write to me@host.org: now; or not"),
        *("a: b://c", "layers.0: password", "s3://bucket/me@x/train.csv", "q? key=3"),
    ):
        assert hidden(text) == text
        assert not holds_secret(text)


def test_long_texts_are_no_hang():
    start = time.process_time()
    for unit in ("a.", "x://", "?token", "&a=", "x://a:", ";key=a@", "tokentoken"):
        hidden(unit * (100_000 // len(unit)))
    assert time.process_time() - start < 20


def test_an_error_that_says_a_secret_is_no_cause():
    remember(f"http://user:{S}@host")
    with pytest.raises(AutopeftError) as caught, door("place"):
        raise ValueError(f"no host in http://user:{S}@host")
    assert S not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None
    long = ValueError("x" * 290 + f" http://user:{S}@host")
    assert S[:4] not in one_line(long)
    with pytest.raises(AutopeftError) as caught, door("place"):
        raise ValueError("nothing secret")
    assert isinstance(caught.value.__cause__, ValueError)


class _Asked(http.server.BaseHTTPRequestHandler):
    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization", "")))
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *args) -> None:
        pass


def test_the_server_gets_the_user_of_the_environment(tmp_path, monkeypatch):
    import base64

    seen: list[tuple[str, str]] = []
    handler = type("Asked", (_Asked,), {"seen": seen})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:%40{S}@127.0.0.1:{server.server_port}")
        with pytest.raises(AutopeftError) as caught:
            MlflowTracking().open(SearchInfo("s", tmp_path / "run", "id"))
        server.shutdown()
    wanted = "Basic " + base64.b64encode(f"me:@{S}".encode()).decode()
    assert next(given for path, given in seen if path.startswith("/api/")) == wanted
    assert S not in str(caught.value)
    assert "MLFLOW_TRACKING_USERNAME" not in os.environ


def test_the_users_own_variables_come_back(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "other")
    with our_calls(place_of(f"http://me:{S}@host", "uri")):
        assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "other"
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ


def test_pages_take_the_address_as_a_variable(tmp_path):
    (tmp_path / "x.db").touch()
    command, variables = ui_command(place_of(f"sqlite:///{tmp_path}/x.db?key={S}", "MLFLOW_TRACKING_URI"))
    assert S not in " ".join(command)
    assert S in variables["MLFLOW_BACKEND_STORE_URI"]


def test_a_search_leaves_no_trace_of_tokens(tmp_path, mlflow_database, monkeypatch, capfd):
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, S)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    given = Experiment.of(experiment(tmp_path, tracking={"name": "mlflow"}), "x")
    with not_measured():
        launch(given, tmp_path / "run", progress_for(given, quiet=False))
    said = capfd.readouterr()
    assert "4/4  #3" in said.err
    assert S not in said.err + said.out
    assert _files_with(S, tmp_path) == []


def _watch(process: subprocess.Popen) -> bytes:
    """The command lines of everything that ran meanwhile."""
    seen: set[bytes] = set()
    while process.poll() is None:
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(file.read_bytes())
            except OSError:
                continue
        time.sleep(0.1)
    return b"\n".join(seen)


def _files_with(secret: str, *folders: Path) -> list[Path]:
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    assert len(files) > 10
    return [p for p in files if secret.encode() in p.read_bytes()]


@pytest.mark.slow
def test_a_search_on_a_server_leaves_no_trace(tmp_path, mlflow_database):
    folder, temporary = tmp_path / "server", tmp_path / "tmp"
    folder.mkdir()
    temporary.mkdir()
    shutil.copy(mlflow_database, folder / "mlflow.db")
    server = Server(folder / "mlflow.db")
    path = write_experiment(tmp_path, tracking={"name": "mlflow"})
    command = [sys.executable, "-m", "autopeft", "search", str(path), "--out"]
    server.start()
    try:
        for user in (f"me:{S}", f"me:%40%2F{S}%3F%23"):
            uri = server.uri.replace("http://", f"http://{user}@")
            environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "TMPDIR": str(temporary), "HF_TOKEN": f"hf_{S}"}
            run = tmp_path / f"run {user[:4]}"
            with (tmp_path / "said").open("a") as said:
                process = subprocess.Popen([*command, run], env=environment, cwd=tmp_path, stdout=said, stderr=said)
                arguments = _watch(process)
            assert process.returncode == 0, (tmp_path / "said").read_text()
            assert b"autopeft" in arguments
            assert S.encode() not in arguments
            tracking = yaml.safe_load((run / "experiment.yaml").read_text())["tracking"]
            assert tracking == {"name": "mlflow", "experiment": "autopeft", "system_metrics": True}
        server.kill()
        last = subprocess.run(
            [*command, run], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
    finally:
        server.kill()
    assert (last.returncode, last.stdout) == (2, "")
    assert "does not answer" in last.stderr
    assert S not in last.stderr
    assert _files_with(S, tmp_path) == []
    assert list(folder.rglob("experiment.yaml"))
