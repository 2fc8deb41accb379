"""What of a process Ray takes for its own (environment, signal handlers, the console), and how it is given back."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from autopeft.errors import AutopeftError

#: What says where Ray is: a Ray of our own is here, whatever these say.
_ELSEWHERE = (
    "RAY_ADDRESS",
    "RAY_REDIS_ADDRESS",
    "RAY_TMPDIR",
    "RAY_GCS_SERVER_PORT",
    "RAY_NAMESPACE",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_OVERRIDE_RESOURCES",
)
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # It would print where it was, and abort.
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
}
#: What a Ray of our own gets, and nobody else knows.
_OWN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
#: Whether Ray has read the token of the session that goes on.
_tokens: list[bool] = []


@contextmanager
def environment(own: bool) -> Iterator[None]:
    """What Ray reads when it starts, in this process and in its own."""
    before = dict(os.environ)
    try:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        if own:
            for name in _ELSEWHERE:
                os.environ.pop(name, None)
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        yield
    finally:
        for name in {*_QUIET, *_ELSEWHERE, *_OWN}:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
        # Only where it was read: reading what Ray does not take ends the process.
        if own and _tokens:
            take_token()
            _tokens.clear()


def remedy() -> str:
    """What may help where Ray does not start."""
    names = _variables()
    return f"the environment has {', '.join(names)}" if names else "is there room for it (memory, /dev/shm, /tmp)?"


def check_variables() -> None:
    """`AutopeftError` when Ray cannot live with what the user's environment tells it: it would end this process."""
    names = _variables()
    if not names:
        return
    # `-P`: nothing is imported from the current folder, whose files may be a stranger's.
    code = "from ray import _raylet; _raylet.Config.initialize('')"
    tried = subprocess.run(
        [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if tried.returncode:
        raise AutopeftError(f"runner: Ray does not take what the environment says: see {', '.join(names)}")


def _variables() -> list[str]:
    """What of the user's environment Ray reads; one is set by Ray itself."""
    others = {*_QUIET, *_OWN, "RAY_CLIENT_MODE"}
    return sorted(name for name in os.environ if name.startswith("RAY_") and name not in others)


def take_token() -> None:
    """Ray reads its token once a process: have it read anew."""
    _tokens.append(True)
    with suppress(Exception):
        from ray import _raylet

        compiled: Any = _raylet
        compiled.Config.initialize("")
        compiled.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def lean() -> Iterator[None]:
    """A Ray that is started inside has none of the helpers that nobody here asks: seconds of a CPU each.

    They are the dashboard's server, the reader of the workers' logs (which are not shown), and what asks a cloud for
    machines. Where this Ray is built otherwise, it starts with all of them.
    """
    from ray._private import node, services

    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (node.Node, "start_log_monitor", lambda *args, **options: None),
        (node.Node, "start_monitor", lambda *args, **options: None),
        # As where the dashboard does not come up: without its address and its process.
        (services, "start_api_server", lambda *args, **options: ("", None)),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced if hasattr(owner, name)]
    try:
        for owner, name, nothing in replaced:
            if hasattr(owner, name):
                setattr(owner, name, nothing)
        yield
    finally:
        for owner, name, own in before:
            setattr(owner, name, own)


def set_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    """Ray puts its own in their place, some without telling Python."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


@contextmanager
def silence() -> Iterator[None]:
    """Without what compiled code writes to the console; what Python writes there comes through."""
    python, ours = sys.stderr, None
    with suppress(OSError, ValueError, AttributeError):
        if python.fileno() == 2:
            ours = os.fdopen(os.dup(2), "w", buffering=1, encoding=python.encoding, errors="backslashreplace")
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 2)
            sys.stderr = ours
    try:
        yield
    finally:
        if ours is not None:
            sys.stderr = python
            os.dup2(ours.fileno(), 2)
            ours.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the pages that Ray prints for its processes, and without a new Ray for who calls one that is gone."""
    from ray._private import auto_init_hook, worker

    before = worker.print_to_stdstream, auto_init_hook.enable_auto_connect
    worker.print_to_stdstream, auto_init_hook.enable_auto_connect = lambda *args, **options: None, False
    try:
        yield
    finally:
        worker.print_to_stdstream, auto_init_hook.enable_auto_connect = before
