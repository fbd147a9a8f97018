"""What must hold together in manifests of Kubernetes, and what nekko itself says to its configuration there."""

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nekko.config import sources
from nekko.config.address import TcpAddress
from nekko.config.doors import parse_listen
from nekko.config.settings import Settings

PACKAGING = Path(__file__).parents[1] / "packaging/kubernetes"
VERSIONS = {
    "Namespace": "v1", "ConfigMap": "v1", "Service": "v1", "ServiceAccount": "v1", "DaemonSet": "apps/v1",
    "Deployment": "apps/v1", "PodMonitor": "monitoring.coreos.com/v1",
}  # fmt: skip

Manifest = Mapping[str, Any]


def of_kind(manifests: Sequence[Manifest], kind: str) -> Manifest:
    """Give the one manifest of a kind."""
    (found,) = (each for each in manifests if each["kind"] == kind)
    return found


def pod_of(manifests: Sequence[Manifest]) -> Manifest:
    """Give the specification of the one workload's pod."""
    (workload,) = (each for each in manifests if each["kind"] in ("DaemonSet", "Deployment"))
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def container_of(pod: Manifest) -> Manifest:
    """Give nekko's own container."""
    (found,) = (each for each in pod["containers"] if each["name"] == "nekko")
    container: Manifest = found
    return container


def settings_of(manifests: Sequence[Manifest], directory: Path) -> Settings:
    """Let nekko read the configuration that its container is given, and refuse what it would refuse or tell of."""
    pod = pod_of(manifests)
    container = container_of(pod)
    environment = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    place, name = posixpath.split(environment["CONFIG_FILE"])
    (volume,) = (each for each in pod["volumes"] if each["name"] == mounted[place])
    config = of_kind(manifests, "ConfigMap")
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    file = directory / "nekko.yaml"
    file.write_text(config["data"][name])
    effective = sources.read({"config_file": str(file)}, {})
    assert effective.notices == ()
    return effective.settings


def doors_of(settings: Settings) -> dict[int, frozenset[str]]:
    """Give the doors of every TCP port that is listened on."""
    found = [parse_listen(text) for text in settings.listen]
    return {each.address.port: each.doors for each in found if isinstance(each.address, TcpAddress)}


def check(manifests: Sequence[Manifest], directory: Path) -> None:
    """Check everything in which one part of the manifests names another."""
    for manifest in manifests:
        assert manifest["apiVersion"] == VERSIONS[manifest["kind"]]
    (workload,) = (each for each in manifests if each["kind"] in ("DaemonSet", "Deployment"))
    labels = workload["spec"]["template"]["metadata"]["labels"]
    for manifest in manifests:
        selector = manifest.get("spec", {}).get("selector", {})
        wanted = selector if manifest["kind"] == "Service" else selector.get("matchLabels", {})
        assert wanted.items() <= labels.items(), manifest["kind"]
    _check_pod(pod_of(manifests))
    settings = settings_of(manifests, directory)
    container = container_of(pod_of(manifests))
    mounts = [each["mountPath"] for each in container["volumeMounts"]]
    files = [settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.cache_dir, Path(settings.address[0])]
    for file in files:
        assert file is None or any(file.is_relative_to(place) for place in mounts), f"{file} is on no volume"
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    doors = doors_of(settings)
    assert doors.keys() == set(ports.values())
    assert "registry" in doors[ports["http"]]
    assert doors[ports["health"]] == frozenset(), "probes are answered in plain HTTP, whatever else speaks TLS"
    assert doors.get(ports.get("metrics", 0), {"admin"}) == {"admin"}


def _check_pod(pod: Manifest) -> None:
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    volumes = {each["name"] for each in pod["volumes"]}
    used = set()
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        mounts = [each["mountPath"] for each in container["volumeMounts"]]
        assert len(mounts) == len(set(mounts)), container["name"]
        used |= {each["name"] for each in container["volumeMounts"]}
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
    assert used == volumes
    container = container_of(pod)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert len(set(ports.values())) == len(ports)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "health"
