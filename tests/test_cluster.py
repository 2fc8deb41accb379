"""A cluster of several machines: here three nodes of Ray on one machine, one of them with a file system of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from test_search import comparable, finished_in, run
from tiny_project import not_measured, write_experiment
from tiny_worker import evaluate

from autopeft.engine.worker import Worker
from autopeft.errors import AutopeftError
from autopeft.experiment import Experiment
from autopeft.result import SearchResult
from autopeft.run_folder import RunFolder
from autopeft.session import Session

pytestmark = pytest.mark.slow

_MEMORY = 100 * 2**20


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs."""
    # Workers of a cluster import what is installed there: autopeft, and these tests.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    head = {"num_cpus": 0, "object_store_memory": _MEMORY, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def on(cluster: Cluster, workers: int, **options: Any) -> dict[str, Any]:
    return {"name": "ray", "address": cluster.address, "workers": workers, **options}


@not_measured()
def test_one_worker_gives_the_same_as_this_process(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)
    here = run(tmp_path, "here", trials=4)
    there = run(tmp_path, "there", trials=4, runner=on(cluster, 1))
    assert comparable(there.evaluations) == comparable(here.evaluations)
    weights = [sorted(p.name for p in (r.run_dir / "weights").iterdir()) for r in (here, there)]
    assert weights[0] == weights[1]


def test_a_node_that_is_lost_and_a_search_that_is_ended_cost_nothing(cluster: Cluster, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=_MEMORY) for _ in range(3)]
    changes = {"trials": 24, "runner": on(cluster, 3, pack=2), "stopping": "none"}
    path, out = write_experiment(tmp_path, **changes), tmp_path / "run"
    command = [sys.executable, "-m", "autopeft", "search", str(path), "--out", str(out), "--quiet"]
    search = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(out, 2)
    cluster.remove_node(nodes[0], allow_graceful=False)
    wait_for(out, 8)
    search.send_signal(signal.SIGTERM)
    _, said = search.communicate(timeout=60)
    assert (search.returncode, said.count("\n")) == (143, 1), said
    before = SearchResult.open(out).evaluations
    assert 8 <= len(before) < 24
    assert subprocess.run(command, timeout=400, check=False).returncode == 0
    after = SearchResult.open(out).evaluations
    assert [e.number for e in after] == list(range(24))
    assert len({e.key for e in after}) == 24
    assert {e.status for e in after} == {"done"}
    kept = {e.number: e for e in after}
    assert all(kept[e.number].seconds == e.seconds for e in before)
    as_alone(out, after)


def as_alone(out: Path, evaluations: list[Any]) -> None:
    """Every candidate's numbers are its own, whoever trained it, and beside whom."""
    session = Session(Experiment.load(out / "experiment.yaml"))
    worker = Worker(session.worker_spec(out.parent / "alone", RunFolder(out).setup()), session.tokens)
    for one in evaluations:
        alone = evaluate(worker, one.candidate)
        assert one.metrics["train_loss"] == pytest.approx(alone.metrics["train_loss"], rel=1e-3)


def wait_for(out: Path, candidates: int) -> None:
    deadline = time.monotonic() + 240
    while finished_in(out) < candidates:
        assert time.monotonic() < deadline, "it does not get so far"
        time.sleep(0.02)


@contextmanager
def apart(cluster: Cluster, hidden: Path) -> Iterator[None]:
    """A node that sees an empty folder where others see `hidden`."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can give a process a file system of its own")
    script = 'mount -t tmpfs none "$1" && exec "$2" -m ray.scripts.scripts start --block --address="$3" --num-cpus=1'
    arguments = ["sh", str(hidden), sys.executable, cluster.address]
    command = ["unshare", "--mount", "sh", "-c", f"{script} --object-store-memory={_MEMORY}", *arguments]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _until_there_are(cluster, 2, node)
        yield
    finally:
        node.send_signal(signal.SIGTERM)
        try:
            node.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            node.kill()


def _until_there_are(cluster: Cluster, count: int, node: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        alive = [n for n in cluster.global_state.node_table() if n["Alive"]]
        if len(alive) == count:
            return
        assert node.poll() is None, node.communicate()[0]
        time.sleep(0.2)
    raise AssertionError("the node does not come")


def test_a_run_folder_that_a_machine_does_not_see_is_named_at_the_start(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    said = rf"machine .* does not see the run folder {tmp_path}/runs/run; put it on a file system that all"
    with apart(cluster, tmp_path / "runs"), pytest.raises(AutopeftError, match=said):
        run(tmp_path, "runs/run", trials=2, runner=on(cluster, 1))
    assert not list((tmp_path / "runs" / "run" / "weights").iterdir())


@not_measured()
def test_temporary_files_need_not_be_shared(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as own:
        monkeypatch.setenv("TMPDIR", own)
        monkeypatch.setattr(tempfile, "tempdir", None)
        with apart(cluster, Path(own)):
            there = run(tmp_path, "there", trials=3, runner=on(cluster, 1))
    here = run(tmp_path, "here", trials=3)
    assert comparable(there.evaluations) == comparable(here.evaluations)
    assert (there.run_dir / "weights" / f"{there.front.points[0].key}.safetensors").is_file()
    assert not list(there.run_dir.glob(".*tune*"))
