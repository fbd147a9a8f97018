"""packaging/kubernetes/nekko.yaml: its parts agree, and nekko takes the configuration in it."""

from pathlib import Path

import yaml

from nekko import __version__
from tests.kubernetes import PACKAGING, check, container_of, doors_of, of_kind, pod_of, settings_of

MANIFESTS = list(yaml.safe_load_all((PACKAGING / "nekko.yaml").read_text("utf-8")))


def test_parts_of_the_manifest_agree(tmp_path: Path) -> None:
    check(MANIFESTS, tmp_path)
    namespace = of_kind(MANIFESTS, "Namespace")["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in MANIFESTS if each["kind"] != "Namespace"} == {namespace}


def test_node_alone_reaches_what_is_not_in_the_cluster(tmp_path: Path) -> None:
    pod = pod_of(MANIFESTS)
    (published,) = (each for each in container_of(pod)["ports"] if "hostPort" in each)
    assert published["hostIP"] == "127.0.0.1"
    assert "admin" not in doors_of(settings_of(MANIFESTS, tmp_path))[published["hostPort"]]
    assert not pod.get("hostNetwork", False)


def test_engines_find_files_by_the_paths_that_nekko_tells() -> None:
    pod = pod_of(MANIFESTS)
    mounted = {each["name"]: each["mountPath"] for each in container_of(pod)["volumeMounts"]}
    on_host = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}
    assert on_host == {name: path for name, path in mounted.items() if name in on_host}
    assert len(on_host) == 2


def test_image_is_the_one_of_this_version() -> None:
    pod = pod_of(MANIFESTS)
    images = {each["image"] for each in (*pod["initContainers"], *pod["containers"])}
    assert images == {f"localhost/nekko:{__version__}"}
