"""Sending a layer that is stored nowhere: the headers of a tar, and blobs between them."""

import logging
from typing import Any

from nekko.api.blobs import BlobDoor, Head, Send, send_head, send_part
from nekko.errors import NekkoError
from nekko.oci.fileimage import FileLayer

log = logging.getLogger(__name__)


async def send_layer(blobs: BlobDoor, layer: FileLayer, head: Head, scope: dict[str, Any], send: Send) -> None:
    """Answer with a layer; one of whose files cannot be had is broken off there.

    Raises:
        RangeInvalidError: Nothing was sent.
    """
    wanted = await send_head(head, layer.size, scope, send)
    if wanted is None:
        return
    try:
        for piece in layer.within(wanted):
            if piece.digest is None:
                await send({"type": "http.response.body", "body": piece.made, "more_body": True})
            else:
                _, descriptor = await blobs.open(piece.digest)
                await send_part(descriptor, piece.part, scope, send)
    except NekkoError as error:
        log.warning("an image of files is broken off: %s", error)
        return  # without its last part, on which the server closes the connection
    await send({"type": "http.response.body", "body": b""})
