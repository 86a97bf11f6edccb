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
        if self.path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told.get('organization') or 'me'}/{told['name']}"
            if name in self.server.private:
                return self._reply({"error": "exists", "url": f"{self.server.address}/datasets/{name}"}, 409)
            self.server.private[name] = told.get("private", told.get("visibility") == "private")
            return self._reply({"url": f"{self.server.address}/datasets/{name}"})
        if self.path == "/api/validate-yaml":
            return self._reply({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = {path: "lfs" if path.endswith("parquet") else "regular" for path in (f["path"] for f in files)}
            told = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self._reply({"files": told})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                one | {"actions": {"upload": {"href": f"{self.server.address}/put/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            return self._reply({"transfer": "basic", "objects": objects})
        if "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.objects[value["oid"]]
            url = f"{self.server.address}/datasets/me/set/commit/{'1' * 40}"
            return self._reply({"commitUrl": url, "commitOid": "1" * 40, "success": True})
        return self._reply({"error": f"unknown address {self.path}"}, 404)


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
