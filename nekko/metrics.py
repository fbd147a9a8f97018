"""Prometheus metrics: what is counted on the way, and the snapshots of the tables, formatted on demand."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily

LATENCY_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600)
"""From a hit answered from memory to the pull of a large model."""


@dataclass(frozen=True)
class Counters:
    """What is counted as it happens. `door` is the API by which a request came."""

    hits: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    sent_bytes: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies, of the doors that hand out content."""
    held_manifests: Counter[str] = field(default_factory=Counter)
    """Manifests that the registry door gave from the cache, by the registry that was meant."""
    fetched_manifests: Counter[str] = field(default_factory=Counter)
    """Those that it had to ask that registry for."""
    blob_pulls: Counter[str] = field(default_factory=Counter)
    """Requests for blobs, by door; only the registry door counts them."""
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    latency: Histogram = field(init=False)

    def __post_init__(self) -> None:
        latency = Histogram(
            "nekko_request_seconds", "Time to answer, with the body", ["door", "status"],
            registry=self.registry, buckets=LATENCY_SECONDS,
        )  # fmt: skip
        object.__setattr__(self, "latency", latency)


@dataclass(frozen=True, slots=True)
class ScrubFigures:
    """What one scrub has done since the start; `finished` is the end of its last complete round, since the epoch."""

    is_running: bool
    bytes: int
    faults: int
    finished: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The figures of one moment; sizes in bytes."""

    transfers_running: int
    transfers_finished: int
    transfers_failed: int
    upstream_bytes: dict[str, int]
    unique_bytes: int
    pulls_running: int
    blobs: int
    cache_bytes: int
    max_cache_bytes: int | None
    pinned_bytes: int
    evicted: int
    evicted_bytes: int
    contents: int
    quarantined: int
    disk_available_bytes: int
    disk_reserved_bytes: int
    proven_again: int
    damaged: int
    repaired: int
    repairs_failed: int
    scrub: ScrubFigures
    replicas_scrub: ScrubFigures | None
    """None where there are no storagePairs."""
    replicas: Mapping[str, int]
    """Files on storagePairs since start, by what became of them; empty where there are none."""
    replicas_waiting: int
    objects_waiting: int
    """Files that are due at the object store; 0 where nothing is written to one, as for the next two."""
    objects_written: int
    objects_failed: int
    announcements_waiting: int = 0
    """Of files that were asked for by their hash; 0 where no server is told, as for the next two."""
    announcements_sent: int = 0
    announcements_dropped: int = 0
    wanted: Mapping[str, tuple[bool, float | None]] = field(default_factory=dict)
    """Of each content that should be here (`nekko sync`), by name: whether it is, and the seconds until then."""
    rate_limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """What far ends grant, and what is left of that, by host."""
    blob_bytes: int = 0
    manifests: int = 0
    """How many of the blobs are manifests."""
    manifest_bytes: int = 0


def exposition(counters: Counters, snapshot: Snapshot) -> bytes:
    """Write everything in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(counters, snapshot))
    return generate_latest(registry) + generate_latest(counters.registry)


