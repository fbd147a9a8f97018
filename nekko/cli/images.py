"""`nekko list`: the images of the cache, in the columns of ociregistry."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from nekko.cli.client import Daemon
from nekko.cli.exits import HELP, one_line
from nekko.cli.options import daemon_option
from nekko.oci.mediatype import GRAPH, INDEXES

HEADS = ("IMAGE", "TAG/DIGEST", "TYPE", "CREATED", "PULLED", "SIZE(MB)")
SHORT_DIGEST_LENGTH = 10


@click.command("list", epilog=HELP)
@click.option("--header", is_flag=True, help="Print the names of the columns first.")
@click.option("--pattern", default="", help="Regular expressions with commas between them; one must be in the name.")
@click.option("--short-digest", is_flag=True, help="Print the first 10 characters of a digest.")
@daemon_option
def list_images(header: bool, pattern: str, short_digest: bool, daemon: Daemon) -> None:
    """List images, one a line, with a blank between columns.

    A list is an image of several platforms. Sizes are in millions of bytes; times are when an image was first pulled
    and last used, on this machine's clock.

    \b
    nekko list --header | column -t
    nekko list --pattern '^docker.io/,:v1[.]2' --short-digest
    """
    is_wanted = matching(pattern)
    if header:
        click.echo(" ".join(HEADS))
    for content in daemon.contents():
        if content["url"].startswith("oci://") and content["manifest"] and is_wanted(content["name"]):
            click.echo(_listed(content, short_digest=short_digest))


def matching(patterns: str) -> Callable[[str], bool]:
    """Give what tells whether one of some expressions is found in a name; without any, all are wanted.

    Raises:
        UsageError: One cannot be used.
    """
    expressions = []
    for text in filter(None, (each.strip() for each in patterns.split(","))):
        try:
            expressions.append(re.compile(text))
        except re.error as error:
            raise click.UsageError(f"--pattern: {text[:100]!r} is not a regular expression: {error}") from error
    return lambda name: not expressions or any(each.search(name) for each in expressions)


def listed(name: str, *, is_list: bool, created: datetime, pulled: datetime, size: int, short_digest: bool) -> str:
    """Give the line of one image; the moments are of this machine's clock."""
    image, at, reference = name.partition("@")
    if not at:
        image, _, reference = image.rpartition(":")
    elif short_digest:
        reference = reference.partition(":")[2][:SHORT_DIGEST_LENGTH]
    times = (moment.strftime("%Y-%m-%dT%H:%M:%S") for moment in (created, pulled))
    return one_line(" ".join(
        (image, reference, "list" if is_list else "image", *times, f"{size / 1e6:.1f}" if size else "n/a")
    ))  # fmt: skip


def _listed(content: dict[str, Any], *, short_digest: bool) -> str:
    blobs = content["files"]
    return listed(
        content["name"],
        is_list=any(each["digest"] == content["manifest"] and each["media_type"] in INDEXES for each in blobs),
        created=datetime.fromisoformat(content["created"]).astimezone(),
        pulled=datetime.fromisoformat(content["last_used"]).astimezone(),
        size=sum(each["size"] for each in blobs if each["media_type"] not in GRAPH), short_digest=short_digest,
    )  # fmt: skip


def local(seconds: float) -> datetime:
    """Give a moment, in seconds since the epoch, on this machine's clock."""
    return datetime.fromtimestamp(seconds, UTC).astimezone()
