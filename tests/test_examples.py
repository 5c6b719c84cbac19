"""examples/: each answers what it says, through the lines of its main.cf, and fails as it promises."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import jsonschema
import pytest
import tomli

from tcpmapkit.config.schema import config_schema
from tcpmapkit.plugins import load_plugins
from tcpmapkit.testing import FakeClock
from tests.documents import TOP
from tests.examples import EXAMPLES, FAILED, Example, Sources, served, with_sources
from tests.real_postfix import Postfix

SOURCES: dict[str, Callable[[], Sources]] = {
    "virtual-aliases": lambda: Sources(
        {
            "/alias?address=joe%40example.org": '["joe@mail.example.org"]',
            "/alias?address=sales%40example.org": '["ann@mail.example.org", "bob@mail.example.org"]',
        }
    ),
    "dnsbl-policy": lambda: Sources(
        zone={
            "2.0.0.127.dnsbl.example.com": "127.0.0.2",
            "9.113.0.203.dnsbl.example.com": "127.255.255.254",
            "9.113.0.203.dnsbl.example.net": "127.0.0.4",
            "8.113.0.203.dnsbl.example.com": "127.255.255.254",
            "7.2.0.192.dnsbl.example.com": "127.0.0.2",
        }
    ),
    "transport-api": lambda: Sources({"/domain/example.org": '{"host": "store1.example.com"}'}),
    "sender-logins": lambda: Sources(
        {
            "/address/ann%40example.org": '{"logins": ["ann"]}',
            "/address/carol%40example.org": '{"logins": ["carol"]}',
            "/address/board%40example.org": '{"logins": ["ann", "carol"]}',
        }
    ),
    "sqlite-domains": Sources,
}

HOUR, DAY = 3600, 86400

Open = Callable[[str], AbstractAsyncContextManager[Example]]
one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])


@pytest.fixture
def serving(postfix: Postfix, tmp_path: Path) -> Open:
    """Serve an example by name, with a clock that stands still."""
    return lambda name: served(name, tmp_path, SOURCES[name](), postfix, FakeClock())


def check(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    code = "from tcpmapkit.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "check", "-c", file, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=TOP,
    )


def number_of_tests(file: Path) -> int:
    return len(re.findall(r"^\[\[maps\.\w+\.tests\]\]$", file.read_text(), re.MULTILINE))


# Every example.


def test_every_example_is_tested_here_and_has_lines_for_main_cf() -> None:
    with_configuration = {file.parent.name for file in TOP.glob("examples/*/tcpmapkit.toml")}
    assert {place.name for place in EXAMPLES} == with_configuration == set(SOURCES)


@pytest.mark.parametrize("place", EXAMPLES, ids=lambda place: place.name)
def test_each_is_valid_by_the_schema_and_has_tests(place: Path) -> None:
    file = place / "tcpmapkit.toml"
    schema = json.loads(json.dumps(config_schema(load_plugins().types)))
    jsonschema.Draft202012Validator(schema).validate(tomli.loads(file.read_text()))
    assert number_of_tests(file) > 1


@pytest.mark.parametrize("name", SOURCES)
@one_loop
async def test_check_passes_with_the_sources_there_and_without_a_network(name: str, tmp_path: Path) -> None:
    async with with_sources(name, tmp_path, SOURCES[name]()) as place:
        file = place / "tcpmapkit.toml"
        done = await asyncio.to_thread(check, file)
        passed = re.search(r", (\d+) tests passed$", done.stderr.strip())
        assert done.returncode == 0, done.stderr
        assert passed, done.stderr
        assert int(passed[1]) >= number_of_tests(file)
        # As it is shipped, its addresses unchanged.
        file.write_text((TOP / "examples" / name / "tcpmapkit.toml").read_text())
        offline = await asyncio.to_thread(check, file, "--offline")
    assert offline.returncode == 0, offline.stderr
    assert offline.stderr.count("\n") == 1, "a warning"


# Virtual aliases.


@pytest.fixture
async def aliases(serving: Open) -> AsyncIterator[Example]:
    async with serving("virtual-aliases") as example:
        yield example


@one_loop
async def test_an_alias_comes_from_the_file_or_from_the_api(aliases: Example) -> None:
    expected = {
        "Postmaster@example.org": "root@mail.example.org",
        "info@example.org": "ann@mail.example.org, bob@mail.example.org",
        "info+jobs@example.org": "ann+jobs@mail.example.org, bob+jobs@mail.example.org",
        "Joe+News@Example.org": "joe+News@mail.example.org",
        "sales@example.org": "ann@mail.example.org,bob@mail.example.org",
        "Anybody+x@example.net": "sales@example.org",
        "Anybody+x@old.example.net": "Anybody+x@example.net",
        "nobody@example.org": None,
        "joe@example.com": None,
    }
    assert await aliases.ask_all("virtual_alias_maps", expected) == expected


@one_loop
async def test_while_the_api_is_down_known_aliases_are_told_for_a_day_and_others_wait(
    aliases: Example,
) -> None:
    table = "virtual_alias_maps"
    known = await aliases.ask(table, "joe@example.org")
    assert await aliases.ask(table, "nobody@example.org") == [None]
    aliases.fail_after(HOUR)
    assert await aliases.ask(table, "joe@example.org") == known
    # Neither one that was never asked nor one that did not exist is "not found" now.
    assert await aliases.ask(table, "sales@example.org", "nobody@example.org") == [FAILED, FAILED]
    # What is in the file needs no API, and neither do other domains.
    assert await aliases.ask(table, "postmaster@example.org", "joe@example.net", "joe@example.com") == [
        "root@mail.example.org",
        "sales@example.org",
        None,
    ]
    aliases.fail_after(DAY)
    assert await aliases.ask(table, "joe@example.org") == [FAILED]


# Blocklists and an allow-list.


@pytest.fixture
async def clients(serving: Open) -> AsyncIterator[Example]:
    async with serving("dnsbl-policy") as example:
        yield example


DUNNO = "action=DUNNO"
FORGED = "action=REJECT That name is ours"
LISTED = "action=REJECT 203.0.113.9 is listed at dnsbl.example.net"


@one_loop
async def test_a_client_is_rejected_when_a_list_has_it_and_nothing_allows_it(clients: Example) -> None:
    everything = {"helo_name": "client.example.net", "sasl_username": "", "sender": "", "recipient": "a@b"}
    for attributes, reply in [
        ({"client_address": "127.0.0.2"}, "action=REJECT 127.0.0.2 is listed at dnsbl.example.com"),
        ({"client_address": "203.0.113.9"}, LISTED),
        ({"client_address": "203.0.113.8"}, DUNNO),  # the list refuses to answer, which is no listing
        ({"client_address": "192.0.2.7", "helo_name": "mail.example.org"}, DUNNO),
        ({"client_address": "203.0.113.9", "sasl_username": "ann"}, DUNNO),
        ({"client_address": "198.51.100.1", "helo_name": "MAIL.example.org"}, FORGED),
        ({"client_address": "2001:db8::1"}, DUNNO),
        ({"client_address": "unknown"}, DUNNO),
    ]:
        assert await clients.request(**everything | attributes) == reply, attributes


@one_loop
async def test_a_client_is_looked_up_once_however_many_recipients_it_has(clients: Example) -> None:
    for number in range(5):
        assert (
            await clients.request(client_address="203.0.113.9", recipient=f"{number}@example.org") == LISTED
        )
    assert clients.sources.asked == ["9.113.0.203.dnsbl.example.com", "9.113.0.203.dnsbl.example.net"]


@one_loop
async def test_lists_that_do_not_answer_let_mail_pass_and_are_asked_again(clients: Example) -> None:
    clients.fail_after(0)
    assert await clients.request(client_address="203.0.113.9") == DUNNO
    assert len(set(clients.sources.asked)) == 2, "both were asked"
    [client] = await clients.outcomes("blocklists", "203.0.113.9")
    assert client is FAILED, "a list that does not answer is not one without this client"
    clients.sources.down = False
    assert clients.clock is not None
    clients.clock.advance(3)
    assert await clients.request(client_address="203.0.113.9") == LISTED


# Transports.


@pytest.fixture
async def transports(serving: Open) -> AsyncIterator[Example]:
    async with serving("transport-api") as example:
        yield example


@one_loop
async def test_a_transport_is_that_of_the_address_or_of_its_domain(transports: Example) -> None:
    expected = {
        "joe@example.org": "smtp:[store1.example.com]",
        "Ann+x@Example.org": "smtp:[store2.example.com]:2525",
        "staff@lists.example.org": "lmtp:unix:/run/mailman/lmtp",
        "joe@some.where.example.net": "smtp:[gateway.example.net]",
        "joe@example.net": None,
        "joe@example.com": None,
        "*": None,
    }
    assert await transports.ask_all("transport_maps", expected) == expected


@one_loop
async def test_the_api_is_asked_once_for_a_domain_and_never_for_the_wildcard(transports: Example) -> None:
    keys = [*(f"user{number}+x@example.org" for number in range(5)), "*", "*", "joe@example.net", "<>"]
    await transports.ask("transport_maps", *keys)
    assert transports.sources.asked == ["/domain/example.org"]


@one_loop
async def test_while_the_api_is_down_known_domains_are_routed_for_a_day_and_others_wait(
    transports: Example,
) -> None:
    table, store = "transport_maps", "smtp:[store1.example.com]"
    assert await transports.ask(table, "joe@example.org", "joe@example.com") == [store, None]
    transports.fail_after(HOUR)
    # An address of that domain that nobody has asked for yet.
    assert await transports.ask(table, "new@example.org", "joe@example.com") == [store, FAILED]
    assert await transports.ask(
        table, "ann+x@example.org", "*", "joe@example.net", "a@lists.example.org"
    ) == [
        "smtp:[store2.example.com]:2525",
        None,
        None,
        "lmtp:unix:/run/mailman/lmtp",
    ]
    transports.fail_after(DAY)
    assert await transports.ask(table, "newer@example.org") == [FAILED]


# Sender logins.


@pytest.fixture
async def logins(serving: Open) -> AsyncIterator[Example]:
    async with serving("sender-logins") as example:
        yield example


@one_loop
async def test_all_who_may_send_as_an_address_are_told(logins: Example) -> None:
    expected = {
        "Info@Example.org": "ann, bob",
        "info+jobs@example.org": "ann, bob",
        "ann+news@example.org": "ann",
        "carol@example.org": "dave, carol",
        "board@example.org": "ann, carol",
        "anything@example.net": "newsletter",
        "nobody@example.org": None,
        "joe@example.com": None,
        "<>": None,
    }
    assert await logins.ask_all("smtpd_sender_login_maps", expected) == expected


@one_loop
async def test_while_the_api_is_down_nobody_keeps_an_address_and_nobody_loses_one(logins: Example) -> None:
    table = "smtpd_sender_login_maps"
    assert await logins.ask(table, "ann@example.org", "nobody@example.org") == ["ann", None]
    logins.fail_after(61)
    # Half of the logins would be a wrong answer too: info@ is in the file, and waits all the same.
    keys = ("ann@example.org", "info@example.org", "nobody@example.org")
    assert await logins.ask(table, *keys) == [FAILED, FAILED, FAILED]
    assert await logins.ask(table, "joe@example.com", "a@example.net") == [None, "newsletter"]


# Domains.


@pytest.fixture
async def domains(serving: Open) -> AsyncIterator[Example]:
    async with serving("sqlite-domains") as example:
        yield example


@one_loop
async def test_a_domain_is_ours_or_relayed_for_with_its_subdomains(domains: Example) -> None:
    ours = {"Example.ORG": "mailbox", "shop.example.org": None, "example.com": None}
    assert await domains.ask_all("virtual_mailbox_domains", ours) == ours
    relayed = {
        "example.com": "relay",
        "shop.Example.com": "relay",
        "notexample.com": None,
        "example.net": None,
        "example.org": None,
    }
    assert await domains.ask_all("relay_domains", relayed) == relayed


@one_loop
async def test_without_its_file_known_domains_go_on_for_a_day_and_others_wait(domains: Example) -> None:
    assert await domains.ask("virtual_mailbox_domains", "example.org") == ["mailbox"]
    assert await domains.ask("relay_domains", "shop.example.com", "example.net") == ["relay", None]
    (domains.directory / "domains.sqlite").unlink()
    domains.fail_after(HOUR)
    assert await domains.ask("virtual_mailbox_domains", "example.org", "example.com") == ["mailbox", FAILED]
    assert await domains.ask("relay_domains", "shop.example.com", "example.net") == ["relay", FAILED]
    domains.fail_after(DAY)
    assert await domains.ask("virtual_mailbox_domains", "example.org") == [FAILED]
