"""A Hugging Face Hub on two far ends: the Hub itself, and the CDN that its large files come from.

It speaks what `huggingface_hub` asks for, and what the real Hub is known to answer: redirects to signed links of the
CDN for large files, a redirect of its own for small ones, error codes in headers. `integration/test_hub_peers.py`
proves it with released clients. Repositories are edited while it runs; a path that a test scripts with `hub.far.on`
is answered by that script instead.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, parse_qsl, quote, unquote

import trio

from tests.fakes.far_end import Answer, FarEnd, Request, far_end, redirect, status, whole

Kind = Literal["model", "dataset", "space"]
KINDS: Mapping[str, Kind] = {"models": "model", "datasets": "dataset", "spaces": "space"}
MARKS = ("revision", "tree", "paths-info", "refs", "auth-check")


@dataclass(frozen=True)
class Elsewhere:
    """A large file whose bytes another server has: its CDN."""

    url: str
    encoded: str
    size: int


@dataclass
class Repo:
    """One repository. The n-th commit of it has the id n."""

    kind: Kind
    name: str
    lfs: set[str]
    commits: list[dict[str, bytes]] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    gated: Literal[False, "auto", "manual"] = False
    is_private: bool = False
    tokens: set[str] = field(default_factory=set)
    """Those that may see a private, and read a gated repository."""
    elsewhere: dict[str, Elsewhere] = field(default_factory=dict)
    """What to tell of large files, instead of the bytes that were committed."""
    edit: Callable[[dict[str, Any]], None] = lambda info: None
    """Changes a listing before it is sent."""

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit with exactly these files."""
        self.commits.append(dict(files))
        self.branches[branch] = f"{len(self.commits):040x}"
        return self.branches[branch]

    def resolve(self, revision: str) -> str | None:
        """Give the commit of a revision."""
        names = self.branches | self.tags | self.pull_requests
        commit = names.get(revision, revision)
        return commit if len(commit) == 40 and 0 < int(commit, 16) <= len(self.commits) else None

    def files(self, commit: str) -> dict[str, bytes]:
        return self.commits[int(commit, 16) - 1]

    def sibling(self, path: str, body: bytes, *, blobs: bool) -> dict[str, Any]:
        """Describe a file as the info of a repository does."""
        if not blobs:
            return {"rfilename": path}
        encoded, size = self.proof(path, body)
        told = {"rfilename": path, "size": size, "blobId": self.oid(path, body)}
        if path in self.lfs:
            told["lfs"] = {"sha256": encoded, "size": size, "pointerSize": len(_pointer(encoded, size))}
        return told

    def entry(self, path: str, body: bytes) -> dict[str, Any]:
        """Describe a file as a tree does."""
        encoded, size = self.proof(path, body)
        told = {"type": "file", "path": path, "oid": self.oid(path, body), "size": size}
        if path in self.lfs:
            told["lfs"] = {"oid": encoded, "size": size, "pointerSize": len(_pointer(encoded, size))}
        return told

    def oid(self, path: str, body: bytes) -> str:
        """Give the id of what git keeps: the file, or the pointer to it."""
        kept = _pointer(*self.proof(path, body)) if path in self.lfs else body
        return hashlib.sha1(b"blob %d\0" % len(kept) + kept, usedforsecurity=False).hexdigest()

    def etag(self, path: str) -> str:
        """Give what the Hub tells of a file's content on main: its SHA-256, or the id that git gives a small one."""
        body = self.files(self.branches["main"])[path]
        return self.proof(path, body)[0] if path in self.lfs else self.oid(path, body)

    def proof(self, path: str, body: bytes) -> tuple[str, int]:
        """Give the SHA-256 and the size of a file."""
        if (there := self.elsewhere.get(path)) is not None:
            return there.encoded, there.size
        return hashlib.sha256(body).hexdigest(), len(body)


