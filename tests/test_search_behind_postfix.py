"""A map with `search` behind the running Postfix does what the same table does as texthash:.

For every parameter a generated table, asked about a generated set of addresses: once as texthash:, and as
tcp:, socketmap:inet: and socketmap:unix: from one running tcpmapkit. For some of them also where the table
is behind a step that waits, so that answers come out of the cache and from lookups under way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import attrs
import pytest

from tcpmapkit.keys import fold
from tcpmapkit.search import Kind, Search, SearchOrder
from tests.generated_addresses import LOCAL_DOMAINS, generate
from tests.postfix_instance import HOSTNAME
from tests.postfix_observed import OBSERVERS, Observed, observe
from tests.private_postfix import PrivatePostfix, running_postfix
from tests.real_postfix import settle
from tests.running_tcpmapkit import running_tcpmapkit

SEARCHES = {
    "virtual_alias_maps": "virtual",
    "canonical_maps": "canonical",
    "recipient_canonical_maps": "canonical",
    "sender_canonical_maps": "canonical",
    "smtp_generic_maps": "generic",
    "transport_maps": "transport",
    "smtpd_sender_login_maps": "address",
    "relocated_maps": "address",
    "relay_domains": "domain",
    "check_client_access": "access",
    "check_helo_access": "access",
    "check_sender_access": "access",
    "check_recipient_access": "access",
}
# A message for each address takes its time.
SIZES = {"sender_canonical_maps": 60}
PROTOCOLS = ("tcp", "socketmap:inet", "socketmap:unix")
SEEDS = (11, 12)
MAPS = [(parameter, seed) for parameter in SEARCHES for seed in SEEDS]
ANY_PORT = "inet:127.0.0.1:0"

MAP = """
[[listeners]]
protocol = "tcp_table"
endpoint = "{endpoint}"
map = "{name}"
[maps.{name}]
search = "{search}"
resolvers = [{{ type = "file", path = "{path}" }}]
"""
LOCAL = f"local_domains = {json.dumps(LOCAL_DOMAINS)}\n"
# the orders that never ask for a user alone
WITHOUT_LOCAL = {"transport", "access", "domain"}
SOCKETMAP = """
[[listeners]]
protocol = "socketmap"
endpoint = "{endpoint}"
"""


@pytest.fixture(scope="module")
def mail() -> Iterator[PrivatePostfix]:
    with running_postfix() as mail:
        yield mail


@pytest.fixture(scope="module")
def tables(mail: PrivatePostfix) -> Iterator[Mapping[tuple[str, str], str]]:
    """What main.cf says for each map, named ``PARAMETER_SEED``, and protocol ("texthash" too)."""
    unix = f"unix:{mail.directory}/socketmap"
    text = SOCKETMAP.format(endpoint=ANY_PORT) + SOCKETMAP.format(endpoint=unix) + 'mode = "0666"\n'
    paths = {f"{parameter}_{seed}": mail.directory / f"{parameter}_{seed}" for parameter, seed in MAPS}
    for (parameter, seed), (name, path) in zip(MAPS, paths.items(), strict=True):
        path.write_text(generate(parameter, seed).texthash())
        search = SEARCHES[parameter]
        text += MAP.format(endpoint=ANY_PORT, name=name, search=search, path=path)
        text += "" if search in WITHOUT_LOCAL else LOCAL
    with running_tcpmapkit(mail.directory, text) as server:
        inet, _unix, *ports = server.endpoints
        told = {}
        for (name, path), port in zip(paths.items(), ports, strict=True):
            told[name, "texthash"] = f"texthash:{path}"
            told[name, "tcp"] = f"tcp:{port.removeprefix('inet:')}"
            told[name, "socketmap:inet"] = f"socketmap:{inet}:{name}"
            told[name, "socketmap:unix"] = f"socketmap:{unix}:{name}"
        yield told


def test_every_parameter_that_can_be_observed_has_a_search_order() -> None:
    assert SEARCHES.keys() == OBSERVERS.keys()


ADDRESS_KINDS = {Kind.FULL, Kind.WITHOUT_EXTENSION, Kind.LOCALPART, Kind.USER, Kind.AT_DOMAIN}
ACCESS_KINDS = {Kind.FULL, Kind.WITHOUT_EXTENSION, Kind.DOMAIN, Kind.LOCALPART_AT, Kind.USER_AT}
# What can be found of the keys that Postfix asks under a parameter, in a table with an entry for each.
KINDS = {
    **dict.fromkeys(SEARCHES, ADDRESS_KINDS),
    "transport_maps": {Kind.FULL, Kind.WITHOUT_EXTENSION, Kind.DOMAIN},
    "relay_domains": {Kind.FULL, Kind.DOMAIN},
    "check_client_access": {Kind.FULL, Kind.DOMAIN, Kind.NETWORK},
    "check_helo_access": {Kind.FULL, Kind.DOMAIN},
    "check_sender_access": ACCESS_KINDS,
    "check_recipient_access": ACCESS_KINDS,
}


def asked_by_postfix(parameter: str, address: str) -> str:
    """The full key that Postfix asks for an address as it came in SMTP."""
    if parameter in ("check_client_access", "check_helo_access") or not address:
        return address
    whole = address.removesuffix(".") if "@" in address else f"{address}@{HOSTNAME}"
    return whole.rpartition("@")[2] if parameter == "relay_domains" else whole


def kinds_found(parameter: str, seed: int, size: int) -> Counter[Kind | None]:
    """How many of the generated addresses find which kind of key, None for those that find none."""
    generated = generate(parameter, seed, size=size)
    table = {fold(key) for key, _value in generated.entries}
    order = SearchOrder(cast("Search", SEARCHES[parameter]), local_domains=frozenset(LOCAL_DOMAINS))
    keys = (order.keys(asked_by_postfix(parameter, address)) for address in generated.addresses)
    return Counter(next((Kind(key.kind) for key in some if fold(key.key) in table), None) for some in keys)


@pytest.mark.parametrize("parameter", SEARCHES)
def test_every_kind_of_key_is_what_some_addresses_find(parameter: str) -> None:
    found: Counter[Kind | None] = Counter()
    for seed in SEEDS:
        found += kinds_found(parameter, seed, SIZES.get(parameter, 200))
    assert found.keys() == {*KINDS[parameter], None}
    assert min(found.values()) >= 5, found


@pytest.mark.parametrize(("parameter", "seed"), MAPS)
def test_a_searched_map_does_what_the_same_table_does(
    mail: PrivatePostfix, tables: Mapping[tuple[str, str], str], parameter: str, seed: int
) -> None:
    addresses = generate(parameter, seed, size=SIZES.get(parameter, 200)).addresses
    name = f"{parameter}_{seed}"
    expected = observe(mail, parameter, tables[name, "texthash"], addresses)
    assert len(set(expected.values())) > 1
    for protocol in PROTOCOLS:
        seen = observe(mail, parameter, tables[name, protocol], addresses)
        assert not differing(expected, seen), f"{protocol}: not texthash:'s (first) but (second)"


def differing(expected: Observed, seen: Observed) -> dict[str, tuple[str | None, str | None]]:
    return {address: (expected[address], now) for address, now in seen.items() if now != expected[address]}


# ---- behind a cache

WAITING = '''
import asyncio
from pathlib import Path

from tcpmapkit import hookimpl

ASKED = Path(__file__).parent


class Nothing:
    """Finds nothing, later, and notes what it was asked in a file for each map."""

    async def resolve(self, query):
        with (ASKED / f"{query.map}.asked").open("a") as asked:
            asked.write(f"{query.key}\\n")
        await asyncio.sleep(0.0005)


@hookimpl
def register_resolvers(register):
    register("nothing", Nothing)
'''
WAITS = """
[[listeners]]
protocol = "tcp_table"
endpoint = "{endpoint}"
map = "{name}"
[maps.{name}]
search = "{search}"
cache = {{ ttl = "1h", negative_ttl = "1h" }}
resolvers = [{{ type = "nothing" }}, {{ type = "file", path = "{path}" }}]
"""
# As a step of another map, which has a cache too.
REFERS = """
[[listeners]]
protocol = "tcp_table"
endpoint = "{endpoint}"
map = "{name}"
[maps.{name}_inner]
cache = {{ ttl = "1h", negative_ttl = "1h" }}
resolvers = [{{ type = "nothing" }}, {{ type = "file", path = "{path}" }}]
[maps.{name}]
search = "{search}"
cache = {{ ttl = "1h", negative_ttl = "1h" }}
resolvers = [{{ type = "map", map = "{name}_inner" }}]
"""
SHAPES = {"waits": WAITS, "refers": REFERS}
# One of each search order, and the two sides of "access".
CACHED = (
    *(("virtual_alias_maps", "waits"), ("virtual_alias_maps", "refers"), ("canonical_maps", "refers")),
    *(("smtp_generic_maps", "waits"), ("transport_maps", "refers"), ("smtpd_sender_login_maps", "waits")),
    *(("relay_domains", "waits"), ("check_client_access", "waits"), ("check_recipient_access", "refers")),
)
CACHED_SEED, CACHED_SIZE = 18, 80


@attrs.frozen
class Cached:
    """The running tcpmapkit whose maps wait: a map's name is ``PARAMETER_SHAPE``.

    `tables` is what main.cf says for each, over tcp_table and over socketmap.
    """

    directory: Path
    tables: Mapping[str, tuple[str, str]]
    log: Callable[[], str]

    def asked(self, name: str) -> list[str]:
        """What the step that waits has been asked so far."""
        (file,) = self.directory.glob(f"tcpmapkit/plugins/{name}*.asked")
        return file.read_text().splitlines()


@pytest.fixture(scope="module")
def other_mail() -> Iterator[PrivatePostfix]:
    with running_postfix() as mail:
        yield mail


@pytest.fixture(scope="module")
def cached(mail: PrivatePostfix) -> Iterator[Cached]:
    directory = mail.directory / "cached"
    directory.mkdir(mode=0o755)
    text = SOCKETMAP.format(endpoint=ANY_PORT)
    for parameter, shape in CACHED:
        path = directory / parameter
        path.write_text(generate(parameter, CACHED_SEED).texthash())
        settle(path)  # later it would change a file that is served
        search = SEARCHES[parameter]
        name = f"{parameter}_{shape}"
        text += SHAPES[shape].format(endpoint=ANY_PORT, name=name, search=search, path=path)
        text += "" if search in WITHOUT_LOCAL else LOCAL
    with running_tcpmapkit(directory, text, waiting=WAITING) as server:
        inet, *ports = server.endpoints
        tables = {}
        for (parameter, shape), port in zip(CACHED, ports, strict=True):
            name = f"{parameter}_{shape}"
            tables[name] = f"tcp:{port.removeprefix('inet:')}", f"socketmap:{inet}:{name}"
        yield Cached(directory, tables, server.log)


def observe_both(
    parameter: str, table: str, addresses: Mapping[PrivatePostfix, Iterable[str]]
) -> list[Observed]:
    """What becomes of these addresses in these Postfixes at the same time."""
    with ThreadPoolExecutor(len(addresses)) as pool:
        both = [pool.submit(observe, mail, parameter, table, asked) for mail, asked in addresses.items()]
        return [one.result() for one in both]


def in_mixed_case(address: str) -> str:
    return "".join(letter.upper() if at % 2 else letter.lower() for at, letter in enumerate(address))


@pytest.mark.parametrize("parameter", dict(CACHED))
def test_every_kind_of_key_is_found_behind_the_cache(parameter: str) -> None:
    found = kinds_found(parameter, CACHED_SEED, CACHED_SIZE)
    assert found.keys() == {*KINDS[parameter], None}
    assert min(found.values()) >= 2, found


@pytest.mark.parametrize(("parameter", "shape"), CACHED)
def test_a_searched_map_does_the_same_from_its_cache_and_in_capitals(
    mail: PrivatePostfix, other_mail: PrivatePostfix, cached: Cached, parameter: str, shape: str
) -> None:
    addresses = generate(parameter, CACHED_SEED, size=CACHED_SIZE).addresses
    recased = tuple(address.swapcase() for address in addresses)
    mixed = tuple(in_mixed_case(address) for address in addresses)
    texthash = f"texthash:{cached.directory / parameter}"
    expected = observe(mail, parameter, texthash, mixed)
    for seen in observe_both(parameter, texthash, {mail: addresses, other_mail: recased}):
        expected |= seen
    tcp, socketmap = cached.tables[f"{parameter}_{shape}"]
    # The second is served from the cache until it has caught up with the first, and joins its lookups then.
    for seen in observe_both(parameter, tcp, {mail: addresses, other_mail: recased}):
        assert not differing(expected, seen), "not texthash:'s (first) but (second)"
    asked = cached.asked(f"{parameter}_{shape}")
    seen = observe(mail, parameter, socketmap, mixed)
    assert not differing(expected, seen), "from the cache: not texthash:'s (first) but (second)"
    assert cached.asked(f"{parameter}_{shape}") == asked, cached.log()
