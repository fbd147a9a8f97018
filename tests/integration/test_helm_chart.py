"""The chart, rendered by Helm itself: the plain manifest by default, and with every value that changes a pod."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nekko import __version__
from tests.kubernetes import PACKAGING, Manifest, check, container_of, of_kind, pod_of, settings_of

HELM = Path(__file__).parents[2] / "build/peers/helm"
CHART = PACKAGING / "chart"
pytestmark = [pytest.mark.peers, pytest.mark.skipif(not HELM.exists(), reason="Go was not there to build Helm")]
DIGEST = "sha256:" + "ab" * 32


def helm(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HELM), *map(str, words)], capture_output=True, text=True)


def render(directory: Path, values: dict[str, Any], *, release: str = "nekko") -> list[Manifest]:
    """Give the manifests that the chart makes of values, after Helm's own check of them."""
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    linted = helm("lint", "--strict", CHART, "--values", file)
    assert linted.returncode == 0, linted.stdout
    rendered = helm("template", release, CHART, "--namespace", "nekko", "--values", file)
    assert rendered.returncode == 0, rendered.stderr
    return [each for each in yaml.safe_load_all(rendered.stdout) if each is not None]


def test_defaults_are_the_plain_manifest(tmp_path: Path) -> None:
    plain = list(yaml.safe_load_all((PACKAGING / "nekko.yaml").read_text("utf-8")))
    chart = render(tmp_path, {})
    check(chart, tmp_path)
    assert of_kind(chart, "ConfigMap")["data"] == of_kind(plain, "ConfigMap")["data"]
    ours, theirs = of_kind(chart, "DaemonSet")["spec"], of_kind(plain, "DaemonSet")["spec"]
    pod = dict(ours["template"]["spec"])
    assert pod.pop("serviceAccountName") == of_kind(chart, "ServiceAccount")["metadata"]["name"]
    assert pod == theirs["template"]["spec"]
    for key in ("selector", "updateStrategy"):
        assert ours[key] == theirs[key]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


PAGE = (PACKAGING.parents[1] / "docs/kubernetes.md").read_text("utf-8")
TABLE: dict[str, dict[str, Any]] = {
    "tls": {"serverTls": {"enabled": True, "secretName": "nekko-tls", "clientAuth": "require"}},
    "tls-without-clients": {"serverTls": {"enabled": True, "secretName": "nekko-tls"}},
    "no-metrics": {"metrics": {"enabled": False}},
    "ports": {"port": 5000, "health": {"port": 5001}, "metrics": {"port": 5002}},
    "host-network": {"hostNetwork": True},
    "deployment": {"kind": "Deployment", "persistence": {"claim": "cache"}, "service": {"enabled": True}},
    "scratch": {"persistence": {"emptyDir": True}},
    "monitored": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "unprepared": {"persistence": {"prepare": False, "hostPath": "/srv/nekko"}},
    "settings": {
        "config": {"maxCacheSize": 200_000_000_000, "hosts": {"registry.example.com:5000": {"scheme": "http"}}}
    },
    "documented": yaml.safe_load(PAGE.partition("```yaml\n")[2].partition("```")[0]),
    "named": {"fullnameOverride": "cache", "serviceAccount": {"create": False}},
}


@pytest.mark.parametrize("name", TABLE)
def test_parts_agree_with_other_values(tmp_path: Path, name: str) -> None:
    check(render(tmp_path, TABLE[name], release="edge"), tmp_path)


def test_settings_reach_nekko_as_they_were_written(tmp_path: Path) -> None:
    settings = settings_of(render(tmp_path, TABLE["settings"]), tmp_path)
    assert settings.max_cache_bytes == 200_000_000_000
    assert settings.hosts["registry.example.com:5000"].scheme == "http"


def test_changed_setting_replaces_the_pods(tmp_path: Path) -> None:
    def annotation(values: dict[str, Any]) -> str:
        template = of_kind(render(tmp_path, values), "DaemonSet")["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    assert annotation({}) == annotation({"resources": {}})
    assert annotation({}) != annotation({"config": {"prefetch": False}})


def test_host_network_listens_and_is_probed_on_loopback(tmp_path: Path) -> None:
    pod = pod_of(render(tmp_path, TABLE["host-network"]))
    container = container_of(pod)
    assert pod["hostNetwork"] is True
    assert all("hostPort" not in each for each in container["ports"])
    assert container["livenessProbe"]["httpGet"]["host"] == "127.0.0.1"
    listen = settings_of(render(tmp_path, TABLE["host-network"]), tmp_path).listen
    assert listen[0].startswith("127.0.0.1:8050=")


def test_everything_that_is_added_to_the_pod_is_there(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "image": {"repository": "registry.example.com/nekko", "digest": DIGEST, "pullPolicy": "Never"},
        "imagePullSecrets": [{"name": "pull"}], "nodeSelector": {"disk": "fast"}, "priorityClassName": "high",
        "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["registry.example.com"]}],
        "env": [{"name": "NEKKO_TOKENS", "valueFrom": {"secretKeyRef": {"name": "nekko", "key": "tokens"}}}],
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
        "podLabels": {"team": "edge"}, "podAnnotations": {"note": "x"},
        "extraManifests": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "more"}}],
    }  # fmt: skip
    manifests = render(tmp_path, given)
    check(manifests, tmp_path)
    pod = pod_of(manifests)
    container = container_of(pod)
    for key in ("imagePullSecrets", "nodeSelector", "priorityClassName", "hostAliases"):
        assert pod[key] == given[key]
    assert (container["image"], container["imagePullPolicy"]) == (f"registry.example.com/nekko@{DIGEST}", "Never")
    assert given["env"][0] in container["env"]
    metadata = of_kind(manifests, "DaemonSet")["spec"]["template"]["metadata"]
    assert (metadata["labels"]["team"], metadata["annotations"]["note"]) == ("edge", "x")
    assert of_kind(manifests, "Namespace") == given["extraManifests"][0]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"imag": {"tag": "x"}}, "additional properties 'imag' not allowed"),
        ({"port": 70000}, "/port"),
        ({"image": {"digest": "sha256:0"}}, "/image/digest"),
        ({"serverTls": {"enabled": True}}, "serverTls.secretName names the secret"),
        ({"persistence": {"claim": "cache"}}, "persistence.claim needs kind: Deployment"),
        ({"podMonitor": {"enabled": True}, "metrics": {"enabled": False}}, "podMonitor needs metrics.enabled"),
    ],
    ids=["unknown", "port", "digest", "tls", "claim", "monitor"],
)
def test_values_that_cannot_work_are_refused(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = helm("template", "nekko", CHART, "--values", file)
    assert done.returncode != 0
    assert told in done.stderr
