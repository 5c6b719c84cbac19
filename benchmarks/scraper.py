"""Asks a server for its metrics again and again, as Prometheus does, but more often: `scraper.py SOCKET`."""

from __future__ import annotations

import socket
import sys
import time

__all__ = ["INTERVAL", "scrape"]

INTERVAL = 1.0
"""Seconds between two scrapes; Prometheus leaves 15 to 60."""


def scrape(path: str) -> bytes:
    """The response of the admin endpoint on this unix socket. Raises `RuntimeError` when there are no metrics
    in it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    if b" 200 " not in response.partition(b"\r\n")[0] or b"tcpmapkit_lookups_total{" not in response:
        raise RuntimeError(f"no metrics: {response[:200]!r}")
    return response


if __name__ == "__main__":
    while True:
        scrape(sys.argv[1])
        time.sleep(INTERVAL)
