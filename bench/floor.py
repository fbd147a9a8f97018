"""What no program in Python can go below: one thread that receives, hashes and writes. `python -m bench.floor URL FILE`."""

import hashlib
import http.client
import os
import sys
from urllib.parse import urlsplit

BUFFER_BYTES = 1 << 20


def main(url: str, path: str) -> None:
    """Fetch a file over plain HTTP."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("GET", parts.path)
    answer = connection.getresponse()
    assert answer.status == 200
    hasher, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES))
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    while count := answer.readinto(buffer):
        hasher.update(buffer[:count])
        os.write(file, buffer[:count])
    print(hasher.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
