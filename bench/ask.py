"""Ask for a small answer again and again by one connection. `python -m bench.ask HOST:PORT PATH SECONDS` prints ms: p50 p99."""

import socket
import statistics
import sys
import time


def main(host: str, path: str, seconds: str) -> None:
    """Ask until the time is over; an answer is one read."""
    address, _, port = host.partition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    taken = []
    with socket.create_connection((address, int(port))) as connection:
        end = time.monotonic() + float(seconds)
        while (started := time.monotonic()) < end:
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200"), "an answer other than 200"
            taken.append(1000 * (time.monotonic() - started))
            time.sleep(0.001)  # a client, not a load
    print(statistics.median(taken), statistics.quantiles(taken, n=100)[98])


if __name__ == "__main__":
    main(*sys.argv[1:])
