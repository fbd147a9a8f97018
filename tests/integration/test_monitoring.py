"""The alerts and the dashboard of packaging/monitoring, over what a running node exposes: by Prometheus itself."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.daemon import daemon
from tests.servers import docker_registry, free_port, push_image, running

MONITORING = Path(__file__).parents[2] / "packaging/monitoring"
RULES = MONITORING / "rules.yaml"
BOARD = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {
    f"{panel['title']} {target['refId']}": (target["expr"], target["legendFormat"])
    for panel in PANELS for target in panel["targets"]
}  # fmt: skip
OF_A_LIST = {"Should be here and is not A", "Time until a content is here A", "Pulls that registries still grant A"}
"""What has no value on a node without a list and without Docker Hub."""
DEADLINE_SECONDS = 60


def names_in(text: str) -> set[str]:
    """Give the families of the metrics that an expression names."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bnekko_\w+", text)}


@dataclass(frozen=True)
class Watched:
    """A node that has served a pull and proven its cache, and a Prometheus that scrapes it each second."""

    exposed: str
    prometheus: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"{expression} has no value"
            time.sleep(0.1)
        return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("watched")
    node, port = f"127.0.0.1:{free_port()}", free_port()
    scrape = {"job_name": "nekko", "static_configs": [{"targets": [node]}]}
    configuration = directory / "prometheus.yml"
    configuration.write_text(
        yaml.safe_dump({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(RULES)],
            "scrape_configs": [scrape],
        })
    )  # fmt: skip
    command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={directory / 'data'}",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    with docker_registry(directory / "registry") as registry:
        push_image(registry, directory, "org/app:v1", [b"layer" * 1000])
        options = ("--listen", f"{node}=registry,admin", "--default-registry", registry.host, "--max-cache-size", "1GiB",
                   "--scrub-interval", "1s")  # fmt: skip
        with daemon(directory, *options), running(command, port, directory / "prometheus.log"):
            for _ in range(2):  # a miss and a hit
                httpx.get(f"http://{node}/v2/org/app/manifests/v1").raise_for_status()
            watched = Watched("", f"http://127.0.0.1:{port}")
            watched.wait_for("nekko_scrub_finished_timestamp_seconds")
            watched.wait_for("count_over_time(nekko_hits_total[10s]) > 2")
            yield Watched(httpx.get(f"http://{node}/metrics").text, watched.prometheus)


def test_only_metrics_that_a_node_has_are_named(watched: Watched) -> None:
    exposed = {
        name if kind != "counter" or name.endswith("_total") else f"{name}_total"
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", watched.exposed, re.MULTILINE)
    }
    named = names_in(RULES.read_text("utf-8")) | names_in(json.dumps(BOARD))
    assert named, "the test looks at the right files"
    assert named - exposed == set()


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_panel_shows_something_with_the_labels_of_its_legend(watched: Watched, title: str) -> None:
    expression, legend = EXPRESSIONS[title]
    expression = expression.replace("$__rate_interval", "10s").replace('"$instance"', '".*"')
    assert "$" not in expression
    if title in OF_A_LIST:
        assert watched.query(expression) == []
        return
    for series in watched.wait_for(expression):
        assert set(re.findall(r"{{(\w+)}}", legend)) <= series["metric"].keys()


def test_alerts_are_taken_and_none_fires_on_a_sound_node(watched: Watched) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        (group,) = httpx.get(f"{watched.prometheus}/api/v1/rules").json()["data"]["groups"]
        if all(rule["health"] != "unknown" for rule in group["rules"]):
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {rule["name"]: rule["health"] for rule in group["rules"] if rule["health"] != "ok"} == {}
    assert {rule["name"]: rule["alerts"] for rule in group["rules"] if rule["state"] != "inactive"} == {}


def series(metric: str, values: str, **labels: str) -> dict[str, str]:
    inside = ", ".join(f'{key}="{value}"' for key, value in {"job": "nekko", "instance": "n", **labels}.items())
    return {"series": f"{metric}{{{inside}}}", "values": values}


WRONG = {
    "NekkoDown": [series("up", "0x600")],
    "NekkoDiskFull": [series("nekko_disk_available_bytes", "2e9x600"), series("nekko_disk_reserved_bytes", "1e9x600")],
    "NekkoCacheThrashes": [
        series("nekko_evicted_bytes_total", "0+100x600"), series("nekko_unique_bytes_total", "0+100x600"),
        series("nekko_cache_bytes", "1000x600"),
    ],
    "NekkoDamaged": [series("nekko_damaged_total", "0x590 1x10")],
    "NekkoRepairFailed": [series("nekko_repairs_total", "0x590 1x10", outcome="failed")],
    "NekkoUpstreamLies": [series("nekko_quarantined", "0x590 1x10"), series("nekko_damaged_total", "0x600")],
    "NekkoTransfersFail": [series("nekko_transfers_total", "0+1x600", outcome="failed")],
    "NekkoErrors": [
        series("nekko_request_seconds_count", "0+1x600", door="registry", status="502"),
        series("nekko_request_seconds_count", "0+9x600", door="registry", status="200"),
    ],
    "NekkoRateLimited": [
        series("nekko_upstream_ratelimit", "100x600", host="docker.io"),
        series("nekko_upstream_ratelimit_remaining", "9x600", host="docker.io"),
    ],
    "NekkoScrubOverdue": [series("nekko_scrub_finished_timestamp_seconds", "-6000000x600")],
    "NekkoSyncBehind": [series("nekko_sync_ready", "0x600", name="hf:///o/m")],
    "NekkoAnnouncementsDropped": [series("nekko_announcements_total", "0+1x600", outcome="dropped")],
    "NekkoCopiesMissing": [series("nekko_replicas_waiting", "3x600")],
}  # fmt: skip
"""For each alert, the least that is wrong when it fires."""


@pytest.mark.parametrize("alert", [rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]])
def test_alert_fires_when_it_should(tmp_path: Path, alert: str) -> None:
    """`promtool test rules` says which alerts fire: this one, and the message has every label that it speaks of."""
    at_ten_hours = {"eval_time": "10h", "alertname": alert, "exp_alerts": []}
    case = {"interval": "1m", "input_series": WRONG[alert], "alert_rule_test": [at_ten_hours]}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    told = done.stdout + done.stderr
    assert done.returncode == 1, "it did not fire"
    assert f'alertname="{alert}"' in told, told
    summary = re.search(r'summary="((?:[^"\\]|\\.)*)"', told)
    assert summary is not None, told
    assert not re.search("<no value>|<error", summary[1])


def test_dashboard_has_its_panels_side_by_side() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & own, panel["title"]
        assert max(x for x, _ in own) < 24
        cells |= own
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    variables = {each["name"] for each in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    assert used - {"__rate_interval"} == variables
