"""A small server on this machine that speaks what the client of the Hugging Face hub calls to upload a folder."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Repositories in memory: `files[repository][path]` is content, `tokens` what came with the calls."""

    def __init__(self, token: str) -> None:
        self.token, self.tokens = token, set[str | None]()
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> Any:
        """What a POST gets, or None for what is not known."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.files.setdefault(name, {})
            self.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return {"url": f"{self.address}/{name}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in files}
            return {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return {"transfer": "basic", "objects": [self._lfs(one) for one in objects]}
        if "/commit/" in path:
            return self._commit(path, body)
        return {} if path == "/verify" else None

    def _lfs(self, one: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.address}/blobs/{one['oid']}", "header": {}}
        return {**one, "actions": {"upload": upload, "verify": {"href": f"{self.address}/verify", "header": {}}}}

    def _commit(self, path: str, body: bytes) -> dict[str, Any]:
        repository = path.removeprefix("/api/models/").partition("/commit/")[0]
        for line in body.splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "file":
                self.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif step["key"] == "lfsFile":
                self.files[repository][value["path"]] = self.blobs[value["oid"]]
        oid = "0" * 40
        return {"commitUrl": f"{self.address}/{repository}/commit/{oid}", "commitOid": oid}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self._body()
                sent = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
                hub.tokens.add(sent)
                if self.path != "/verify" and sent != hub.token:
                    return self._say(403, {"error": f"the token {sent} may not write here"})
                found = hub.answer(self.path.partition("?")[0], body)
                return self._say(404 if found is None else 200, found or {})

            def do_PUT(self) -> None:
                hub.blobs[self.path.rpartition("/")[2]] = self._body()
                self._say(200, {})

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def _say(self, status: int, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