@dataclass(frozen=True, eq=False)
class _Collected:
    counters: Counters
    snapshot: Snapshot

    def collect(self) -> Iterable[Metric]:
        s = self.snapshot
        gauges: dict[str, tuple[str, float]] = {
            "nekko_transfers_running": ("Transfers under way", s.transfers_running),
            "nekko_pulls_running": ("Pulls under way", s.pulls_running),
            "nekko_blobs": ("Blobs in the cache", s.blobs),
            "nekko_cache_bytes": ("Bytes of blobs and partial downloads in the cache", s.cache_bytes),
            "nekko_pinned_bytes": ("Bytes of the blobs of pinned contents", s.pinned_bytes),
            "nekko_contents": ("Complete contents", s.contents),
            "nekko_quarantined": ("Files that failed their proof and are kept for a look", s.quarantined),
            "nekko_disk_available_bytes": ("Free space of the cache's file system", s.disk_available_bytes),
            "nekko_disk_reserved_bytes": ("Space promised to transfers under way", s.disk_reserved_bytes),
            "nekko_replicas_waiting": ("Files on storagePairs that wait to be restored", s.replicas_waiting),
            "nekko_objects_waiting": ("Files that wait to be written to the object store", s.objects_waiting),
            "nekko_announcements_waiting": ("Announcements that wait to be sent", s.announcements_waiting),
        }
        if s.max_cache_bytes is not None:
            gauges["nekko_cache_limit_bytes"] = ("Bytes that the cache may have (maxCacheSize)", s.max_cache_bytes)
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)
        ready = GaugeMetricFamily("nekko_sync_ready", "Whether a content of the list is here", labels=["name"])
        left = GaugeMetricFamily("nekko_sync_eta_seconds", "Time until it is, where known", labels=["name"])
        for name, (is_ready, seconds) in s.wanted.items():
            ready.add_metric([name], int(is_ready))
            if seconds is not None:
                left.add_metric([name], seconds)
        yield from (ready, left)
        granted = GaugeMetricFamily("nekko_upstream_ratelimit", "Requests that an upstream grants", labels=["host"])
        remaining = GaugeMetricFamily("nekko_upstream_ratelimit_remaining", "What is left of them", labels=["host"])
        for host, (whole, rest) in s.rate_limits.items():
            granted.add_metric([host], whole)
            remaining.add_metric([host], rest)
        yield from (granted, remaining)
        outcomes = CounterMetricFamily("nekko_transfers", "Transfers ended", labels=["outcome"])
        outcomes.add_metric(["finished"], s.transfers_finished)
        outcomes.add_metric(["failed"], s.transfers_failed)
        yield outcomes
        replicas = CounterMetricFamily("nekko_replicas", "Files stored, and copies restored or not", labels=["outcome"])
        for outcome, count in s.replicas.items():
            replicas.add_metric([outcome], count)
        yield replicas
        objects = CounterMetricFamily("nekko_objects", "Files written to the object store, or not", labels=["outcome"])
        objects.add_metric(["written"], s.objects_written)
        objects.add_metric(["failed"], s.objects_failed)
        yield objects
        announcements = CounterMetricFamily("nekko_announcements", "Announcements sent, or not", labels=["outcome"])
        announcements.add_metric(["sent"], s.announcements_sent)
        announcements.add_metric(["dropped"], s.announcements_dropped)
        yield announcements
        received = CounterMetricFamily("nekko_upstream_bytes", "Bytes received from upstreams", labels=["host"])
        for host, count in s.upstream_bytes.items():
            received.add_metric([host], count)
        yield received
        yield CounterMetricFamily(
            "nekko_unique_bytes", "Bytes of blobs fetched: what had to be received", s.unique_bytes
        )
        yield CounterMetricFamily("nekko_evictions", "Contents, blobs and partial downloads that made room", s.evicted)
        yield CounterMetricFamily("nekko_evicted_bytes", "Bytes of room that evictions made", s.evicted_bytes)
        yield CounterMetricFamily(
            "nekko_proven_again", "Files that had changed, were hashed before use and are right", s.proven_again
        )
        yield CounterMetricFamily("nekko_damaged", "Blobs found damaged or gone", s.damaged)
        repairs = CounterMetricFamily("nekko_repairs", "Damaged blobs fetched again", labels=["outcome"])
        repairs.add_metric(["repaired"], s.repaired)
        repairs.add_metric(["failed"], s.repairs_failed)
        yield repairs
        yield from _scrubbed("nekko_scrub", "the scrub", s.scrub)
        if s.replicas_scrub is not None:
            yield from _scrubbed("nekko_replicas_scrub", "the scrub of storagePairs", s.replicas_scrub)
        for name, counter, text in (
            ("nekko_sent_bytes", self.counters.sent_bytes, "Bytes of content sent to clients"),
            ("nekko_hits", self.counters.hits, "Requests answered from the cache"),
            ("nekko_misses", self.counters.misses, "Requests for what was not in the cache, or not whole"),
        ):
            family = CounterMetricFamily(name, text, labels=["door"])
            for door, count in counter.items():
                family.add_metric([door], count)
            yield family
        yield from _ociregistrys(self.counters, s)


def _scrubbed(name: str, who: str, figures: ScrubFigures) -> Iterable[Metric]:
    yield GaugeMetricFamily(f"{name}_running", f"Whether {who} is at work", int(figures.is_running))
    if figures.finished is not None:
        text = f"End of the last complete round of {who}, in seconds since the epoch"
        yield GaugeMetricFamily(f"{name}_finished_timestamp_seconds", text, figures.finished)
    yield CounterMetricFamily(f"{name}_bytes", f"Bytes that {who} has proven", figures.bytes)
    yield CounterMetricFamily(f"{name}_faults", f"What {who} has found wrong", figures.faults)


def _ociregistrys(counters: Counters, snapshot: Snapshot) -> Iterable[Metric]:
    """Tell of the registry door by the names that ociregistry has for it, for dashboards that know these."""
    answers = {
        sample.labels["status"]: sample.value
        for family in counters.latency.collect() for sample in family.samples
        if sample.name.endswith("_count") and sample.labels["door"] == "registry"
    }  # fmt: skip
    held, fetched = counters.held_manifests, counters.fetched_manifests
    cached = CounterMetricFamily("ociregistry_cached_pulls_by_ns", "Manifests given from the cache", labels=["ns"])
    for name, count in held.items():
        cached.add_metric([name], count)
    yield cached
    # Its name has no `_total`, as a counter's would here.
    asked = UnknownMetricFamily("ociregistry_upstream_pulls_by_ns", "Manifests asked of upstreams", labels=["ns"])
    for name, count in fetched.items():
        asked.add_metric([name], count)
    yield asked
    for name, text, value in (
        ("manifest_pulls", "Manifests given", held.total() + fetched.total()),
        ("blob_pulls", "Requests for blobs", counters.blob_pulls["registry"]),
        ("v2_api_endpoint_hits", "Requests below /v2", sum(answers.values())),
        ("api_errors", "Those that were refused", sum(n for status, n in answers.items() if status >= "400")),
    ):
        yield CounterMetricFamily(f"ociregistry_{name}", text, value)
    for name, text, value in (
        ("blob_bytes_on_disk_total", "Bytes of blobs", snapshot.blob_bytes - snapshot.manifest_bytes),
        ("manifest_bytes_on_disk_total", "Bytes of manifests", snapshot.manifest_bytes),
        ("cached_manifest_count", "Manifests in the cache", snapshot.manifests),
        ("cached_blob_count", "Blobs in the cache", snapshot.blobs - snapshot.manifests),
    ):
        yield GaugeMetricFamily(f"ociregistry_{name}", text, value)
