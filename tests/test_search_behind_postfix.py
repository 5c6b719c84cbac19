"""A map with `search` behind the running Postfix does what the same table does as texthash:.

For every parameter a generated table, asked about a generated set of addresses: once as texthash:, and as
tcp:, socketmap:inet: and socketmap:unix: from one running tcpmapkit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest

from tests.generated_addresses import LOCAL_DOMAINS, generate
from tests.postfix_observed import OBSERVERS, observe
from tests.private_postfix import PrivatePostfix, running_postfix
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
        differing = {
            address: (expected[address], seen[address])
            for address in addresses
            if seen[address] != expected[address]
        }
        assert not differing, f"{protocol}: not texthash:'s (first) but (second)"
