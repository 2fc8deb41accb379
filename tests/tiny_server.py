"""A real MLflow server on this machine, which can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from autopeft.errors import AutopeftError
from autopeft.tracking._mlflow_check import check_place
from autopeft.tracking._mlflow_uri import place_of
from autopeft.tracking.mlflow_store import ui_command


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A real MLflow server over a database; `kill` is a power cut."""

    def __init__(self, database: Path) -> None:
        self.port, self._database = free_port(), database
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        command, variables = ui_command(place_of(f"sqlite:///{self._database}", "uri"), self.port)
        log = (self._database.parent / "server.log").open("a")
        self._process = subprocess.Popen(
            command,
            cwd=self._database.parent,
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        for _ in range(240):
            try:
                return check_place(place_of(self.uri, "uri"))
            except AutopeftError:
                time.sleep(0.5)
        raise TimeoutError("mlflow ui did not start")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
