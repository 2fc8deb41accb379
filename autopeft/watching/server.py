"""A page on this machine that shows a running search, and takes requests to it.

Only who has the address with its token is answered: other users of the machine have not, and neither have pages of
other sites, whose requests lack the header. Nothing that is sent is run: it is a request as `requests` reads it.
"""

from __future__ import annotations

import hmac
import json
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from autopeft.errors import AutopeftError
from autopeft.plugins import command_line
from autopeft.searching.highlights import export_command
from autopeft.watching.drawing import drawing
from autopeft.watching.folder import Watched
from autopeft.watching.now import Now
from autopeft.watching.requests import End, Request, Stop, put, request_of

HOST = "127.0.0.1"
#: Where the page sends its token.
HEADER = "X-Autopeft-Token"
#: Bytes of a request.
_MOST = 2**20
_NAMES = (HOST, "localhost", "[::1]")


class Server(ThreadingHTTPServer):
    """Serves one run folder; `address` is what to open."""

    daemon_threads = True

    def __init__(self, watched: Watched, port: int = 0) -> None:
        self.watched, self.token, self.nonce = watched, secrets.token_urlsafe(24), secrets.token_urlsafe(12)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise AutopeftError(f"port {port}: cannot be listened at ({error.strerror}); give another --port") from None

    @property
    def address(self) -> str:
        """With the token that opens it."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    def page(self) -> str:
        """The page, with what its own script needs."""
        text = resources.files("autopeft.watching").joinpath("page.html").read_text(encoding="utf-8")
        return text.replace("{{token}}", self.token).replace("{{nonce}}", self.nonce)

    def state(self) -> dict[str, Any]:
        """All that the page shows."""
        picture, now, run = self.watched.picture(), self.watched.now(), self.watched.run
        return {
            "now": now.model_dump(mode="json"),
            "lives": now.lives,
            "commands": [export_command(run, "best"), command_line("report", run)],
            "picture": None if picture is None else picture.to_json(),
            "drawing": None if picture is None else drawing(picture),
        }


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "autopeft", ""

    def do_GET(self) -> None:
        """The page to who has its address, the state to the page."""
        parts = urlsplit(self.path)
        if parts.path == "/" and self._is_ours(parse_qs(parts.query).get("token", [""])[0]):
            self._answer(HTTPStatus.OK, self.server.page(), "text/html")
        elif parts.path == "/state" and self._is_ours(self.headers.get(HEADER, "")):
            self._guarded(self.server.state)
        else:
            self._refuse()

    def do_POST(self) -> None:
        """A request to the search."""
        if self.path != "/requests" or not self._is_ours(self.headers.get(HEADER, "")):
            self._refuse()
            return
        self._guarded(self._put)

    def _put(self) -> dict[str, Any]:
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            raise AutopeftError("request: its length is missing") from None
        if not 0 <= length <= _MOST:
            raise AutopeftError(f"request: at most {_MOST:,} bytes")
        try:
            data = json.loads(self.rfile.read(length).decode())
        except (ValueError, RecursionError):
            raise AutopeftError("request: not valid JSON") from None
        if not isinstance(data, dict):
            raise AutopeftError("request: expected a JSON object")
        request = request_of(data, "request")
        _check(request, self.server.watched.now())
        return {"id": put(self.server.watched.run, request)}

    def _is_ours(self, token: str) -> bool:
        """Whether it knows the token, and was asked by a name of this machine: another's name may lead here too."""
        name = self.headers.get("Host", "").rpartition(":")[0]
        origin = self.headers.get("Origin")
        own = {f"http://{one}:{self.server.server_port}" for one in _NAMES}
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        return known and name in _NAMES and (origin is None or origin in own)

    def _guarded(self, action: Any) -> None:
        try:
            found, status = action(), HTTPStatus.OK
        except AutopeftError as error:
            found, status = {"error": str(error)}, HTTPStatus.BAD_REQUEST
        self._answer(status, json.dumps(found, allow_nan=False, default=str), "application/json")

    def _refuse(self) -> None:
        self._answer(HTTPStatus.FORBIDDEN, "open the address that 'autopeft watch --web' printed\n", "text/plain")

    def _answer(self, status: HTTPStatus, text: str, kind: str) -> None:
        body, nonce = text.encode(), self.server.nonce
        self.send_response(status)
        policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address holds the token."""


def _check(request: Request, now: Now) -> None:
    """`AutopeftError` for what the search would not see to."""
    if not now.lives:
        raise AutopeftError("request: the search is not running")
    if now.phase not in ("beginning", "searching"):
        raise AutopeftError("request: the search begins no more trainings of its own; it is at its last steps")
    if now.phase == "beginning" and isinstance(request, End):
        # It would be taken for one of an earlier run, and dropped.
        raise AutopeftError("request: the search has not begun to train yet; ask again when it does")
    if isinstance(request, Stop):
        running = {one.number: one for one in now.running}
        if request.number not in running:
            raise AutopeftError(f"request: #{request.number} is not in training")
        if running[request.number].is_last:
            raise AutopeftError(f"request: #{request.number} is in its last epoch, and is not stopped before that")
