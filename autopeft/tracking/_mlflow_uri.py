"""Where MLflow stores: the default place, and a quick look whether a place can be used at all.

MLflow's own attempts at a place that is not there take minutes, so they are not waited for.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import ssl
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from autopeft.errors import AutopeftError

_SQLITE = re.compile(r"^(?P<head>sqlite(\+\w+)?:///)(?P<path>[^?]*)(?P<query>.*)$")
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_TIMEOUT_S = 3.0


def resolve(uri: str | None, run_dir: Path) -> tuple[str, str]:
    """(the store's URI, what gave it): the given one, else MLFLOW_TRACKING_URI, else SQLite beside the run folder.

    A relative SQLite path is made absolute, as the working directory of whoever opens it later is another.
    """
    if uri:
        return _absolute(uri), "uri"
    if from_environment := os.environ.get("MLFLOW_TRACKING_URI"):
        return _absolute(from_environment), "MLFLOW_TRACKING_URI"
    return f"sqlite:///{(run_dir.absolute().parent / 'mlflow.db').as_posix()}", "default"


def _absolute(uri: str) -> str:
    match, path = _SQLITE.match(uri), sqlite_path(uri)
    if match is None or path is None:
        return uri.rstrip("/") if is_server(uri) else uri
    return f"{match['head']}{path.absolute().as_posix()}{match['query']}"


def is_server(uri: str) -> bool:
    """Whether an MLflow server is behind that URI, rather than a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI; None for other URIs, and for SQLite in memory."""
    match = _SQLITE.match(uri)
    return Path(match["path"]) if match and match["path"] not in ("", ":memory:") else None


def shown(uri: str) -> str:
    """The URI without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def check_place(uri: str, source: str = "uri") -> None:
    """`AutopeftError` when the place can't be used, as far as a few seconds tell; `source` is what gave the URI."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if is_server(uri):
        check_server(uri)
    elif scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in _PORTS:
        _check_database(uri, _PORTS[scheme])
    elif scheme not in {"databricks", *(e.name for e in entry_points(group="mlflow.tracking_store"))}:
        raise AutopeftError(
            f"tracking: {source}: MLflow can't store to '{shown(uri)}'; "
            "write sqlite:///<file>, or http://<host>:<port> of an MLflow server"
        )


def check_server(uri: str) -> None:
    """`AutopeftError` when no server answers within some seconds; any HTTP answer of its own will do."""
    request = Request(f"{shown(uri)}/health", headers={"User-Agent": "autopeft"})
    try:
        with urlopen(request, timeout=_TIMEOUT_S):
            return
    except HTTPError as error:
        if error.code < 500:  # e.g. 401 or 404 of a proxy: there is a server, and MLflow knows how to talk to it
            return
        reason = f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", error) if isinstance(error, URLError) else error
        if isinstance(cause, ssl.SSLError):  # MLflow may have been told of other certificates
            return
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    raise AutopeftError(
        f"tracking: MLflow server {shown(uri)} does not answer ({reason}); "
        "start it with 'mlflow server', or set tracking: none"
    )


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
    if path is None:
        raise AutopeftError(f"tracking: '{uri}' names no file; write sqlite:///<file>, or set tracking: none")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA schema_version")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):  # somebody writes to it at this moment; MLflow has the patience
            return
        reason = getattr(error, "strerror", None) or str(error)
        raise AutopeftError(
            f"tracking: MLflow's database {path} can't be written ({reason}); "
            "set tracking.uri to another place, or tracking: none"
        ) from None


def _check_database(uri: str, default_port: int) -> None:
    try:
        parts = urlsplit(uri)
        place = (parts.hostname or "localhost", parts.port or default_port)
        with socket.create_connection(place, timeout=_TIMEOUT_S):
            return
    except (OSError, ValueError) as error:
        raise AutopeftError(
            f"tracking: MLflow's database {shown(uri)} does not answer "
            f"({getattr(error, 'strerror', None) or error}); start it, or set tracking: none"
        ) from None
