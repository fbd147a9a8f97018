"""Paths of the Hub's API: names with traps, markers in odd places, what is encoded and what is not."""

import pytest

from nekko.api.hub.route import Endpoint, Route
from nekko.errors import LocatorInvalidError, RequestInvalidError
from nekko.sources.hub import make_hub

FILE, INFO, TREE, PATHS, REFS = Endpoint.FILE, Endpoint.INFO, Endpoint.TREE, Endpoint.PATHS, Endpoint.REFS


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/acme/Tiny/resolve/main/a/b%20c%23.txt", Route(FILE, "model", "acme/Tiny", "main", "a/b c#.txt")),
        ("/gpt2/resolve/refs%2Fpr%2F1/config.json", Route(FILE, "model", "gpt2", "refs/pr/1", "config.json")),
        ("/datasets/acme/data/resolve/v1/x", Route(FILE, "dataset", "acme/data", "v1", "x")),
        ("/spaces/acme/app/resolve/main/app.py", Route(FILE, "space", "acme/app", "main", "app.py")),
        ("/datasets/squad/resolve/main/x", Route(FILE, "dataset", "squad", "main", "x")),
        ("/acme/resolve/resolve/main/x", Route(FILE, "model", "acme/resolve", "main", "x")),
        ("/acme/Tiny/resolve/main/resolve/x", Route(FILE, "model", "acme/Tiny", "main", "resolve/x")),
        ("/api/models/acme/Tiny", Route(INFO, "model", "acme/Tiny")),
        ("/api/models/gpt2", Route(INFO, "model", "gpt2")),
        ("/api/models/acme/tree", Route(INFO, "model", "acme/tree")),
        ("/api/spaces/acme/app/revision/refs%2Fpr%2F1", Route(INFO, "space", "acme/app", "refs/pr/1")),
        ("/api/models/acme/Tiny/revision/refs/pr/1", Route(INFO, "model", "acme/Tiny", "refs/pr/1")),
        ("/api/models/gpt2/revision/main", Route(INFO, "model", "gpt2", "main")),
        ("/api/models/acme/tree/tree/main", Route(TREE, "model", "acme/tree", "main")),
        ("/api/models/gpt2/tree/main/a%2Fb/c", Route(TREE, "model", "gpt2", "main", "a/b/c")),
        ("/api/models/acme/Tiny/tree/main/", Route(TREE, "model", "acme/Tiny", "main")),
        ("/api/datasets/acme/data/paths-info/main", Route(PATHS, "dataset", "acme/data", "main")),
        ("/api/models/acme/Tiny/refs", Route(REFS, "model", "acme/Tiny")),
        ("/api/models/gpt2/refs", Route(REFS, "model", "gpt2")),
        ("/api/models/acme/Tiny/auth-check", Route(Endpoint.ACCESS, "model", "acme/Tiny")),
        ("/acme%2FTiny/resolve/main/x", Route(FILE, "model", "acme/Tiny", "main", "x")),
        ("/", Route(Endpoint.FRONT)),
        ("/acme/Tiny", Route(Endpoint.OTHER)),
        ("/acme/Tiny/resolve/main", Route(Endpoint.OTHER)),
        ("/a/b/c/resolve/main/x", Route(Endpoint.OTHER)),
        ("/api/models", Route(Endpoint.OTHER)),
        ("/api/models/a/b/c", Route(Endpoint.OTHER)),
        ("/api/whoami-v2", Route(Endpoint.OTHER)),
    ],
)
def test_path_is_taken_apart_with_and_without_its_root(path: str, expected: Route) -> None:
    for given in (path, f"/hf{path}"):
        assert Route.parse(given.encode()) == expected


def test_what_is_no_utf_8_is_refused() -> None:
    with pytest.raises(RequestInvalidError):
        Route.parse(b"/acme/Tiny/resolve/main/%ff")


@pytest.mark.parametrize(
    ("repository", "revision", "file"),
    [
        ("acme/Tiny/more", "main", None),
        ("acme--x/Tiny", "main", None),
        ("acme/Tiny.git", "main", None),
        ("acme/..", "main", None),
        ("", "main", None),
        ("acme/Tiny", "", None),
        ("acme/Tiny", "a..b", None),
        ("acme/Tiny", "main", "../x"),
        ("acme/Tiny", "main", "/etc/passwd"),
        ("acme/Tiny", "main", "a/"),
    ],
)
def test_names_that_cannot_be_are_refused(repository: str, revision: str, file: str | None) -> None:
    with pytest.raises(LocatorInvalidError):
        make_hub("model", repository, revision, file)


def test_locator_has_the_name_that_its_url_would_have() -> None:
    assert make_hub("dataset", "acme/Data").name == "hf://huggingface.co/datasets/acme/Data@main"
    file = make_hub("model", "gpt2", "refs/pr/1", "a b/c")
    assert file.name == file.given == "hf://huggingface.co/gpt2@refs%2Fpr%2F1/a%20b/c"
    assert file.at("f" * 40).name == f"hf://huggingface.co/gpt2@{'f' * 40}"
