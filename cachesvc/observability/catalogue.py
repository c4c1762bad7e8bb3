"""Catalogue: the metrics that are made of a node's stats, by where their numbers stand in it.

The rule that must not break: every number of the stats is in here, and every label is one of a few values that the code names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Family:
    """A metric. `*` in `path` stands for any name there, which becomes the value of the next of `labels`."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    path: tuple[str, ...]
    labels: tuple[str, ...] = ()


def _counter(path: str, name: str, help_: str, *labels: str) -> Family:
    return Family(f"cachesvc_{name}", "counter", help_, tuple(path.split(".")), labels)


def _gauge(path: str, name: str, help_: str, *labels: str) -> Family:
    return Family(f"cachesvc_{name}", "gauge", help_, tuple(path.split(".")), labels)


_MEASURED: Final = "measured now and then"

FAMILIES: Final[tuple[Family, ...]] = (
    _gauge("uptime", "uptime_seconds", "Since this node started"),
    # the tiers
    _counter("tiers.*.hits", "tier_hits", "Reads that this tier answered", "tier"),
    _counter("tiers.*.misses", "tier_misses", "Reads that came to this tier and that it did not answer", "tier"),
    _gauge("tiers.*.entries", "tier_entries", f"Entries, {_MEASURED}; of Redis as a tier all keys of its database", "tier"),
    _gauge("tiers.*.bytes", "tier_bytes", f"Bytes, {_MEASURED}; of Redis the memory used by the whole server", "tier"),
    _counter("tiers.*.evictions", "tier_evictions", "Entries that the policy of the memory tier chose to go", "tier"),
    _gauge("tiers.*.latency.*", "tier_latency_seconds", "Percentiles of the latest calls", "tier", "percentile"),
    _gauge("tiers.*.breakerOpen", "tier_breaker_open", "1 while this tier is not asked (of the authority: not read)", "tier"),
    _counter("tiers.*.breakerOpened", "tier_breaker_opened", "How often that began", "tier"),
    _gauge("tiers.*.writesBreakerOpen", "tier_writes_breaker_open", "1 while the authority is sent no writes", "tier"),
    _counter("tiers.*.writesBreakerOpened", "tier_writes_breaker_opened", "How often that began", "tier"),
    _counter(
        "tiers.*.extra.corrupt", "tier_corrupt", "Values in Redis that were not what was written, and were taken out", "tier"
    ),
    _counter("tiers.*.extra.newer", "tier_newer", "Values in Redis that a newer version of the service wrote", "tier"),
    _counter(
        "tiers.*.extra.dictionary_unknown", "tier_dictionary_unknown", "Values whose dictionary was not to be had", "tier"
    ),
    _counter("tiers.*.extra.refused", "tier_refused", "Entries that Redis refused since something newer was known", "tier"),
    _counter("tiers.*.extra.bytes_put", "tier_put_bytes", "Bytes of the values put into Redis", "tier"),
    _counter("tiers.*.extra.bytes_stored", "tier_stored_bytes", "The same as they lie there, compressed", "tier"),
    _counter("tiers.*.extra.doubted", "tier_doubted", "Keys asked for in partitions that were not believed", "tier"),
    _gauge("tiers.*.extra.dictionaries", "tier_dictionaries", "Compression dictionaries known here", "tier"),
    _gauge("tiers.*.extra.masters", "tier_masters", "Servers that share the keys of Redis", "tier"),
    _gauge("tiers.*.extra.masters_away", "tier_masters_away", "Of them, those left alone since they did not answer", "tier"),
    _counter(
        "tiers.*.extra.unanswered_reads", "tier_unanswered_reads", "Keys read past Redis since their master was away", "tier"
    ),
    _counter("tiers.*.extra.unanswered_puts", "tier_unanswered_puts", "Entries let go since their master was away", "tier"),
    # the log
    _gauge("log.epoch", "log_epoch", "The epoch that this node has applied"),
    _gauge("log.applied", "log_applied_sequence", "Up to where this node has applied the log"),
    _gauge("log.following", "log_following", "1 while the log can be followed"),
    _counter("log.startedOver", "log_started_over", "How often this node forgot everything and began anew at the head"),
    _counter("log.historiesLost", "log_histories_lost", "How often the log lost changes that had been seen here"),
    _counter("log.changesLost", "log_changes_lost", "Changes seen here that were lost with their history"),
    _counter("log.frozen", "log_frozen", "How often this node was frozen for longer than its lease"),
    _counter("log.direct", "log_changes_direct", "Own changes taken over without reading the log"),
    _counter("log.read", "log_changes_read", "Changes read from the log"),
    _gauge("visibility.*.count", "visibility_recent_changes", "Changes of the last minute", "origin"),
    _gauge("visibility.*.p50", "visibility_p50_seconds", "Until a change was in force here, of the last minute", "origin"),
    _gauge("visibility.*.p99", "visibility_p99_seconds", "The same, for 99 of 100", "origin"),
    _gauge("visibility.*.max", "visibility_max_seconds", "The same, at most", "origin"),
    # the engine and its queues
    _gauge("engine.floors", "floors", "Keys of which the oldest version that may be served is remembered"),
    _gauge("engine.patterns", "patterns", "Invalidations by pattern that reads are tested against"),
    _counter("engine.readsJoined", "reads_joined", "Reads that shared another's way below memory"),
    _counter("engine.readsAgain", "reads_again", "Reads that were overtaken by a change and read again"),
    _counter("engine.writes", "writes", "Writes appended"),
    _counter("engine.putsDone", "puts_done", "Entries put into Redis"),
    _counter("engine.putsDropped", "puts_dropped", "Entries that were let go instead: a miss more, nothing worse"),
    _gauge("queues.*.pending", "queue_pending", "What waits for its turn, by where it goes", "queue"),
    _gauge("queues.*.bytes", "queue_pending_bytes", "Bytes of its values, where they are counted", "queue"),
    _counter("queues.*.refused", "queue_refused", "What was refused since too much was waiting", "queue"),
    _counter("queues.*.batches", "queue_batches", "Batches that were sent", "queue"),
    # loads
    _counter("loaders.*.calls", "loader_calls", "Calls of this loader", "loader"),
    _counter("loaders.*.loads", "loader_loads", "Keys that it was asked for", "loader"),
    _counter("loaders.*.loaded", "loader_loaded", "Keys that it had", "loader"),
    _counter("loaders.*.failures", "loader_failures", "Keys that it failed at", "loader"),
    _gauge("loaders.*.breakerOpen", "loader_breaker_open", "1 while it is left alone", "loader"),
    _counter("loaders.*.breakerOpened", "loader_breaker_opened", "How often that began", "loader"),
    _counter("loading.waits", "load_waits", "Misses left to the load of another node"),
    _gauge("loading.waiting", "load_waiting", "Of them, those that wait now"),
    _counter("loading.refreshes", "load_refreshes", "Loads begun while their entry was served"),
    _counter("loading.leasesLost", "load_leases_lost", "Leases that ended before their load did"),
    _counter("loading.withoutLease", "load_without_lease", "Keys loaded without a lease, since none was to be had"),
    _counter("loading.negativeHits", "negative_hits", "Misses answered by what the origin had said before"),
    _gauge("loading.absences", "absences", "Keys known to be absent at the origin"),
    _counter("loading.stale.*", "stale_served", "Answers past their life, by why", "why"),
    _gauge("feed.changes", "feed_changes", "Changes held for those who listen"),
    _gauge("feed.bytes", "feed_bytes", "Bytes of those changes"),
    _gauge("web.streams.*.open", "http_streams", "Streams of events that are open", "of"),
    _counter("web.streams.*.refused", "http_streams_refused", "Streams refused since too many were open", "of"),
    _gauge("revocations", "revocations", "Revocations of tokens in force on this node"),
    # rates
    _gauge("rates.buckets", "rate_buckets", "Users and addresses whose rate is counted here"),
    _counter("rates.evicted", "rate_buckets_evicted", "Of them, those let go since there were too many"),
    _counter("rates.draws", "rate_draws", "Chunks drawn from what the nodes share"),
    _counter("rates.drawsFailed", "rate_draws_failed", "How often that failed: then each node takes its share"),
    _gauge("rates.drawsWaiting", "rate_draws_waiting", "Buckets that wait for a chunk"),
    _counter("rates.waits", "rate_waits", "Requests and messages that waited for a chunk"),
    _gauge("rates.away", "rate_quotas_away", "1 while what the nodes share is not asked"),
    _counter("rates.refused.*", "rate_refused", "What was refused by the rate of a connection, user or address", "scope"),
    # what one node does for all
    _gauge("duties.*.held", "duty_held", "1 where this node does what one does for all", "duty"),
    _counter("duties.*.failures", "duty_failures", "How often that failed", "duty"),
    _counter("replay.replayed", "replay_changes", "Changes that this node replayed into Redis"),
    _counter("replay.restarted", "replay_partitions_emptied", "Partitions of Redis that this node had to empty"),
    _gauge("replay.partitionsBehind", "replay_partitions_behind", "Partitions of Redis behind the log, by who replays"),
    _gauge("replay.lag", "replay_lag_changes", "Changes applied here that Redis has not been told of, by who replays"),
    _counter("sweep.expired", "sweep_expired", "Entries past their life that this node ended"),
    _counter("sweep.trimmed", "sweep_trimmed", "Records of the log that this node dropped"),
    _gauge("jobs.running", "jobs_running", "Jobs that run on this node"),
    _counter("jobs.resumed", "jobs_resumed", "Jobs that this node took over from one that was gone"),
    _counter("jobs.*", "jobs_ended", "Jobs that ended on this node", "state"),
    # other sites
    _gauge("sites.digest.entries", "digest_entries", "Entries in the digest that is compared with other sites"),
    _counter("sites.digest.built", "digest_built", "How often the digest was built by a scan"),
    _gauge("sites.digest.seconds", "digest_build_seconds", "How long that took the last time"),
    _counter("sites.told.asked", "site_asked", "What nodes of other sites asked"),
    _counter("sites.told.refused", "site_asked_refused", "Of that, what was in another's name or could not be understood"),
    _counter("sites.told.changes", "site_told_changes", "Changes that they were told of, or that were not of their concern"),
    _counter("sites.told.entries", "site_told_entries", "Entries that they were sent"),
    _counter("sites.told.compared", "site_compared_prefixes", "Prefixes whose sums were compared with theirs"),
    _counter("sites.told.corrupt", "site_corrupt", "Entries that are not what their checksums say, and are not told"),
    _gauge("sites.peers.*.connected", "site_connected", "1 while this node follows that site", "site"),
    _gauge("sites.peers.*.policies_differ", "site_policies_differ", "1 where it settles conflicts by other policies", "site"),
    _counter("sites.peers.*.connections", "site_connections", "Connections made to it", "site"),
    _counter("sites.peers.*.failures", "site_failures", "Connections that failed or were lost", "site"),
    _counter("sites.peers.*.batches", "site_batches", "Batches that came from it", "site"),
    _counter("sites.peers.*.entries", "site_entries", "Entries in them", "site"),
    _counter("sites.peers.*.taken", "site_taken", "Of those, the ones that were news", "site"),
    _counter("sites.peers.*.invalidations", "site_invalidations", "Invalidations that were carried out for it", "site"),
    _counter("sites.peers.*.published", "site_published", "Messages that were published for it", "site"),
    _counter("sites.peers.*.refused", "site_refused", "What it told and could not be understood, or carried out", "site"),
    _gauge("sites.peers.*.held", "site_held", "Entries of a time too far ahead, that wait for it", "site"),
    _counter("sites.peers.*.held_ever", "site_held_ever", "Entries that had to wait so", "site"),
    _counter("sites.peers.*.held_dropped", "site_held_dropped", "Of those, more than may wait", "site"),
    _counter("sites.peers.*.started_over", "site_started_over", "How often its log could not be gone on with", "site"),
    _counter("sites.peers.*.conflicts", "site_conflicts", "Writes of both sites that did not know of each other", "site"),
    _counter("sites.peers.*.sent", "site_sent_bytes", "Bytes sent to it by comparing", "site"),
    _counter("sites.peers.*.received", "site_received_bytes", "Bytes that came from it", "site"),
    _counter("sites.peers.*.paused", "site_paused_seconds", "Time that the budget of bytes made it wait", "site"),
    _counter("sites.peers.*.synced", "site_comparisons", "Comparisons with it", "site"),
    _counter("sites.peers.*.sync_failures", "site_comparison_failures", "Comparisons that ended early", "site"),
    _counter(
        "sites.peers.*.repaired", "site_repaired", "Entries that differed twice, and were repaired: a fault, tell us", "site"
    ),
    _gauge(
        "sites.peers.*.lag",
        "site_lag_seconds",
        "Since all that it had to tell was taken in, by who follows it; up to 4 where nothing happens",
        "site",
    ),
    # the audit
    _counter("audit.*.rounds", "audit_rounds", "Audits of this tier", "tier"),
    _counter("audit.*.failed", "audit_failed", "Audits that ended early", "tier"),
    _counter("audit.*.audited", "audit_audited", "Entries compared with the authority", "tier"),
    _counter("audit.*.agreed", "audit_agreed", "Entries that agreed with it", "tier"),
    _counter("audit.*.repaired", "audit_repaired", "Entries that did not, and were taken out: a fault, tell us", "tier"),
    _counter("audit.*.undecided", "audit_undecided", "Entries of which it could not be told", "tier"),
    _gauge("audit.*.latest.at", "audit_latest_timestamp_seconds", "When the latest audit began, in Unix time", "tier"),
    _gauge("audit.*.latest.seconds", "audit_latest_duration_seconds", "How long it took", "tier"),
    _gauge("audit.*.latest.coherence", "audit_coherence", "The share of its audited entries that agreed", "tier"),
    # the socket
    _gauge("realtime.open", "ws_connections", "Open connections of the socket"),
    _gauge("realtime.inFlight", "ws_in_flight", "Requests over the socket that are being carried out"),
    _gauge("realtime.queuedBytes", "ws_queued_bytes", "Bytes that wait to be sent over the socket"),
    _counter("realtime.connections", "ws_connections_opened", "Connections of the socket, ever"),
    _counter("realtime.refused", "ws_connections_refused", "Connections refused by their origin or credentials"),
    _counter(
        "realtime.nodesRefused",
        "ws_nodes_refused",
        "Nodes refused by the version of their protocol, or since they could not prove who they are",
    ),
    _gauge("realtime.subscriptions", "ws_subscriptions", "Subscriptions of open connections"),
    _counter("realtime.changesTold", "ws_changes", "Changes that came to the hub"),
    _counter("realtime.deliveries", "ws_deliveries", "Times that one was handed to a connection"),
    _counter("realtime.untold", "ws_untold", "Changes that could not be told, or not with their content: a fault, tell us"),
    _gauge("realtime.kept", "ws_sessions_kept", "Sessions kept for clients that may come back"),
    _gauge("realtime.keptBytes", "ws_sessions_kept_bytes", "Bytes of what is kept for them"),
    _gauge("realtime.conflated", "ws_conflated", "Of the connections open now: changes that gave way to newer ones"),
    _counter("realtime.received", "ws_messages_received", "Messages that came over the socket"),
    _counter("realtime.sent", "ws_messages_sent", "Messages sent over the socket"),
    _counter("realtime.sentBytes", "ws_sent_bytes", "Bytes of those"),
    _counter("realtime.crowdedOut", "ws_crowded_out", "Connections closed at once since too many were open"),
    _counter("realtime.closed.*", "ws_connections_closed", "Connections that this node closed, by why", "code"),
    # the door
    _gauge("web.requests", "http_requests_in_progress", "Requests in progress"),
    _gauge("web.connections", "http_connections", "Open connections"),
    _counter("web.shed", "http_shed", "Requests refused, for whatever reason"),
    _counter("web.readsShed", "http_reads_shed", "Reads refused since this node is overloaded"),
    _counter("web.writesShed", "http_writes_shed", "Writes refused since this node, or the log, is overloaded"),
    _counter("web.crowdedOut", "http_crowded_out", "Requests refused since too many were in progress"),
    _gauge("web.readsShare", "http_reads_share", "The share of reads that is let in: 1 is all"),
    _gauge("web.writesShare", "http_writes_share", "The share of writes that is let in: 1 is all"),
    _counter("web.connectionsRefused", "http_connections_refused", "Connections refused since too many were open"),
    _counter("web.connectionsStalled", "http_connections_stalled", "Connections dropped since their client took nothing"),
)

_PLAIN: Final = {family.path: family for family in FAMILIES if "*" not in family.path}
_LABELLED: Final = tuple(family for family in FAMILIES if "*" in family.path)


def find(path: tuple[str, ...]) -> tuple[Family, tuple[str, ...]] | None:
    """The metric that a number of the stats is of, and the values of its labels; None for one that is not in here."""
    plain = _PLAIN.get(path)
    if plain is not None:
        return plain, ()
    for family in _LABELLED:
        if len(path) == len(family.path) and all(part in ("*", name) for part, name in zip(family.path, path, strict=True)):
            return family, tuple(name for part, name in zip(family.path, path, strict=True) if part == "*")
    return None