@dataclass
class FakeHub:
    """A running Hub."""

    far: FarEnd
    cdn: FarEnd
    repos: dict[tuple[Kind, str], Repo] = field(default_factory=dict)
    renamed: dict[tuple[Kind, str], str] = field(default_factory=dict)
    page_size: int = 1000
    throttled: int = 0
    """So many requests from now on get a 429."""
    link_uses: int = 1_000_000
    """So often a signed link works."""
    _links: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.far.url("")

    @property
    def host(self) -> str:
        return self.far.host

    def add(self, name: str, files: Mapping[str, bytes], *, lfs: set[str] | None = None, kind: Kind = "model") -> Repo:
        """Make a repository with one commit on main."""
        repo = self.repos[kind, name] = Repo(kind, name, lfs or set())
        repo.commit(files)
        return repo

    def rename(self, repo: Repo, name: str) -> None:
        """Give a repository another name; the old one redirects to it."""
        del self.repos[repo.kind, repo.name]
        self.renamed[repo.kind, repo.name] = name
        repo.name = name
        self.repos[repo.kind, name] = repo

    # --- requests ----------------------------------------------------------------------------------------------------

    async def answer(self, stream: trio.SocketStream, request: Request) -> None:
        """Answer as the Hub."""
        await self._answer_to(request)(stream, request)

    def _answer_to(self, request: Request) -> Answer:
        if self.throttled:
            self.throttled -= 1
            return status(429, {"RateLimit": '"api";r=0;t=0', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'})
        path, _, query = request.path.partition("?")
        if path.startswith("/api/resolve-cache/"):
            return self._small_file(path)
        if path == "/api/whoami-v2":
            token = _token(request)
            known = any(token in repo.tokens for repo in self.repos.values())
            return _json({"name": "tester", "type": "user"}) if known else _refuse(401, None, "Invalid credentials")
        if path.startswith("/api/"):
            return self._api(path.split("/")[2:], parse_qs(query), request)
        return self._resolve(path, request)

    def _find(self, kind: Kind, name: str, request: Request) -> Repo | Answer:
        """Give a repository, or what the caller is told instead of one."""
        if (target := self.renamed.get((kind, name))) is not None:
            return redirect(request.path.replace(name, target), code=307)
        repo, token = self.repos.get((kind, name)), _token(request)
        if repo is None or (repo.is_private and token not in repo.tokens):
            # Nobody learns whether it exists; an anonymous caller is asked who he is.
            return _refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        return repo

    def _api(self, parts: list[str], query: Mapping[str, list[str]], request: Request) -> Answer:
        kind = KINDS.get(parts[0])
        if kind is None:
            return status(404)
        at = next((n for n, part in enumerate(parts) if part in MARKS), len(parts))
        repo = self._find(kind, "/".join(parts[1:at]), request)
        if not isinstance(repo, Repo):
            return repo
        mark, rest = (parts[at], parts[at + 1 :]) if at < len(parts) else ("revision", ["main"])
        if mark == "auth-check":
            return self._gate(repo, request) or _json({})
        if mark == "refs":
            return _json({key: _refs(key, named) for key, named in
                          (("branches", repo.branches), ("tags", repo.tags), ("converts", {}))})  # fmt: skip
        revision = unquote(rest[0])
        commit = repo.resolve(revision)
        if commit is None:
            return _refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if mark == "tree":
            return self._tree(repo, commit, unquote("/".join(rest[1:])), query, request)
        if mark == "paths-info":
            wanted = [value for key, value in parse_qsl(request.body.decode()) if key == "paths"]
            files = repo.files(commit)
            return _json([repo.entry(path, files[path]) for path in wanted if path in files])
        return _json(self._info(repo, commit, blobs=query.get("blobs") == ["true"]))

    def _info(self, repo: Repo, commit: str, *, blobs: bool) -> dict[str, Any]:
        siblings = [repo.sibling(path, body, blobs=blobs) for path, body in sorted(repo.files(commit).items())]
        info = {"id": repo.name, "sha": commit, "private": repo.is_private, "gated": repo.gated, "disabled": False,
                "tags": [], "siblings": siblings}  # fmt: skip
        repo.edit(info)
        return info

    def _tree(self, repo: Repo, commit: str, folder: str, query: Mapping[str, list[str]], request: Request) -> Answer:
        prefix, is_deep = f"{folder}/" if folder else "", query.get("recursive", ["false"])[0].lower() == "true"
        entries: dict[str, dict[str, Any]] = {}
        for path, body in sorted(repo.files(commit).items()):
            if not path.startswith(prefix):
                continue
            *folders, _ = path.removeprefix(prefix).split("/")
            for depth in range(1, len(folders) + 1):
                inner = prefix + "/".join(folders[:depth])
                entries[inner] = {"type": "directory", "path": inner, "oid": "0" * 40, "size": 0}
            if is_deep or not folders:
                entries[path] = repo.entry(path, body)
        if not is_deep:
            entries = {path: entry for path, entry in entries.items() if "/" not in path.removeprefix(prefix)}
        if folder and not entries:
            return _refuse(404, "EntryNotFound", f"{folder} does not exist", commit)
        first = int(query.get("cursor", ["0"])[0])
        page = list(entries.values())[first : first + self.page_size]
        headers = {}
        if first + self.page_size < len(entries):
            bare = request.path.partition("&cursor")[0]
            headers["Link"] = f'<{self.far.url(bare)}&cursor={first + self.page_size}>; rel="next"'
        return _json(page, headers)

    def _resolve(self, path: str, request: Request) -> Answer:
        """Answer for a file: `/[datasets/]name/resolve/revision/path`."""
        before, mark, after = path.lstrip("/").partition("/resolve/")
        if not mark:
            return status(404)
        prefix, _, name = before.partition("/")
        kind = KINDS.get(prefix, "model")
        repo = self._find(kind, name if kind != "model" else before, request)
        if not isinstance(repo, Repo):
            return repo
        if (refused := self._gate(repo, request)) is not None:
            return refused
        revision, _, file = after.partition("/")
        commit = repo.resolve(unquote(revision))
        if commit is None:
            return _refuse(404, "RevisionNotFound", f"Invalid rev id: {unquote(revision)}")
        body = repo.files(commit).get(unquote(file))
        if body is None:
            return _refuse(404, "EntryNotFound", "Entry not found", commit)
        if unquote(file) in repo.lfs:
            return self._large_file(repo, unquote(file), commit)
        told = {"X-Repo-Commit": commit, "X-Linked-Size": len(body), "X-Linked-ETag": f'"{repo.oid("", body)}"'}
        return redirect(f"/api/resolve-cache/{repo.kind}s/{repo.name}/{commit}/{file}?x=1", code=307, headers=told)

    def _small_file(self, path: str) -> Answer:
        kind, *parts = path.removeprefix("/api/resolve-cache/").split("/")
        repo = next(r for r in self.repos.values() if f"{r.kind}s" == kind and "/".join(parts).startswith(r.name + "/"))
        commit, _, file = "/".join(parts).removeprefix(repo.name + "/").partition("/")
        body = repo.files(commit)[unquote(file)]
        return whole(body, etag=f'"{repo.oid("", body)}"', headers={"X-Repo-Commit": commit, "Accept-Ranges": "bytes"})

    def _large_file(self, repo: Repo, file: str, commit: str) -> Answer:
        body = repo.files(commit)[file]
        encoded, size = repo.proof(file, body)
        told = {
            "X-Repo-Commit": commit, "X-Linked-Size": size, "X-Linked-ETag": f'"{encoded}"', "Accept-Ranges": "bytes",
            "X-Xet-Hash": hashlib.sha256(encoded.encode()).hexdigest(),
        }  # fmt: skip
        if (there := repo.elsewhere.get(file)) is not None:
            return redirect(there.url, headers=told)
        link = f"/xet/{encoded}?Signature={len(self._links)}"
        self._links[link] = body, self.link_uses
        return redirect(self.cdn.url(link), headers=told)

    def _gate(self, repo: Repo, request: Request) -> Answer | None:
        if not repo.gated or (token := _token(request)) in repo.tokens:
            return None
        where = f"{self.url}/{quote(repo.name)}"
        message = (
            f"Access to {repo.kind} {repo.name} is restricted. You must have access to it and be authenticated: {where}"
        )
        return _refuse(403 if token else 401, "GatedRepo", message)

    async def answer_as_cdn(self, stream: trio.SocketStream, request: Request) -> None:
        """Answer as the CDN: with its own ETag, to links that it knows, never to credentials."""
        body, uses = self._links.get(request.path, (b"", 0))
        answer = status(403, body=b"expired")
        if "authorization" in request.headers:
            answer = status(400, body=b"only one auth mechanism allowed")
        elif uses:
            self._links[request.path] = body, uses - 1
            answer = whole(body, etag=f'"{hashlib.sha256(b"cdn" + body).hexdigest()}"')
        await answer(stream, request)


@asynccontextmanager
async def fake_hub() -> AsyncIterator[FakeHub]:
    """Run a Hub for the length of the block; its CDN is another host."""
    async with far_end() as far, far_end(host="127.0.0.2") as cdn:
        hub = FakeHub(far, cdn)
        far.otherwise, cdn.otherwise = hub.answer, hub.answer_as_cdn
        yield hub


def _pointer(encoded: str, size: int) -> bytes:
    """Write what git keeps of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{encoded}\nsize {size}\n".encode()


def _token(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _json(value: Any, headers: Mapping[str, object] | None = None) -> Answer:
    return status(200, {"Content-Type": "application/json"} | dict(headers or {}), json.dumps(value).encode())


def _refuse(code: int, error: str | None, message: str, commit: str | None = None) -> Answer:
    headers = {"X-Error-Message": message, "Content-Type": "application/json"}
    headers |= {"X-Error-Code": error} if error else {}
    headers |= {"X-Repo-Commit": commit} if commit else {}
    return status(code, headers, json.dumps({"error": message}).encode())


def _refs(kind: str, names: Mapping[str, str]) -> list[dict[str, str]]:
    folder = {"branches": "refs/heads", "tags": "refs/tags"}.get(kind, "refs/convert")
    return [{"name": name, "ref": f"{folder}/{name}", "targetCommit": commit} for name, commit in names.items()]
