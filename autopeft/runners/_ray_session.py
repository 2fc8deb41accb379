"""A Ray of our own on this machine, or a connection to a cluster, that cannot hang or end the search's process.

Ray's calls may block for a minute, and its signal handlers abort. So everything that Ray does in the driver happens in
one thread, and the thread of the search waits for it: a signal interrupts that at once, and never in the middle of what
Tune or the study writes; and a Ray that has died is noticed by its processes, not by what times out.
"""

from __future__ import annotations

import logging
import math
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from autopeft.doors import door
from autopeft.errors import AutopeftError
from autopeft.runners._places import THREAD, private_folder
from autopeft.runners._ray_surroundings import (
    check_variables,
    environment,
    lean,
    quiet,
    remedy,
    set_handlers,
    silence,
    take_token,
)
from autopeft.runners._reaper import end_processes
from autopeft.runners._safe_path import safe_job

T = TypeVar("T")

_OBJECT_STORE = 256 * 2**20
#: Seconds between two looks at whether Ray lives; that Ray may take to start, to end what it does, to shut down; and
#: that a cluster's head may be away.
_LOOK, _START, _END, _SHUTDOWN, _AWAY = 0.2, 120.0, 5.0, 30.0, 20.0
_HANDLED = (signal.SIGINT, signal.SIGTERM)
_sessions: list[RaySession] = []


def users_own() -> bool:
    """Whether the process is connected to a Ray that a session has not started."""
    if _sessions:
        return _sessions[-1].theirs
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


@contextmanager
def ray_session(address: str | None, cpus: int) -> Iterator[RaySession]:
    """The Ray that this process has already, the cluster at `address`, or one of our own with so many CPUs.

    `AutopeftError` when it cannot be had. One of our own listens on localhost only, asks for a token that nobody else
    has, keeps its files where nobody else can enter, and is gone afterwards.
    """
    if _sessions:
        yield _sessions[-1]
        return
    theirs = users_own()
    with private_folder() as folder, environment(own=address is None and not theirs):
        session = RaySession(folder, address, theirs)
        _sessions.append(session)
        try:
            session.start(cpus)
            yield session
        finally:
            _sessions.remove(session)
            session.stop()


