"""A Hub on this machine: as much of its protocol as an upload needs."""

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub(ThreadingHTTPServer):
    """Keeps what is uploaded, in memory."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.private, self.objects, self.files, self.refuse = {}, {}, {}, False

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        name = re.match(r"/api/datasets/([^/]+/[^/?]+)", self.path)
        if name is None or name[1] not in self.server.private:
            return self._reply({"error": "Repository not found"}, 404)
        info = {"id": name[1], "private": self.server.private[name[1]], "tags": [], "downloads": 0, "likes": 0}
        return self._reply(info | {"sha": "0" * 40, "siblings": []})

    def do_PUT(self):
        self.server.objects[self.path.rsplit("/", 1)[1]] = self._body()
        self._reply({})

    def do_POST(self):
        body = self._body()
        if self.server.refuse:
            return self._reply({"error": "Invalid credentials"}, 401)
        for part, answer in {
            "/api/repos/create": self._create,
            "/api/validate-yaml": lambda _: ({"errors": [], "warnings": []}, 200),
            "/preupload/": self._preupload,
            "/info/lfs/objects/batch": self._batch,
            "/commit/": self._commit,
        }.items():
            if part in self.path:
                return self._reply(*answer(body))
        return self._reply({"error": f"unknown address {self.path}"}, 404)

    def _create(self, body):
        told = json.loads(body)
        name = f"{told['organization']}/{told['name']}"
        url = f"{self.server.address}/datasets/{name}"
        if name in self.server.private:
            return {"error": "exists", "url": url}, 409
        self.server.private[name] = told.get("private", told.get("visibility") == "private")
        return {"url": url}, 200

    def _preupload(self, body):
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith("parquet") else "regular" for path in paths}
        told = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
        return {"files": told}, 200

    def _batch(self, body):
        wanted = json.loads(body)["objects"]
        actions = [{"upload": {"href": f"{self.server.address}/put/{one['oid']}", "header": {}}} for one in wanted]
        objects = [one | {"actions": action} for one, action in zip(wanted, actions, strict=True)]
        return {"transfer": "basic", "objects": objects}, 200

    def _commit(self, body):
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.objects[value["oid"]]
        url = f"{self.server.address}/datasets/me/set/commit/{'1' * 40}"
        return {"commitUrl": url, "commitOid": "1" * 40, "success": True}, 200


@contextmanager
def fake_hub():
    """Run a Hub while the block runs."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
