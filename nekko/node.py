"""One node: the parts that work behind its doors, and how they fit together."""

from dataclasses import dataclass

import trio

from nekko.announcements.announcements import Announcements
from nekko.config.settings import Settings
from nekko.holds import Holds
from nekko.replicas.replicas import Replicas
from nekko.replicas.upkeep import Upkeep
from nekko.statsd import Statsd
from nekko.store.store import Store
from nekko.supply import CacheSupply
from nekko.transfer.behind import WriteBehind
from nekko.transfer.hub import HubMirror
from nekko.transfer.imports import Imports
from nekko.transfer.mirror import Mirror
from nekko.transfer.pruning import PruneRule, prune_by
from nekko.transfer.pull import Pulls
from nekko.transfer.ranges import Tuning
from nekko.transfer.repair import Repairs
from nekko.transfer.scrub import Scrub
from nekko.transfer.sync import Sync
from nekko.transfer.table import Transfers
from nekko.transfer.takeover import Takeover
from nekko.transfer.tier import Tier
from nekko.transfer.upload import Uploads
from nekko.transfer.verification import Verifications
from nekko.transfer.verify import Verifier
from nekko.upstream.resolve import Upstreams


@dataclass(slots=True)
class Node:
    """The parts of one node. Each says itself what it does."""

    settings: Settings
    store: Store
    transfers: Transfers
    pulls: Pulls
    mirror: Mirror
    hub: HubMirror
    imports: Imports
    takeover: Takeover
    uploads: Uploads
    replicas: Replicas | None
    tier: Tier | None
    behind: WriteBehind | None
    repairs: Repairs
    holds: Holds
    scrub: Scrub
    upkeep: Upkeep | None
    replicas_scrub: Scrub | None
    verifications: Verifications
    sync: Sync
    statsd: Statsd
    announcements: Announcements

    async def begin(self, nursery: trio.Nursery) -> None:
        """Go on with what was interrupted, and start what works in the background."""
        await self.imports.prepare()
        await self.uploads.prepare()
        await self.pulls.resume()
        nursery.start_soon(self.takeover.run)
        nursery.start_soon(self.scrub.run)
        nursery.start_soon(self.sync.run)
        nursery.start_soon(self.announcements.run)
        rule = self.settings.prune_config
        if rule.enabled:
            limit = None if rule.count < 0 else rule.count
            prune = PruneRule(rule.type, rule.duration_seconds, rule.expr or "", limit, is_trial=rule.dry_run)
            nursery.start_soon(prune_by, self.store, prune, rule.frequency_seconds)
        if self.replicas is not None:
            await self.replicas.prepare()
            nursery.start_soon(self.replicas.run)
        if self.upkeep is not None and self.replicas_scrub is not None:
            nursery.start_soon(self.upkeep.run)
            nursery.start_soon(self.replicas_scrub.run)
        if self.tier is not None:
            nursery.start_soon(self.tier.check)
        if self.behind is not None:
            nursery.start_soon(self.behind.run)
        else:
            self.store.catalog.owed.forget()


def assemble(
    nursery: trio.Nursery,
    store: Store,
    upstreams: Upstreams,
    statsd: Statsd,
    settings: Settings,
    tuning: Tuning | None = None,
) -> Node:
    """Make the parts; whatever they start lives in `nursery`, which must be the daemon's own."""
    transfers = Transfers(nursery, store, settings, tuning)
    pulls = Pulls(nursery, store, transfers, upstreams, settings)
    repairs = Repairs(nursery, store, transfers, upstreams, settings)
    verifier = Verifier(store, repairs)
    tier = Tier(upstreams.objects, transfers) if upstreams.objects else None
    replicas, behind, upkeep, replicas_scrub = None, None, None, None
    if settings.storage_pairs:
        replicas = Replicas(settings, tier)
        upkeep = Upkeep(replicas)
        replicas_scrub = Scrub(
            store.catalog, upkeep, name="scrub of storagePairs",
            interval_seconds=settings.replicas_scrub_interval_seconds,
            bytes_per_second=settings.replicas_scrub_bandwidth_bytes,
        )  # fmt: skip
    if upstreams.objects and settings.s3_write_behind:
        behind = WriteBehind(store, upstreams.objects, settings, replicas)
    return Node(
        settings=settings,
        store=store,
        transfers=transfers,
        pulls=pulls,
        mirror=Mirror(nursery, store, transfers, pulls, upstreams, settings),
        hub=HubMirror(nursery, store, transfers, upstreams.hub, settings),
        imports=Imports(store, pulls, settings),
        takeover=Takeover(store, pulls, settings),
        uploads=Uploads(store),
        replicas=replicas,
        tier=tier,
        behind=behind,
        repairs=repairs,
        holds=Holds(store, CacheSupply(store, pulls, repairs, settings), repairs),
        scrub=Scrub(
            store.catalog, verifier,
            interval_seconds=settings.scrub_interval_seconds, bytes_per_second=settings.scrub_bandwidth_bytes,
        ),
        upkeep=upkeep,
        replicas_scrub=replicas_scrub,
        verifications=Verifications(nursery, verifier),
        sync=Sync(store, pulls, settings),
        statsd=statsd,
        announcements=Announcements(settings),
    )  # fmt: skip
