"""`nekko list`: the images of the cache, in the columns of ociregistry."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
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
    is_wanted = _matching(pattern)
    if header:
        click.echo(" ".join(HEADS))
    for content in daemon.contents():
        if content["url"].startswith("oci://") and content["manifest"] and is_wanted(content["name"]):
            click.echo(one_line(" ".join(_cells(content, short_digest=short_digest))))


def _matching(patterns: str) -> Callable[[str], bool]:
    expressions = []
    for text in filter(None, (each.strip() for each in patterns.split(","))):
        try:
            expressions.append(re.compile(text))
        except re.error as error:
            raise click.UsageError(f"--pattern: {text[:100]!r} is not a regular expression: {error}") from error
    return lambda name: not expressions or any(each.search(name) for each in expressions)


def _cells(content: dict[str, Any], *, short_digest: bool) -> Iterator[str]:
    image, at, digest = content["name"].partition("@")
    if at:
        yield from (image, _shortened(digest) if short_digest else digest)
    else:
        image, _, tag = image.rpartition(":")
        yield from (image, tag)
    blobs = content["files"]
    is_list = any(each["digest"] == content["manifest"] and each["media_type"] in INDEXES for each in blobs)
    yield "list" if is_list else "image"
    yield from (_local(content[moment]) for moment in ("created", "last_used"))
    size = sum(each["size"] for each in blobs if each["media_type"] not in GRAPH)
    yield f"{size / 1e6:.1f}" if size else "n/a"


def _shortened(digest: str) -> str:
    return digest.partition(":")[2][:SHORT_DIGEST_LENGTH]


def _local(timestamp: str) -> str:
    return datetime.fromisoformat(timestamp).astimezone().strftime("%Y-%m-%dT%H:%M:%S")
