# ruff: noqa: RUF009 - `setting` declares a field, it computes nothing
"""Every setting: one field, its unit in its name, its default, and one sentence for the table in the README.

The classes are frozen and plain; `sources` fills them from defaults < file < environment < flags. Keys in a file are
the camelCase of the field (or `key` below); the environment name is `NEKKO_` and the key in upper case with
underscores (or `env`); the flag is the key in kebab-case. A secret has no flag, for `ps` shows those to everyone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from nekko.config import grammar
from nekko.config.doors import USUAL, parse_door

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

METADATA_ADDRESSES = (
    "169.254.0.0/16", "fe80::/10",  # link-local; nearly every cloud's metadata service is in the first
    "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32", "fd00:ec2::254/128", "fd20:ce::254/128",
)  # fmt: skip
"""Link-local and metadata services, denied by default: they hand credentials to whoever asks from this node."""


def setting(
    default: Any,
    help: str,  # noqa: A002 - the word click uses too
    *,
    key: str | None = None,
    env: str | None = None,
    old_env: str | None = None,
    short_flag: str | None = None,
    read: Callable[[str], Any] | None = None,
    separator: str = ",",
    is_secret: bool = False,
) -> Any:
    """Declare one setting.

    `read` turns its text (of a list: one item's) into its value, where the type alone does not say how; `separator`,
    a regular expression, parts the items of a list that is written as one text. A secret is redacted wherever it is
    shown.
    """
    metadata = {"help": help, "key": key, "env": env, "old_env": old_env, "short_flag": short_flag, "read": read,
                "separator": separator, "is_secret": is_secret}  # fmt: skip
    if isinstance(default, dict):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Host:
    """How to talk to one upstream host (`hosts:` in the file, by `host` or `host:port`)."""

    scheme: Literal["https", "http"] | None = setting(
        None, "http or https; without it https, and http for loopback", read=grammar.one_of("https", "http")
    )
    ca: Path | None = setting(None, "PEM file of the authorities to trust for this host, instead of the system's")
    cert: Path | None = setting(None, "PEM file of a client certificate")
    key: Path | None = setting(None, "PEM file of its private key")
    insecure_skip_verify: bool = setting(False, "accept any certificate")
    username: str | None = setting(None, "user name for Basic and token authentication")
    password: str | None = setting(None, "its password", is_secret=True)
    password_env: str | None = setting(None, "variable that holds its password, which wins over password")
    token: str | None = setting(None, "Bearer token, sent as it is", is_secret=True)
    basic_token: str | None = setting(
        None, "what follows `Basic` in Authorization, sent as it is and without being asked for", is_secret=True
    )
    token_provider: Literal["ecr"] | None = setting(
        None, "ecr: basicToken is asked of Amazon's ECR when it is needed, and again before it has run out",
        read=grammar.one_of("ecr"),
    )  # fmt: skip
    token_provider_options: tuple[str, ...] = setting(
        (), "for that: profile=NAME of AWS's files, region=NAME; else AWS's variables, and the registry's own region",
        read=grammar.option("profile", "region"),
    )  # fmt: skip
    token_expiry_seconds: float = setting(
        12 * 3600.0, "longest use of a token of the provider", key="tokenExpiry", read=grammar.age
    )
    max_transfers: int | None = setting(None, "simultaneous transfers from this host, instead of maxTransfersPerHost")
    max_bandwidth_bytes: int | None = setting(
        None, "bytes received a second from this host; maxBandwidth holds besides", key="maxBandwidth",
        read=grammar.bandwidth,
    )  # fmt: skip
    mirrors: tuple[str, ...] = setting(
        (), "of a registry: hosts that are asked before it, in this order, each by its own entry here; host/path where "
        "its repositories are below a path",
        read=grammar.mirror,
    )  # fmt: skip
    connect_timeout_seconds: float | None = setting(
        None, "longest wait for a connection to this host, instead of connectTimeoutSeconds", read=grammar.seconds
    )
    stall_timeout_seconds: float | None = setting(
        None, "longest silence of this host, instead of stallTimeoutSeconds", read=grammar.seconds
    )
    proxy: str | None = setting(
        None, "the proxy for this host, whatever NO_PROXY says; none for no proxy", read=grammar.proxy, is_secret=True
    )
    revalidate_seconds: float | None = setting(
        None,
        "age at which tags and branches of this host are asked for again, instead of revalidateSeconds",
        read=grammar.seconds,
    )


@dataclass(frozen=True, slots=True)
class PruneConfig:
    """When images go by themselves (`pruneConfig:` in the file)."""

    enabled: bool = setting(False, "prune images in the background")
    duration_seconds: float = setting(
        30 * 86400.0, "how long ago, by type: 30d, 12h30m", key="duration", read=grammar.age
    )
    type: Literal["accessed", "created", "pattern"] = setting(
        "accessed", "accessed: not used for that long; created: first pulled longer ago; pattern: named as expr says",
        read=grammar.one_of("accessed", "created", "pattern"),
    )  # fmt: skip
    frequency_seconds: float = setting(
        86400.0, "how often, for the first time so long after the start", key="frequency", read=grammar.age
    )
    count: int = setting(
        -1, "images that go at a time, at most, the least recently used first; -1 for all", read=grammar.limit
    )
    dry_run: bool = setting(False, "only tell in the log what would go")
    expr: str | None = setting(None, "regular expressions with commas between them, for type pattern")


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings of one process."""

    cache_dir: Path = setting(
        Path("/var/lib/nekko/cache"), "directory of the cache: an OCI image layout",
        env="CACHE_DIR", old_env="STORAGE_MANAGER_CACHE_DIR",
    )  # fmt: skip
    address: tuple[str, ...] = setting(
        ("localhost:8050",), "where to listen: host:port, :port, [::1]:port, unix:/path or /path; repeatable",
        env="NEKKO_ADDRESS", old_env="STORAGE_MANAGER_ADDRESS", read=grammar.address,
    )  # fmt: skip
    verbose: int = setting(
        0, "log level: 0 info, 1 debug, 2 trace, more counts as 2; -1 warnings, -2 errors only",
        env="VERBOSE", old_env="STORAGE_MANAGER_VERBOSE", short_flag="-v", read=grammar.log_level,
    )  # fmt: skip

    log_format: Literal["text", "json"] = setting(
        "text", "text for people, or json: one object a line", read=grammar.one_of("text", "json")
    )

    log_file: Path | None = setting(
        None, "file that the log is appended to, instead of standard error; one that is moved away is made anew"
    )

    # --- the server
    doors: tuple[str, ...] = setting(
        USUAL,
        "the parts of the API that this process serves; images needs root, and is served on Unix sockets, elsewhere "
        "only where `listen` names it",
        read=parse_door,
    )  # fmt: skip
    listen: tuple[str, ...] = setting(
        (), "an address with some of the doors only, such as :9090=admin or 0.0.0.0:80=content,files; "
        ":8081=health and :8082=metrics tell that alone, in plain HTTP; repeatable",
        read=grammar.listen, separator=r",(?=[^,=]*=)",
    )  # fmt: skip
    socket_mode: str = setting("0660", "mode of a Unix socket, octal", read=grammar.octal_mode)
    socket_group: str | None = setting(None, "group that owns a Unix socket")
    tls_cert: Path | None = setting(
        None,
        "PEM certificate chain: TCP listeners speak TLS. It, tlsKey and tlsClientCa may change at any time",
    )
    tls_key: Path | None = setting(None, "PEM private key of tlsCert")
    tls_client_ca: Path | None = setting(
        None, "PEM file of authorities; a client with a certificate of theirs may change and delete, as with a token"
    )
    tls_client_auth: Literal["optional", "require"] = setting(
        "optional", "whether every client must show a certificate of tlsClientCa",
        read=grammar.one_of("optional", "require"),
    )  # fmt: skip
    tokens: tuple[str, ...] = setting(
        (), "Bearer tokens that may change and delete on listeners that are neither loopback nor a Unix socket",
        is_secret=True,
    )  # fmt: skip
    tokens_file: Path | None = setting(
        None, "file of further tokens, one a line, not readable by everybody; taken anew when it changes"
    )
    graceful_stop_seconds: float = setting(10.0, "how long running answers may go on after SIGTERM")
    send_timeout_seconds: float = setting(
        60.0, "a client that accepts, or in an upload sends, no byte for this long is dropped"
    )
    max_request_body_bytes: int = setting(
        1 * MIB, "largest JSON body accepted", key="maxRequestBody", read=grammar.size
    )

    # --- the store
    min_free_space_bytes: int = setting(
        256 * MIB,
        "never fill the disk of cacheDir, or of storagePairs, beyond this much free space",
        key="minFreeSpace",
        read=grammar.size,
    )
    max_cache_bytes: int | None = setting(
        None, "most bytes of blobs and partial downloads; beyond it the least recently used go (default: no limit)",
        key="maxCacheSize", read=grammar.size,
    )  # fmt: skip

    prune_config: PruneConfig = setting(PruneConfig(), "which images go by themselves, and when")
    scrub_interval_seconds: float = setting(
        30 * 86400.0, "how often every byte of the cache is proven again in the background: 30d, 12h; 0 for never",
        key="scrubInterval", read=grammar.duration,
    )  # fmt: skip
    scrub_bandwidth_bytes: int = setting(
        50 * MIB, "bytes read a second for that; 0 for no limit", key="scrubBandwidth", read=grammar.bandwidth
    )

    preload_images: tuple[str, ...] = setting(
        (), "files with lists of images, or archives of them, or patterns of such: loaded beside serving after each "
        "start",
    )  # fmt: skip
    preload_platform: str = setting(
        "host", "platforms that are loaded so: all, host, or a list such as linux/amd64,linux/arm64",
        read=grammar.platforms,
    )  # fmt: skip
    # --- what this node should hold
    sync_file: Path | None = setting(
        None, "file that lists what this node should hold (docs/sync.md); taken anew when it changes"
    )
    sync_labels_file: Path | None = setting(
        None, "where to write the state of that list, as node labels for Node Feature Discovery"
    )

    # --- the registry door
    default_registry: str = setting(
        "docker.io", "the registry of names without one at the registry door", read=grammar.registry
    )
    prefetch: bool = setting(
        True, "a manifest pulled by the registry door brings the rest of the image for this node's platform as well"
    )
    revalidate_seconds: float | None = setting(
        None,
        "a tag, or a Hub's branch, older than this is compared with its upstream when it is asked for; without it only "
        "by a refresh",
        read=grammar.seconds,
    )  # fmt: skip
    manifest_timeout_seconds: float = setting(
        30.0, "longest wait of the registry door's client for a manifest that is not held; its pull goes on"
    )
    share_credentialed_content: bool = setting(
        False, "what the Hub door fetched with one client's token is for every client, and on every other way as well"
    )
    always_pull_latest: bool = setting(False, "as revalidateSeconds 0, for the tag `latest`")

    # --- the image API
    images_dir: Path = setting(
        Path("/var/lib/nekko-images"), "directory of the image API's journal, unpacked layers and what overlays keep"
    )
    images_run_dir: Path = setting(
        Path("/run/nekko-images"), "directory of its mountpoints, on a file system that a reboot empties"
    )

    images_content_from: Path | None = setting(
        None, "Unix socket of the daemon that has the cache; this process opens none, and serves `images` alone"
    )
    images_runtime: str | None = setting(
        None, "the OCI runtime of containers: crun or runc; without it, the first installed one that fits the cgroups",
        read=grammar.one_of("crun", "runc"),
    )  # fmt: skip
    images_max_unpacked_bytes: int = setting(
        64 * GIB, "most that one layer or archive may unpack to", key="imagesMaxUnpacked", read=grammar.size
    )
    images_kept_layers_bytes: int = setting(
        20 * GIB, "bytes of unpacked layers beyond which those that no mount uses go", key="imagesKeptLayers",
        read=grammar.size,
    )  # fmt: skip

    images_allowed_paths: tuple[Path, ...] = setting(
        (), "if not empty, only what lies in these directories of the host is attached or bound", read=grammar.path
    )
    images_allowed_hosts: tuple[str, ...] = setting(
        (), "if not empty, only these hosts for nfs, iscsi, nbd and rbd: names, *.suffix, addresses, networks",
        read=grammar.host_or_network,
    )  # fmt: skip

    # --- files by their hash
    basic_auth: tuple[str, ...] = setting(
        (), "accounts that may upload, user:password or user:hash (`nekko config hash`); with any, an upload needs one "
        "by every listener",
        read=grammar.account, separator=r",(?=[^,:]*:)", is_secret=True,
    )  # fmt: skip
    read_auth: bool = setting(False, "reading a file by its hash needs one of basicAuth, or a token, as well")
    max_upload_bytes: int | None = setting(
        None, "largest file that may be uploaded; without it, what there is room for", key="maxUploadSize",
        read=grammar.size,
    )  # fmt: skip

    storage_pairs: tuple[tuple[Path, ...], ...] = setting(
        (), "tuples of directories in Stor's form, each file on every member of one: /disk1:/disk2, in the environment "
        "/disk1:/disk2,/disk3:/disk4, or lists in a file; repeatable. Without them uploads go into the cache",
        read=grammar.storages,
    )  # fmt: skip
    writable_pairs_regex: str = setting(
        ".*", "a tuple takes new files if this is found in the path of each of its directories", read=grammar.regex
    )
    replicas_scrub_interval_seconds: float = setting(
        30 * 86400.0, "how often every copy on storagePairs is proven again in the background: 30d, 12h; 0 for never",
        key="replicasScrubInterval", read=grammar.duration,
    )  # fmt: skip
    replicas_scrub_bandwidth_bytes: int = setting(
        50 * MIB, "bytes read a second for that; 0 for no limit", key="replicasScrubBandwidth", read=grammar.bandwidth
    )
    largest_first_below_bytes: int = setting(
        10**9, "while no tuple has more room than this, a file goes where the most is; else where chance has it, in "
        "proportion to the room",
        key="largestFirstBelow", read=grammar.size,
    )  # fmt: skip
    require_mounts: bool = setting(
        True, "a directory of storagePairs on the root file system is a disk that is not mounted, and takes nothing"
    )
    storage_timeout_seconds: float = setting(
        15.0, "a directory of storagePairs that does not answer for so long is not used until it does",
        key="storageTimeout", read=grammar.positive_duration,
    )  # fmt: skip
    file_sources: tuple[str, ...] = setting(
        ("layout", "pairs", "s3"),
        "where a file is looked for by its hash, in this order; layout is the cache",
        read=grammar.one_of("layout", "pairs", "s3"),
    )
    s3_endpoint: str | None = setting(
        None, "URL of an S3 object store that files by their hash are fetched from", read=grammar.endpoint
    )
    s3_access_key: str | None = setting(None, "its access key; without one, requests are not signed", is_secret=True)
    s3_secret_key: str | None = setting(None, "the secret of that key", is_secret=True)
    s3_region: str = setting("us-east-1", "its region, which is part of the signature")
    s3_bucket: str = setting("samples", "the bucket with the files")
    s3_key: str = setting(
        "{a}/{b}/{c}/{sha256}",
        "key of a file's object: {sha256} is its hash in lower case, {a} {b} {c} the first three bytes of it",
        read=grammar.object_key,
    )
    s3_virtual_host: bool = setting(False, "the bucket is part of the host name, and not of the path")
    s3_keep: bool = setting(
        True, "what is read from the object store becomes part of the cache; else it is passed on, proven on the way"
    )
    s3_part_size_bytes: int = setting(
        5 * GIB, "what is larger is written to the object store in parts of this size, from 5MiB to 5GiB",
        key="s3PartSize", read=grammar.part_size,
    )  # fmt: skip
    s3_write_behind: bool = setting(
        False, "what is stored or pulled here is written to the object store as well, in the background"
    )

    memcached_servers: tuple[str, ...] = setting(
        (), "servers, host[:port], that remember for all nodes on which of storagePairs a file is",
        read=grammar.service(11211),
    )  # fmt: skip
    rabbitmq_uri: str | None = setting(
        None, "amqp:// or amqps:// URI of a RabbitMQ server that is told of each file that is asked for by its hash "
        "(docs/replicas.md)",
        read=grammar.broker, is_secret=True,
    )  # fmt: skip
    statsd_server: str | None = setting(
        None, "server, host[:port], that is sent metrics of files by their hash, under Stor's names",
        read=grammar.service(8125),
    )  # fmt: skip
    statsd_prefix: str | None = setting(None, "what those names begin with, before a dot")
    statsd_sample_rate: float = setting(1.0, "the part of them that is sent, above 0 to 1", read=grammar.part)

    # --- fetching
    air_gapped: bool = setting(False, "never ask an upstream: what is not in the cache is not found")
    hello_world: bool = setting(
        False, "serve docker.io/hello-world:latest, which is built in, and nothing else: out of a temporary cache, "
        "without asking an upstream",
    )  # fmt: skip
    platform: str = setting(
        "all", "platforms an image pull takes: all, host, or a list such as linux/amd64,linux/arm64",
        read=grammar.platforms,
    )  # fmt: skip
    max_transfers: int = setting(8, "simultaneous transfers in total")
    max_transfers_per_host: int = setting(4, "simultaneous transfers from one upstream host")
    max_ranges_per_transfer: int = setting(
        4, "connections for one large file, at most, where measuring shows that they pay; 1: never more than one"
    )
    max_attempts: int = setting(5, "tries of one transfer without a byte of progress before it fails")
    retry_base_seconds: float = setting(0.5, "first pause between tries; doubles each time, with jitter")
    retry_max_seconds: float = setting(30.0, "longest pause between tries; a longer Retry-After ends the transfer")
    connect_timeout_seconds: float = setting(10.0, "longest wait for a connection to an upstream")
    stall_timeout_seconds: float = setting(60.0, "an upstream that sends no byte for this long has stalled")
    max_redirects: int = setting(10, "redirects followed for one request", read=grammar.number)
    max_manifest_bytes: int = setting(
        4 * MIB,
        "largest manifest or index (what registries guarantee to take)",
        key="maxManifestSize",
        read=grammar.size,
    )
    max_graph_blobs: int = setting(20_000, "most manifests and blobs that one pull may name")
    allowed_hosts: tuple[str, ...] = setting(
        (), "if not empty, only these upstream hosts: names, *.suffix, host:port", read=grammar.host_pattern
    )
    denied_hosts: tuple[str, ...] = setting(
        (), "upstream hosts never asked: names, *.suffix, host:port", read=grammar.host_pattern
    )
    denied_addresses: tuple[str, ...] = setting(
        METADATA_ADDRESSES, "networks never connected to, whatever name leads there; default: link-local and metadata",
        read=grammar.network,
    )  # fmt: skip
    max_bandwidth_bytes: int = setting(
        0, "bytes received a second from all upstreams together, such as 100MiB; 0 for no limit", key="maxBandwidth",
        read=grammar.bandwidth,
    )  # fmt: skip
    proxy: str | None = setting(
        None,
        "http:// or https:// URL of a proxy, which may hold user:password; none for no proxy; without it HTTPS_PROXY, "
        "HTTP_PROXY and ALL_PROXY. NO_PROXY exempts hosts. deniedAddresses cannot be checked for names that a proxy "
        "looks up",
        read=grammar.proxy, is_secret=True,
    )  # fmt: skip
    docker_config: Path | None = setting(
        None, "docker's config.json with registry credentials (default: $DOCKER_CONFIG or ~/.docker)"
    )
    hub_endpoint: str = setting(
        "https://huggingface.co", "where huggingface.co is asked: a mirror of it, perhaps with a path",
        read=grammar.endpoint,
    )  # fmt: skip
    ollama_endpoint: str = setting(
        "https://registry.ollama.ai", "where registry.ollama.ai is asked: a mirror of it, or https://hf.co",
        read=grammar.endpoint,
    )  # fmt: skip
    hub_token: str | None = setting(
        None, "token for hubEndpoint where neither the request nor `hosts` has one; goes to no other host",
        env="HF_TOKEN", is_secret=True,
    )  # fmt: skip
    hosts: Mapping[str, Host] = setting({}, "settings per upstream host")

    def revalidate_after(self, host: str) -> float | None:
        """Give the age in seconds at which what a name of a host means is asked for again; None for never."""
        rules = self.hosts.get(host)
        if rules is not None and rules.revalidate_seconds is not None:
            return rules.revalidate_seconds
        return self.revalidate_seconds


@dataclass(frozen=True, slots=True)
class Declaration:
    """One setting, with its names everywhere."""

    field: Field[Any]

    @property
    def name(self) -> str:
        """The field's name."""
        return self.field.name

    @property
    def key(self) -> str:
        """The name in a file and in messages."""
        first, *rest = self.field.name.split("_")
        return self.field.metadata["key"] or first + "".join(map(str.capitalize, rest))

    @property
    def flag(self) -> str | None:
        """The name on the command line; None for a secret and for a table."""
        if self.is_secret or self.is_table:
            return None
        return flag_name(self.key)

    @property
    def environment(self) -> tuple[str, ...]:
        """The names in the environment, the one that wins first; none for a table."""
        if self.is_table:
            return ()
        plain = "NEKKO_" + re.sub("[A-Z]", lambda match: f"_{match[0]}", self.key).upper()
        metadata = self.field.metadata
        return tuple(name for name in (metadata["env"] or plain, metadata["old_env"]) if name)

    @property
    def default(self) -> Any:
        """The value without any source."""
        factory = self.field.default_factory
        return self.field.default if factory is MISSING else factory()

    @property
    def help(self) -> str:
        """One sentence for people."""
        return str(self.field.metadata["help"])

    @property
    def short_flag(self) -> str | None:
        """A one-letter flag, where there is one."""
        short_flag: str | None = self.field.metadata["short_flag"]
        return short_flag

    @property
    def read(self) -> Callable[[str], Any] | None:
        """The grammar of its text, where the type alone does not say it."""
        reader: Callable[[str], Any] | None = self.field.metadata["read"]
        return reader

    @property
    def separator(self) -> str:
        """What parts the items of a list, as a regular expression."""
        return str(self.field.metadata["separator"])

    @property
    def is_secret(self) -> bool:
        return bool(self.field.metadata["is_secret"])

    @property
    def is_list(self) -> bool:
        return get_origin(self.field.type) is tuple

    @property
    def is_nested(self) -> bool:
        """Whether it is a list of lists."""
        return self.is_list and get_origin(get_args(self.field.type)[0]) is tuple

    @property
    def is_table(self) -> bool:
        return get_origin(self.field.type) is Mapping or is_dataclass(self.field.type)


def flag_name(key: str) -> str:
    """Give the flag of a key: `--cache-dir` of cacheDir."""
    return "--" + re.sub("[A-Z]", lambda match: f"-{match[0].lower()}", key)


def declarations_of(cls: type[Settings] | type[Host] | type[PruneConfig]) -> tuple[Declaration, ...]:
    """Give what a class declares, in order."""
    return tuple(Declaration(declared) for declared in fields(cls))
