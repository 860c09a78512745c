"""A Hugging Face Hub on 127.0.0.1: the calls that huggingface_hub makes to publish a model, and their failures."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "S3cretTokenOfTheTest" * 2
LFS_ENDINGS = (".safetensors", ".png")
Answer = tuple[int, dict[str, str], Any]


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """One repository: its revisions by name, each a mapping of path to content."""

    private: bool
    revisions: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}, "0" * 40: {}})
    head: str = "0" * 40

    @property
    def main(self) -> dict[str, bytes]:
        return self.revisions["main"]


class StandIn:
    """What the handler asks.

    `faults` maps a part of a path to what is answered instead: a status, an answer, or a function of the request.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, int | Answer | Callable[[str, bytes], Answer | None]] = {}
        self.seen: list[str] = []
        self.tokens: set[str] = set()
        self.role = "write"
        self.lies: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda entry: entry
        """What is done to each entry of a listing."""
        self.url = ""

    def answer(self, method: str, target: str, body: bytes, token: str) -> Answer:
        parts = urlsplit(target)
        path, query = parts.path, parse_qs(parts.query)
        self.seen.append(f"{method} {path}")
        self.tokens.add(token)
        for mark, fault in self.faults.items():
            if mark in f"{method} {path}":
                told = fault(path, body) if callable(fault) else fault
                if told is not None:
                    return (told, {}, {"error": f"made up {told}"}) if isinstance(told, int) else told
        return self.put_object(path, body) if path.startswith("/lfs/") else self.hub(method, path, query, body, token)

    def hub(self, method: str, path: str, query: dict[str, Any], body: bytes, token: str) -> Answer:
        if token != f"Bearer {TOKEN}":
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, {"error": "Invalid token"}
        fixed = {
            "GET /api/whoami-v2": self.whoami,
            "POST /api/repos/create": self.create,
            "POST /api/validate-yaml": lambda body: (200, {}, {"errors": [], "warnings": []}),
        }
        if (known := fixed.get(f"{method} {path}")) is not None:
            return known(body)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(body)
        _, _, rest = path.partition("/api/models/")
        owner, name, *call = rest.split("/")
        repo = self.repos.get(f"{owner}/{name}")
        if repo is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"}
        if not call or call[0] == "revision":
            facts = {"id": f"{owner}/{name}", "private": repo.private, "sha": repo.head, "tags": [], "siblings": []}
            return 200, {}, facts
        calls = {"preupload": self.preupload, "commit": self.commit, "paths-info": self.listing}
        known = calls.get(
            call[0], lambda *_: (404, {}, {"error": "Sorry, we can't find the page you are looking for."})
        )
        return known(f"{owner}/{name}", repo, unquote(call[1]), body, "create_pr" in query)

    def whoami(self, _body: bytes) -> Answer:
        auth = {"type": "access_token", "accessToken": {"displayName": "x", "role": self.role}}
        return 200, {}, {"type": "user", "name": "anna", "orgs": [], "auth": auth}

    def create(self, body: bytes) -> Answer:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repos:
            return 409, {}, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
        self.repos[name] = Repo(private=asked.get("visibility") == "private")
        return 200, {}, {"url": f"{self.url}/{name}"}

    def preupload(self, _name: str, repo: Repo, revision: str, body: bytes, _pr: bool) -> Answer:
        files = []
        for file in json.loads(body)["files"]:
            there = repo.revisions.get(revision, {}).get(file["path"])
            lfs = file["path"].endswith(LFS_ENDINGS)
            oid = None if there is None else hashlib.sha256(there).hexdigest() if lfs else git_hash(there)
            mode = "lfs" if lfs else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {}, {"files": files}

    def batch(self, body: bytes) -> Answer:
        objects = []
        for one in json.loads(body)["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.objects:
                entry["actions"] = {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}
            objects.append(entry)
        return 200, {}, {"transfer": "basic", "objects": objects}

    def put_object(self, path: str, body: bytes) -> Answer:
        oid = path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {}, {"error": "the content is not what its name says"}
        self.objects[oid] = body
        return 200, {}, {}

    def commit(self, name: str, repo: Repo, revision: str, body: bytes, pr: bool) -> Answer:
        tree = dict(repo.revisions[revision])
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return 400, {}, {"error": "Your push was rejected because an LFS pointer pointed to nothing"}
                tree[value["path"]] = self.objects[value["oid"]]
        oid = hashlib.sha1(repr(sorted(tree.items())).encode()).hexdigest()
        repo.revisions[oid] = tree
        repo.revisions["refs/pr/1" if pr else "main"] = tree
        repo.head = repo.head if pr else oid
        told = {"commitUrl": f"{self.url}/{name}/commit/{oid}", "commitOid": oid}
        return 200, {}, told | ({"pullRequestUrl": f"{self.url}/{name}/discussions/1"} if pr else {})

    def listing(self, _name: str, repo: Repo, revision: str, body: bytes, _pr: bool) -> Answer:
        if revision not in repo.revisions:
            return 404, {"X-Error-Code": "RevisionNotFound"}, {"error": "no such revision"}
        tree = repo.revisions[revision]
        entries = []
        for path in parse_qs(body.decode())["paths"]:
            if path not in tree:
                continue
            data = tree[path]
            entry = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
            if path.endswith(LFS_ENDINGS):
                digest = hashlib.sha256(data).hexdigest()
                entry |= {
                    "oid": git_hash(digest.encode()),
                    "lfs": {"oid": digest, "size": len(data), "pointerSize": 130},
                }
            if (told := self.lies(entry)) is not None:
                entries.append(told)
        return 200, {}, entries


class Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, tree = self.hub.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
        data = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_HEAD = serve

    def log_message(self, *_: object) -> None:
        pass


def start() -> tuple[StandIn, Callable[[], None]]:
    """A running stand-in, and what stops it."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return hub, stop
