"""`nekko export`: contents of a daemon as one file, to be carried to where no line leads.

What was written of a file that is not complete is hashed before it is gone on with, so a bundle is right whatever
happened to an earlier try.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from nekko.cli import words
from nekko.cli.client import Daemon
from nekko.cli.completion import complete_url
from nekko.cli.content import content_path
from nekko.cli.exits import HELP, CommandError, Exit
from nekko.cli.options import daemon_option
from nekko.errors import NekkoError
from nekko.oci import manifest
from nekko.oci.bundle import END, Bundle, Member
from nekko.oci.descriptor import REF_NAME, URL, Descriptor
from nekko.oci.digest import Digest
from nekko.oci.graph import Walk
from nekko.oci.mediatype import is_foreign
from nekko.oci.platform import PlatformSelection
from nekko.oci.reference import parse_reference
from nekko.sources.url import ref_name

READ_BYTES = 1 << 20
MAX_MANIFEST_BYTES, MAX_BLOBS = 64 << 20, 1_000_000
"""Generous: the daemon has refused what is beyond its own limits."""


@click.command(epilog=HELP)
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_url)
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False), metavar="FILE", help="The file to write."
)
@daemon_option
def export(names: Sequence[str], output: str, daemon: Daemon) -> None:
    """Write contents of the cache into one file, for `nekko load`.

    A name is that of an image, or a URL as it was pulled. The file is a tar archive of an OCI layout, which other tools
    read as well. While it is written it is called FILE.partial; the same command goes on with that after a cut.

    \b
    nekko export docker.io/library/alpine:3 ghcr.io/org/app:v1 -o images.tar
    nekko export hf:///owner/model -o model.tar
    """
    bundle = Bundle()
    for name in names:
        _add(daemon, bundle, name if "://" in name else f"oci://{parse_reference(name).name}")
    target = Path(output)
    with _partial(target) as file:
        for member in bundle.members():
            _write(daemon, file, member)
        _put(file, END)
        file.truncate()
    click.echo(f"{target}: {len(names)} contents, {words.size(bundle.size)}")


def _add(daemon: Daemon, bundle: Bundle, url: str) -> None:
    """Add a content and everything below it."""
    answer = daemon.ask("GET", content_path(url)).checked()
    content = answer.body
    if answer.status != 200:
        raise CommandError(
            f"{words.url(url)}: is {content['state']}, and only what is complete is exported", answer.exit
        )
    try:
        bodies: dict[Digest, bytes] = {}
        root = _root(daemon, Digest.parse(content["manifest"]), bodies)
        walk = Walk(root, PlatformSelection.parse(content["platform"]), max_blobs=MAX_BLOBS)
        while level := walk.next_level():
            for descriptor in level:
                body = bodies.get(descriptor.digest) or _read(daemon, descriptor.digest)
                bodies[descriptor.digest] = body
                walk.feed(descriptor, _parsed(body, descriptor.media_type))
    except NekkoError as error:
        raise CommandError(f"{words.url(url)}: {error}", Exit.FAILED) from error
    bundle.add_root(root, {REF_NAME: ref_name(content["name"]), URL: content["url"]})
    for descriptor in walk.required:
        if not is_foreign(descriptor.media_type) or daemon.has(_path(descriptor.digest)):
            bundle.add_blob(descriptor, bodies.get(descriptor.digest))


def _root(daemon: Daemon, digest: Digest, bodies: dict[Digest, bytes]) -> Descriptor:
    body = bodies[digest] = _read(daemon, digest)
    parsed = _parsed(body, None)
    return Descriptor(parsed.media_type, digest, len(body), artifact_type=parsed.artifact_type)


def _parsed(body: bytes, media_type: str | None) -> manifest.Manifest:
    return manifest.parse(body, media_type, max_bytes=MAX_MANIFEST_BYTES, max_children=MAX_BLOBS)


def _read(daemon: Daemon, digest: Digest) -> bytes:
    with daemon.open(_path(digest)) as response:
        body: bytes = response.read(MAX_MANIFEST_BYTES)
    return body


def _path(digest: Digest) -> str:
    if digest.algorithm != "sha256":
        raise CommandError(f"{digest}: only blobs named by sha256 can be exported", Exit.FAILED)
    return f"/{digest.encoded}"


@contextmanager
def _partial(target: Path) -> Iterator[BinaryIO]:
    """Open what there is of a file; when the block ends well, all of it is on disk and has its name."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        with partial.open("r+b" if partial.exists() else "x+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.rename(target)
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BlockingIOError as error:
        raise CommandError(f"{partial}: another export is writing it", Exit.FAILED) from error
    except OSError as error:
        code = Exit.NO_SPACE if error.errno in (errno.ENOSPC, errno.EDQUOT) else Exit.FAILED
        raise CommandError(f"{partial}: {error.strerror or error}", code) from error


def _write(daemon: Daemon, file: BinaryIO, member: Member) -> None:
    """Write a member at the file's position, or go on with what is there of it; the position is behind it then."""
    _put(file, member.header)
    start = file.tell()
    if _complete(daemon, file, member) != member.digest:  # what was there is of no use
        file.seek(start)
        file.truncate()
        if _complete(daemon, file, member) != member.digest:
            raise CommandError(f"{member.digest}: the daemon gave other bytes", Exit.FAILED)
    _put(file, member.padding)


def _complete(daemon: Daemon, file: BinaryIO, member: Member) -> Digest:
    """Hash what is there of a member's content, add what is missing, and give the digest of all of it."""
    hasher, present = member.digest.hasher(), 0
    while chunk := file.read(min(READ_BYTES, member.size - present)):
        hasher.update(chunk)
        present += len(chunk)
    for chunk in _rest(daemon, member, present):
        hasher.update(chunk)
        file.write(chunk)
    return Digest(member.digest.algorithm, hasher.hexdigest())


def _rest(daemon: Daemon, member: Member, offset: int) -> Iterator[bytes]:
    if member.body is not None:
        yield member.body[offset:]
        return
    if offset == member.size:
        return
    with daemon.open(_path(member.digest), {"Range": f"bytes={offset}-"}) as response:
        while chunk := response.read(READ_BYTES):
            offset += len(chunk)
            yield chunk
    if offset != member.size:
        raise CommandError(f"{member.digest}: the daemon broke off; the same command goes on from here", Exit.FAILED)


def _put(file: BinaryIO, expected: bytes) -> None:
    """Write bytes at the file's position, unless they are there; where others are, all that follows goes."""
    start = file.tell()
    if file.read(len(expected)) != expected:
        file.seek(start)
        file.truncate()
        file.write(expected)
