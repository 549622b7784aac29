"""A small stand-in for the Hugging Face Hub on 127.0.0.1: create, upload in one commit, list, download at a revision.

    with HubServer(tmp_path) as hub:
        subprocess.run([...], env=hub.environment())        # HF_ENDPOINT, HF_TOKEN, an empty cache
        hub.repos["tester/cells"].commits[-1].files["t4s.json"]

Speaks only what `huggingface_hub` says for those (repos/create, auth-check, validate-yaml, preupload, LFS batch and
PUT, commit as ndjson, revision, tree, resolve). Its faults can be switched on: `broken_upload`, `down`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

USER = "tester"
WRITES, READS = "hf_writes", "hf_reads"  # the tokens it knows
LFS_FROM = 10_000  # bytes; and every .safetensors or picture


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool = False
    commits: list[Commit] = field(default_factory=list)

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == revision), None)

    def add(self, message: str, files: dict[str, bytes]) -> Commit:
        content = b"".join(name.encode() + files[name] for name in sorted(files))
        self.commits.append(Commit(hashlib.sha1(b"%d " % len(self.commits) + content).hexdigest(), message, files))
        return self.commits[-1]


class HubServer:
    def __init__(self, home: Path):
        self.home = home
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.log: list[str] = []  # "METHOD path", in order
        self.broken_upload = False  # the file store has no room left
        self.down = False  # the Hub answers 418 to everything, which nobody retries
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def repo(self, name: str, files: dict[str, bytes] | None = None, private: bool = False) -> Repo:
        """Make a repository as the Hub does: its first commit holds .gitattributes."""
        self.repos[name] = Repo(private)
        self.repos[name].add("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})})
        return self.repos[name]

    def environment(self, token: str | None = WRITES, cache: str = "cache") -> dict[str, str]:
        """For a process that shall take this server for the Hub, with a cache folder of its own."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_OFFLINE"))}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(self.home / cache), "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # fmt: skip
        return {**kept, **ours, **({"HF_TOKEN": token} if token else {})}


