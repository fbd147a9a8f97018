"""Every error nekko raises on purpose.

Leaf classes carry typed fields and a message that names the object, the cause and, where there is one, the way out.
None knows an HTTP status: each API has one table from class to status. A bug stays a built-in exception and ends its
task. Anything under `NekkoError` may be shown to a user: messages never hold credentials.
"""

from collections.abc import Mapping, Sequence


class NekkoError(Exception):
    """The root of all errors that are part of an interface."""


# --- what was given is not valid -------------------------------------------------------------------------------------


class InvalidError(NekkoError):
    """The caller's input cannot be used; the same input will fail again."""


class ReferenceInvalidError(InvalidError):
    """An image reference does not follow the grammar."""


class LocatorInvalidError(InvalidError):
    """A source URL cannot be understood."""


class DigestInvalidError(InvalidError):
    """A digest does not follow the grammar, or its algorithm is not supported."""


class PlatformInvalidError(InvalidError):
    """A platform is not `all`, `host` or os/architecture[/variant]."""


class ManifestInvalidError(InvalidError):
    """A manifest or index cannot be parsed, or goes past a limit."""


class PatternInvalidError(InvalidError):
    """A regular expression cannot be used: it is none, or takes too long."""


class RequestInvalidError(InvalidError):
    """A request to one of nekko's own doors cannot be understood."""


class BodyTooLargeError(InvalidError):
    """A request's body is larger than this door takes."""


class BodyTypeError(InvalidError):
    """A request's body is wrapped in a way that this door does not unwrap."""


class BodyCutError(InvalidError):
    """A request's body ended early, or no byte of it arrived for too long."""


class NameInvalidError(InvalidError):
    """A name that should be the hash of a file is not one."""


class RangeInvalidError(InvalidError):
    """A byte range cannot be satisfied; `size` is the size of the whole in bytes."""

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class ImageInvalidError(InvalidError):
    """An attachment, mount or container cannot be made as it is described."""


class ArchiveInvalidError(InvalidError):
    """An archive is not what it should be, lacks something, or would reach beyond the place where it is unpacked."""


class DriverUnknownError(InvalidError):
    """There is no way here to make an object of that kind."""


class ViewInvalidError(InvalidError):
    """A content cannot be shown as a view of that kind: it is of another one, or its names cannot stand in a tree."""


class ConfigInvalidError(InvalidError):
    """A setting is unknown, of the wrong type or unusable. The message names the key and where it came from."""


# --- the caller may not do that --------------------------------------------------------------------------------------


class AccessDeniedError(NekkoError):
    """This caller, through this listener, may not do what it asked for."""


class CredentialsNeededError(AccessDeniedError):
    """This caller must name itself: no account of the door was given, or a wrong password."""


# --- what was asked for is not here ----------------------------------------------------------------------------------


class NotFoundError(NekkoError):
    """The object asked for does not exist here."""


class BlobUnknownError(NotFoundError):
    """No blob of that digest is in the store."""

    def __init__(self, digest: object) -> None:
        super().__init__(f"blob {digest} is not in the store")
        self.digest = digest


class ManifestUnknownError(NotFoundError):
    """No manifest of that reference is in the store, and none can be asked for."""

    def __init__(self, reference: str) -> None:
        super().__init__(f"manifest {reference} is not in the cache")
        self.reference = reference


class RepositoryUnknownError(NotFoundError):
    """Nothing is known of that repository."""

    def __init__(self, name: str) -> None:
        super().__init__(f"repository {name} is not known")
        self.name = name


class FileUnknownError(NotFoundError):
    """A repository has no file or folder of that path at that commit."""

    def __init__(self, repository: str, path: str, commit: str) -> None:
        super().__init__(f"{repository}: has no {path} at {commit}")
        self.commit = commit


class BlobDamagedError(BlobUnknownError):
    """A blob was found damaged just now, and is no longer in the store. `fault` says what was wrong."""

    def __init__(self, digest: object, fault: str) -> None:
        super().__init__(digest)
        self.args = (f"blob {digest} was damaged ({fault}) and has been taken out of the store",)
        self.fault = fault


class ContentUnknownError(NotFoundError):
    """No content of that name is in the catalog."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not in the cache")
        self.name = name


class ContentFileUnknownError(NotFoundError):
    """A content has no file of that name."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(f"{name} has no file {file!r}; without a name behind its slash, the URL lists those it has")
        self.file = file


class FileImageError(NotFoundError):
    """A manifest cannot be had as an image of its files: it has none, or names that cannot stand in an image."""


class ReplicasUnknownError(NotFoundError):
    """This node keeps no files on tuples of storages."""

    def __init__(self) -> None:
        super().__init__("no storagePairs are configured on this node")


class ObjectUnknownError(NotFoundError):
    """No attachment, mount or container of that type has that id or name."""

    def __init__(self, what: str, key: object) -> None:
        super().__init__(f"there is no {what} {key}")
        self.key = key


# --- the object is in use --------------------------------------------------------------------------------------------


class ViewUnknownError(NotFoundError):
    """There is no view of that number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"there is no view {number}")
        self.number = number


class ConflictError(NekkoError):
    """The object's state does not permit the request now."""


class StoreBusyError(ConflictError):
    """Another process holds the cache directory."""


class ObjectBusyError(ConflictError):
    """An attachment, mount or container is in use. The message says by what, and what may be done."""


# --- bytes are not what they should be -------------------------------------------------------------------------------


class IntegrityError(NekkoError):
    """Bytes failed their proof."""


class DigestMismatchError(IntegrityError):
    """The hash of the bytes is not the digest they were asked for by."""

    def __init__(self, expected: object, actual: object) -> None:
        super().__init__(f"expected {expected}, got bytes with {actual}")
        self.expected = expected
        self.actual = actual