class RaySession:
    """Calls Ray in its own thread, and knows when Ray has died."""

    def __init__(self, folder: Path, address: str | None, theirs: bool) -> None:
        self.folder = folder
        self._address, self.theirs = address, theirs
        self._todo: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
        self._processes: dict[str, psutil.Process] = {}
        self._others = {child.pid for child in psutil.Process().children()}
        self._head: tuple[str, int] | None = None
        self._starting, self._dead = True, False
        self._quiet, self._silence = ExitStack(), ExitStack()
        self._seen = self._looked = time.monotonic()
        self._thread.start()

    @property
    def own(self) -> bool:
        """Whether it is of this search alone, on this machine."""
        return self._address is None and not self.theirs

    def start(self, cpus: int) -> None:
        """Connect, or start our own."""
        what, mend = "Ray cannot be started", remedy()
        if self._address:
            what, mend = f"the cluster at '{self._address}' cannot be reached", "see runner.address"
        with door("runner", what, mend):
            if not self.theirs:
                _check_address(self._address)
                handlers = {number: signal.getsignal(number) for number in _HANDLED}
                options = _options(self.folder, cpus) if self._address is None else {"address": self._address}
                check_variables()
                self._quiet.enter_context(quiet())
                self.call(lambda: _init(options), limit=_START)
                set_handlers(handlers)
            if self.theirs or self._address:
                self._head = self.call(_head_address)
        self._starting = False

    def call(self, action: Callable[[], T], let_go: Callable[[], None] = lambda: None, limit: float = math.inf) -> T:
        """What `action` returns in Ray's thread.

        An interrupt, Ray's death and more than `limit` seconds (both `AutopeftError`) end the waiting: `let_go` is
        called, so that the action comes to its end by itself.
        """
        future: Future[T] = Future()
        self._todo.put((future, action))
        deadline = time.monotonic() + limit
        try:
            while not wait([future], timeout=_LOOK).done:
                self._check_alive()
                if time.monotonic() > deadline:
                    raise AutopeftError(f"runner: Ray did not answer in {limit:g} seconds")
        except BaseException:
            let_go()
            wait([future], timeout=0 if self._dead else _END)
            raise
        if future.exception() is not None:
            # What Ray says of its own death is long, and not to the point.
            self._check_alive()
        return future.result()

    def stop(self) -> None:
        """Shut down what was started; a Ray that was there already stays."""
        if not self.theirs:
            # In a thread of its own: the other may wait for what does not come any more.
            shutdown = threading.Thread(target=_shutdown, name="ray-shutdown", daemon=True)
            shutdown.start()
            shutdown.join(_END if self._dead else _SHUTDOWN)
        self._todo.put(None)
        self._thread.join(0 if self._dead else _END)
        # While it waits for what does not come, it is not to say so, nor to start another Ray.
        if not self._thread.is_alive():
            self._silence.close()
            self._quiet.close()

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            future, action = item
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

    def _check_alive(self) -> None:
        """`AutopeftError` when a process without which Ray does not work is gone, or the cluster does not answer."""
        if self._starting and self._address is None:
            self._note_processes()
        for name, process in self._processes.items():
            if _gone(process):
                # The rest would try for a minute to reach it, and say much.
                self._die()
                end_processes(self.folder)
                raise AutopeftError(
                    f"runner: Ray's process '{name}' was killed (out of memory?); start the same command again, "
                    "it goes on with the search"
                )
        if self._head is not None:
            self._check_head(self._head)

    def _die(self) -> None:
        if not self._dead:
            self._dead = True
            self._silence.enter_context(silence())

    def _note_processes(self) -> None:
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child.name() in ("gcs_server", "raylet") and child.pid not in self._others:
                    self._processes[child.name()] = child

    def _check_head(self, head: tuple[str, int]) -> None:
        """Now and then; a head that is started anew may be away for a while."""
        now = time.monotonic()
        if now - self._looked < _AWAY / 8:
            return
        self._looked = now
        with suppress(OSError), socket.create_connection(head, timeout=2):
            self._seen = time.monotonic()
        if time.monotonic() - self._seen > _AWAY:
            self._die()
            raise AutopeftError(
                f"runner: the head of the Ray cluster, {head[0]}:{head[1]}, does not answer any more; start the "
                "cluster and the same command again, it goes on with the search"
            )


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _options(folder: Path, cpus: int) -> dict[str, Any]:
    """Of a Ray of our own."""
    return {
        "address": "local",
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE,
        # Ray lets everybody into this folder, but not into the one around it.
        "_temp_dir": str(folder / "ray"),
    }


def _init(options: dict[str, Any]) -> None:
    import ray
    from ray._private import ray_constants

    take_token()
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    try:
        if options["address"] == "local":
            # As on macOS: every server then listens on localhost. Ray takes `_node_ip_address="127.0.0.1"` for a
            # mistake, and puts the machine's address there.
            ray_constants.ENABLE_RAY_CLUSTER = False
        quietly = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
        with lean():
            ray.init(job_config=safe_job(), **quietly, **options)
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def _shutdown() -> None:
    import ray

    with suppress(Exception):
        ray.shutdown()


def _head_address() -> tuple[str, int]:
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)


def _check_address(address: str | None) -> None:
    """Ray itself tries for minutes before it says that nobody answers."""
    if (address or "").startswith("ray://"):
        raise AutopeftError("runner.address: run this command on a machine of the cluster, with address: auto")
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():
        return
    with door("runner", f"the Ray cluster at {address} does not answer", "see runner.address"):
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