def taken_for_the_hub(server: HubServer, monkeypatch, cache: str = "cache") -> None:
    """This process too talks to `server`, with a login that may write and a cache of its own."""
    settings = {
        "ENDPOINT": server.url,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(server.home / "no-token"),
        "HF_HUB_CACHE": str(server.home / cache),
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", WRITES)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status: int, body: object = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _fail(self, status: int, message: str, code: str = "") -> None:
        self._send(status, {"error": message}, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))

    def do_GET(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._read()
        self.hub.log.append(f"{self.command} {path}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if self.hub.down:
            self._fail(418, "out of order")
        elif token not in (None, WRITES, READS):
            self._fail(401, "Invalid user token.")
        else:
            for method, pattern, action in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split():
                    return action(self, token, body, **found.groupdict())
            self._fail(404, f"no such address: {self.command} {path}")

    do_HEAD = do_POST = do_PUT = do_GET

    def _repo(self, name: str, token: str | None, write: bool = False) -> Repo | None:
        """The repository, or None once an answer is sent: 404 if it is not to be seen, 403 if not to be written."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and (token is None or not name.startswith(USER + "/"))):
            self._fail(401 if token is None else 404, "Repository not found", "RepoNotFound")
        elif write and (token != WRITES or not name.startswith(USER + "/")):
            self._fail(401 if token is None else 403, "You have no right to write there.")
        else:
            return repo
        return None

    def _commit(self, name: str, token: str | None, revision: str) -> Commit | None:
        repo = self._repo(name, token)
        commit = repo.at(revision) if repo else None
        if repo and commit is None:
            self._fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def whoami(self, token, body):
        if token is None:
            return self._fail(401, "Invalid user token.")
        self._send(200, {"name": USER, "type": "user", "orgs": [], "auth": {}})

    def create(self, token, body):
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        if token is None:
            self._fail(401, "Invalid user token.")
        elif token != WRITES or not name.startswith(USER + "/"):
            self._fail(403, "You don't have the rights to create a model under this namespace")
        elif name in self.hub.repos:
            self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        else:
            self.hub.repo(name, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
            self._send(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def may_write(self, token, body, name):
        if self._repo(name, token, write=True):
            self._send(200, {})

    def validate(self, token, body):
        content = json.loads(body)["content"]
        bad = [] if content.startswith("---\n") else [{"message": "the card has no metadata"}]
        self._send(400 if bad else 200, {"errors": bad, "warnings": []})

    def preupload(self, token, body, name, revision):
        if repo := self._repo(name, token, write=True):
            files, answer = repo.commits[-1].files, []
            for file in json.loads(body)["files"]:
                large = file["size"] >= LFS_FROM or file["path"].endswith((".safetensors", ".png", ".jpg"))
                old = files.get(file["path"])
                oid = None if old is None else hashlib.sha256(old).hexdigest() if large else git_oid(old)
                mode = "lfs" if large else "regular"
                answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._send(200, {"files": answer})

    def batch(self, token, body, name):
        if self._repo(name, token, write=True):
            objects = [{**wanted, "actions": {"upload": {"href": f"{self.hub.url}/store/{wanted['oid']}"}}}
                       for wanted in json.loads(body)["objects"]]  # fmt: skip
            self._send(200, {"transfer": "basic", "objects": objects})

    def store(self, token, body, oid):
        if self.hub.broken_upload:
            return self._fail(507, "no room left")
        if hashlib.sha256(body).hexdigest() != oid:
            return self._fail(400, "the content does not match its sha256")
        self.hub.uploads[oid] = body
        self._send(200, b"")

    def commit(self, token, body, name, revision):
        if not (repo := self._repo(name, token, write=True)):
            return
        files, message = dict(repo.at(revision).files), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.uploads[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case key:
                    return self._fail(400, f"unknown line {key}")
        new = repo.add(message, files)
        self._send(200, {"success": True, "commitOid": new.oid, "commitUrl": f"{self.hub.url}/{name}/commit/{new.oid}"})

    def info(self, token, body, name, revision="main"):
        if commit := self._commit(name, token, revision):
            siblings = [{"rfilename": path, "size": len(data)} for path, data in sorted(commit.files.items())]
            self._send(200, {"id": name, "modelId": name, "sha": commit.oid, "private": self.hub.repos[name].private,
                             "tags": [], "siblings": siblings})  # fmt: skip

    def tree(self, token, body, name, revision):
        if commit := self._commit(name, token, revision):
            self._send(200, [{"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
                             for path, data in sorted(commit.files.items())])  # fmt: skip

    def resolve(self, token, body, name, revision, path):
        if commit := self._commit(name, token, revision):
            if path not in commit.files:
                return self._fail(404, "Entry not found", "EntryNotFound")
            data = commit.files[path]
            self._send(200, data, X_Repo_Commit=commit.oid, ETag=f'"{hashlib.sha256(data).hexdigest()}"',
                       Content_Type="application/octet-stream")  # fmt: skip


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


NAME, REVISION = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
KIND = "(?:models|spaces)"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("GET", f"/api/{KIND}/{NAME}/auth-check/write", Handler.may_write),
    ("POST", f"/api/{KIND}/{NAME}/preupload/{REVISION}", Handler.preupload),
    ("POST", f"/api/{KIND}/{NAME}/commit/{REVISION}", Handler.commit),
    ("GET", f"/api/{KIND}/{NAME}/tree/{REVISION}", Handler.tree),
    ("GET", f"/api/{KIND}/{NAME}/revision/{REVISION}", Handler.info),
    ("GET", f"/api/{KIND}/{NAME}", Handler.info),
    ("POST", rf"/(?:spaces/)?{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/store/(?P<oid>[0-9a-f]{64})", Handler.store),
    ("GET HEAD", f"/{NAME}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
]