class SizeMismatchError(IntegrityError):
    """There are more or fewer bytes than the descriptor says. `actual` is what arrived up to the decision."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"expected {expected} bytes, got {'more' if actual > expected else actual}")
        self.expected = expected
        self.actual = actual


# --- there is no room ------------------------------------------------------------------------------------------------


class CapacityError(NekkoError):
    """A resource of this node is exhausted."""


class StorageFullError(CapacityError):
    """There is no room for what was asked, and not so much that could make room. All figures in bytes.

    `free_by_limit` has what each limit leaves, by its key in the settings; negative where it is exceeded already.
    """

    def __init__(
        self, needed_bytes: int, free_by_limit: Mapping[str, int], where: object, evictable_bytes: int = 0
    ) -> None:
        free_bytes = max(0, min(free_by_limit.values()))
        limits = ", ".join(f"{limit} leaves {max(0, free)}" for limit, free in free_by_limit.items())
        super().__init__(
            f"{where}: {needed_bytes} bytes needed, {free_bytes} bytes free ({limits}),"
            f" {evictable_bytes} bytes could be evicted"
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.free_by_limit = dict(free_by_limit)
        self.evictable_bytes = evictable_bytes


class NoStorageError(CapacityError):
    """No tuple of storages takes a file; the message says of each why not."""


# --- the far end -----------------------------------------------------------------------------------------------------


class UpstreamError(NekkoError):
    """An upstream did not give what was asked. The message names the URL (without credentials) and the cause."""


class UpstreamConnectError(UpstreamError):
    """No connection: name lookup, refusal."""


class UpstreamTlsError(UpstreamError):
    """The TLS handshake failed, most often because a certificate is not trusted."""


class UpstreamProxyError(UpstreamError):
    """The proxy on the way to the upstream refuses, or cannot be understood."""


class UpstreamTimeoutError(UpstreamError):
    """No byte arrived for the configured time."""


class UpstreamCutError(UpstreamError):
    """The connection ended before the body did. What arrived is kept for resumption."""


class UpstreamStatusError(UpstreamError):
    """An answer with a status that cannot be used. `code` and `words` are its own, where a Hub gives them."""

    def __init__(self, message: str, *, status: int, code: str | None = None, words: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.words = words


class UpstreamNotFoundError(UpstreamStatusError):
    """The upstream says that it does not have it (404, 410)."""


class UpstreamDeniedError(UpstreamStatusError):
    """The upstream wants other credentials (401, 403)."""


class UpstreamThrottledError(UpstreamStatusError):
    """The upstream wants fewer requests (429). `retry_after_seconds` is what it asked for, or None."""

    def __init__(self, message: str, *, status: int = 429, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after_seconds = retry_after_seconds


class UpstreamUnavailableError(UpstreamStatusError):
    """The upstream is in trouble (5xx, 408). `retry_after_seconds` is what it asked for, or None."""

    def __init__(self, message: str, *, status: int, retry_after_seconds: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after_seconds = retry_after_seconds


class UpstreamContentError(UpstreamError):
    """What the upstream sent is wrong: digest, length, encoding, manifest, redirect."""


class UpstreamTooLargeError(UpstreamContentError):
    """An answer is larger than what is read of its kind."""


class UpstreamForbiddenError(UpstreamError):
    """This node's own fetch policy does not permit that host or address."""


# --- our own work ----------------------------------------------------------------------------------------------------


class TransferError(NekkoError):
    """A transfer or pull ended without its result."""


class TransferAbandonedError(TransferError):
    """It was cancelled: by DELETE, by shutdown, or because the last waiter left."""


class RepairError(TransferError):
    """A damaged blob could not be fetched again; another try asks its sources again."""

    def __init__(self, digest: object, cause: NekkoError) -> None:
        super().__init__(f"blob {digest} was damaged, and could not be fetched again: {cause}")
        self.digest = digest
        self.retry_after_seconds: float | None = getattr(cause, "retry_after_seconds", None)


class AnnouncementError(NekkoError):
    """A message server did not take announcements. The message names it (without credentials) and the cause."""


class HostError(NekkoError):
    """The host refused an operation (socket, file system, kernel)."""


class CacheAwayError(HostError):
    """The daemon that has the cache, another process of this node, does not answer."""

    def __init__(self, socket: object, cause: object) -> None:
        super().__init__(
            f"the daemon with the cache does not answer at {socket} ({cause}): systemctl start nekko.socket"
        )


class StorageBrokenError(HostError):
    """A disk fails, or became read-only."""

    def __init__(self, where: object, cause: object) -> None:
        super().__init__(f"{where}: the disk fails ({cause}); the kernel's log says why")


class StorageAwayError(HostError):
    """A file cannot be removed everywhere, for a storage cannot be used now."""

    def __init__(self, digest: object, problems: Sequence[str]) -> None:
        told = "; ".join(problems)
        super().__init__(f"{digest} is not removed: {told}. Mount what is away, or take it out of storagePairs")
        self.problems = tuple(problems)


class ProgramMissingError(HostError):
    """A program of the host that is needed is not installed."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(f"{program} is not installed on this host: install the package {package}")
        self.program = program


class CommandError(HostError):
    """A program of the host failed. `told` is what it wrote on its standard error."""

    def __init__(self, command: str, status: int, told: str) -> None:
        super().__init__(f"{command}: {told or f'ended with status {status}'}")
        self.status = status
        self.told = told


class CommandTimeoutError(HostError):
    """A program of the host did not end in time."""

    def __init__(self, command: str, seconds: float) -> None:
        super().__init__(f"{command}: it did not end within {seconds:g} seconds")
