"""Paths below /v2: what is asked for, and of which registry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekko.errors import DigestInvalidError, InvalidError, ReferenceInvalidError
from nekko.oci import mediatype
from nekko.oci.distribution import Endpoint, Route, accepts_index

DIGEST = f"sha256:{'a' * 64}"
ROUTES = {
    "/v2": Route(Endpoint.PING),
    "/v2/": Route(Endpoint.PING),
    "/v2/app/manifests/V1.0-RC1": Route(Endpoint.MANIFEST, "app", "V1.0-RC1"),
    "/v2/a/b/c/d/e/f/manifests/v1": Route(Endpoint.MANIFEST, "a/b/c/d/e/f", "v1"),
    "/v2/localhost:5000/app/blobs/sha256:0": Route(Endpoint.BLOB, "localhost:5000/app", "sha256:0"),
    "/v2/manifests/tags/list": Route(Endpoint.TAGS, "manifests"),
    "/v2/a/blobs/manifests/b": Route(Endpoint.MANIFEST, "a/blobs", "b"),
    "/v2/app/referrers/sha256:0": Route(Endpoint.REFERRERS, "app", "sha256:0"),
    "/v2/app/manifests/": Route(Endpoint.MANIFEST, "app", ""),
    "/v2/app/blobs/uploads/": Route(Endpoint.OTHER),
    "/v2/app/blobs/uploads/id": Route(Endpoint.OTHER),
    "/v2/_catalog": Route(Endpoint.OTHER),
    "/v2/tags/list": Route(Endpoint.OTHER),
    "/v2/manifests/v1": Route(Endpoint.OTHER),
    "/v2/app": Route(Endpoint.OTHER),
}
HUB, NONE = "docker.io", None
REFERENCES = {
    ("kube-scheduler", "registry.k8s.io", "v1"): "registry.k8s.io/kube-scheduler:v1",
    ("registry.k8s.io/kube-scheduler", NONE, "v1"): "registry.k8s.io/kube-scheduler:v1",
    ("registry.k8s.io/pause", "Registry.K8s.io", "3.8"): "registry.k8s.io/pause:3.8",
    ("my-reg.example.org:8888/app", NONE, "v1"): "my-reg.example.org:8888/app:v1",
    ("docker.io/a/b/c", NONE, "T"): "docker.io/a/b/c:T",
    ("index.docker.io/hello-world", NONE, "latest"): "docker.io/library/hello-world:latest",
    ("hello-world", NONE, "latest"): "docker.io/library/hello-world:latest",
    ("hello-world", "docker.io", "latest"): "docker.io/library/hello-world:latest",
    ("library/alpine", NONE, "3"): "docker.io/library/alpine:3",
    ("localhost/app", NONE, "v1"): "localhost/app:v1",
    ("[::1]:5000/app", NONE, "v1"): "[::1]:5000/app:v1",
    ("a/b.c/d", "h:5000", "v1"): "h:5000/a/b.c/d:v1",
    ("app", "quay.io", DIGEST): f"quay.io/app@{DIGEST}",
}


@pytest.mark.parametrize("path", ROUTES)
def test_paths_are_taken_apart_from_their_end(path: str) -> None:
    assert Route.parse(path) == ROUTES[path]


@pytest.mark.parametrize("given_as", REFERENCES, ids=str)
def test_registry_is_found_in_ns_in_the_path_or_by_default(given_as: tuple[str, str | None, str]) -> None:
    name, namespace, target = given_as
    assert Route(Endpoint.MANIFEST, name, target).reference(namespace, HUB).name == REFERENCES[given_as]


def test_name_without_a_registry_goes_to_the_default() -> None:
    assert Route(Endpoint.TAGS, "team/app").reference(None, "reg.example.com:5000").registry == "reg.example.com:5000"


@pytest.mark.parametrize(
    ("name", "namespace", "message"),
    [
        ("docker.io/foo", "ghcr.io", "which one"),
        ("quay.io", None, "no repository follows"),
        ("quay.io/", None, "no repository follows"),
        ("app", "registry", "a registry is localhost"),
        ("app", "", "a registry is localhost"),
        ("Org/App", None, "upper-case"),
        ("a//b", None, "repository"),
        ("a/../b", None, "repository"),
        ("..", None, "no repository follows"),
        ("h:99999/a", None, "port"),
        ("user@h.io/a", None, "registry"),
        ("h.io/" + "a" * 300, None, "exceeds 255"),
    ],
)
def test_bad_names_say_what_is_wrong(name: str, namespace: str | None, message: str) -> None:
    with pytest.raises(ReferenceInvalidError, match=message):
        Route(Endpoint.MANIFEST, name, "v1").reference(namespace, HUB)


def test_target_is_a_tag_or_a_digest() -> None:
    assert Route(Endpoint.MANIFEST, "a", "v1").can_exist
    assert Route(Endpoint.MANIFEST, "a", "sha256:x").can_exist
    assert not Route(Endpoint.MANIFEST, "a", ".bad").can_exist
    assert not Route(Endpoint.MANIFEST, "a", "").can_exist
    with pytest.raises(DigestInvalidError):
        Route(Endpoint.MANIFEST, "a", "sha256:x").reference(None, HUB)
    with pytest.raises(DigestInvalidError):
        _ = Route(Endpoint.BLOB, "a", "v1").digest


@pytest.mark.parametrize(
    ("accept", "takes"),
    [
        (None, True),
        ("", True),
        ("*/*", True),
        (f"{mediatype.OCI_MANIFEST}, */*;q=0.1", True),
        (mediatype.DOCKER_INDEX, True),
        (f"{mediatype.DOCKER_MANIFEST},{mediatype.OCI_INDEX}; q=0.5", True),
        (mediatype.DOCKER_MANIFEST, False),
        (f"{mediatype.DOCKER_MANIFEST}, text/html", False),
    ],
)
def test_client_takes_an_index_or_does_not(accept: str | None, takes: bool) -> None:
    assert accepts_index(accept) is takes


SEGMENTS = st.sampled_from(
    ["v2", "manifests", "blobs", "uploads", "tags", "list", "a", "h.io", "h:1", "..", "", "Ä", "@"]
)


@given(st.lists(SEGMENTS, max_size=8), st.one_of(st.none(), st.text(max_size=8)))
def test_any_path_gives_a_route_and_any_name_a_reference_or_a_refusal(parts: list[str], namespace: str | None) -> None:
    route = Route.parse("/v2/" + "/".join(parts))
    try:
        reference = route.reference(namespace, HUB)
    except InvalidError:
        return
    assert reference.name.startswith(f"{reference.registry}/{reference.repository}")
    assert reference.tag or reference.digest
