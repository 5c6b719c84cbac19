"""Durations, sizes, endpoints, networks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit.config.scalars import parse_duration, parse_endpoint, parse_network, parse_size
from tcpmapkit.errors import ConfigError

HERE = Path("/etc/tcpmapkit")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("300ms", 0.3),
        ("5s", 5),
        ("2m", 120),
        ("1h", 3600),
        ("7d", 604800),
        ("1.5s", 1.5),
        (0, 0),
        (2, 2),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_seconds(written: Any, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "5",
        "s",
        "5 s",
        "-5s",
        "5S",
        "1h30m",
        "5sec",
        "\u0665s",
        "1e3s",
        ".5s",
        -1,
        math.nan,
        math.inf,
        10**400,
        True,
        None,
        [],
    ],
)
def test_what_is_no_duration_is_refused(written: Any) -> None:
    with pytest.raises(ConfigError, match="duration"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [("64MiB", 64 << 20), ("1B", 1), ("2KiB", 2048), ("1GiB", 1 << 30), ("1TiB", 1 << 40), (5, 5)],
)
def test_a_size_is_bytes(written: Any, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "64", "64MB", "64 MiB", "64mib", "-1B", "1.5GiB", -1, 1.0, True, {}])
def test_what_is_no_size_is_refused(written: Any) -> None:
    with pytest.raises(ConfigError, match="size"):
        parse_size(written)


@pytest.mark.parametrize(
    ("written", "text", "loopback"),
    [
        ("inet:127.0.0.1:4242", "inet:127.0.0.1:4242", True),
        ("inet:127.9.9.9:1", "inet:127.9.9.9:1", True),
        ("inet:[::1]:4242", "inet:[::1]:4242", True),
        ("inet:[::ffff:127.0.0.1]:1", "inet:[::ffff:127.0.0.1]:1", True),
        ("inet:localhost:0", "inet:localhost:0", True),
        ("inet:LOCALHOST:65535", "inet:LOCALHOST:65535", True),
        ("inet:0.0.0.0:25", "inet:0.0.0.0:25", False),
        ("inet:[::]:25", "inet:[::]:25", False),
        ("inet:192.0.2.1:25", "inet:192.0.2.1:25", False),
        ("inet:maps.example.org:25", "inet:maps.example.org:25", False),
        ("unix:/run/maps", "unix:/run/maps", True),
        ("unix:maps", "unix:/etc/tcpmapkit/maps", True),
    ],
)
def test_an_endpoint_is_written_as_in_main_cf(written: str, text: str, loopback: bool) -> None:
    endpoint = parse_endpoint(written, HERE)
    assert (str(endpoint), endpoint.loopback) == (text, loopback)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "not an endpoint"),
        ("127.0.0.1:4242", "not an endpoint"),
        ("tcp:127.0.0.1:4242", "not an endpoint"),
        ("inet:4242", "not an endpoint"),
        ("inet::4242", "0.0.0.0"),
        ("inet:*:4242", "0.0.0.0"),
        ("inet:127.0.0.1:", "port"),
        ("inet:127.0.0.1:smtp", "port"),
        ("inet:127.0.0.1:65536", "port"),
        ("inet:127.0.0.1:-1", "port"),
        ("inet:127.0.0.1:\u0663", "port"),
        ("inet:300.0.0.1:1", "neither an address nor a name"),
        ("inet:127.1:1", "neither an address nor a name"),
        ("inet:[127.0.0.1]:1", "neither an address nor a name"),
        ("inet:[::1:1", "neither an address nor a name"),
        ("inet:::1:4242", "'inet:[::1]:4242'"),
        ("inet:a b:1", "neither an address nor a name"),
        ("inet:-a:1", "neither an address nor a name"),
        ("unix:", "a path follows"),
        ("unix:a\0b", "a path follows"),
        ("unix:/" + "x" * 107, "at most 107 bytes"),
        (4242, "expected an endpoint"),
        (True, "not true"),
    ],
)
def test_what_is_no_endpoint_is_refused(written: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint(written, HERE)
    assert message in str(caught.value)


@pytest.mark.parametrize("written", ["192.0.2.0/24", "192.0.2.1", "2001:db8::/32", "192.0.2.0/255.255.255.0"])
def test_a_network_is_an_address_and_a_mask(written: str) -> None:
    assert parse_network(written).version in (4, 6)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("192.0.2.1/24", "did you mean '192.0.2.0/24'?"),
        ("::ffff:192.0.2.0/120", "is of IPv4 (did you mean '192.0.2.0/24'?)"),
        ("::ffff:192.0.2.1", "is of IPv4 (did you mean '192.0.2.1/32'?)"),
        ("192.0.2.0/33", "not a network"),
        ("example.org", "not a network"),
        ("", "not a network"),
        (192, "expected a network"),
    ],
)
def test_what_is_no_network_is_refused(written: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_network(written)
    assert message in str(caught.value)
