"""The `dns` resolver, against a server that speaks the real wire."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from dns.rdtypes.ANY.TXT import TXT

from tcpmapkit import ConfigError, Found, Miss, Query, TempFail
from tcpmapkit.resolver import Context
from tcpmapkit.resolvers.dns import Dns
from tcpmapkit.template import Template
from tests.loopback_dns import SOA, LoopbackDns, loopback_dns, records, reply, status

ATTRIBUTES = ("client_address", "sasl_username")


def make_dns(**options: Any) -> Dns:
    if "query" in options:
        options["query"] = Template.compile(
            options["query"], ("key", "local", "user", "extension", "domain", *ATTRIBUTES)
        )
    return Dns(**options)


def make_query(key: str, within: float = 5.0, **attributes: str) -> Query:
    return Query(key, "routes", deadline=time.monotonic() + within, attributes=attributes)


async def started(resolver: Dns, logger: logging.Logger | None = None) -> Dns:
    await resolver.start(Context(Path.cwd(), "dns", "routes", logger or logging.getLogger("tests.dns")))
    return resolver


async def ask(
    answer: Callable[[dns.message.Message, bool], Any],
    key: str = "example.org",
    within: float = 5.0,
    **options: Any,
) -> tuple[Any, LoopbackDns]:
    """The outcome for `key`, and the server with what it was asked."""
    options.setdefault("query", "{key}")
    async with loopback_dns(answer) as server:
        resolver = await started(make_dns(nameservers=(server.nameserver,), **options))
        return await resolver.resolve(make_query(key, within)), server


# What an answer is


@pytest.mark.parametrize(
    ("record", "lines", "values"),
    [
        ("A", ["192.0.2.9", "192.0.2.10"], ["192.0.2.10", "192.0.2.9"]),
        ("AAAA", ["2001:DB8::1"], ["2001:db8::1"]),
        (
            "MX",
            ["20 b.example.net.", "10 z.example.net.", "10 a.example.net."],
            ["a.example.net", "z.example.net", "b.example.net"],
        ),
        (
            "SRV",
            ["2 0 25 b.example.net.", "1 0 587 c.example.net."],
            ["c.example.net:587", "b.example.net:25"],
        ),
        ("TXT", ['"v=spf1 " "-all"', '"another"'], ["another", "v=spf1 -all"]),
        ("PTR", ["host.example.net."], ["host.example.net"]),
        ("CNAME", ["host.example.net."], ["host.example.net"]),
        ("NS", ["ns2.example.net.", "ns1.example.net."], ["ns1.example.net", "ns2.example.net"]),
        ("TLSA", ["3 1 1 " + "AB" * 32], ["3 1 1 " + "ab" * 32]),
    ],
)
async def test_records_are_text_in_an_order_that_never_changes(
    record: str, lines: list[str], values: list[str]
) -> None:
    for ordered in (lines, lines[::-1]):
        answer = records(*(f"example.org. 60 IN {record} {data}" for data in ordered))
        outcome, server = await ask(answer, record=record, separator=", ")
        assert isinstance(outcome, Found)
        assert outcome.value == ", ".join(values)
        assert outcome.ttl == 60
        assert [asked.kind for asked in server.asked] == [record]


async def test_several_values_are_kept_apart_for_the_result_template() -> None:
    outcome, _ = await ask(records("example.org. 60 IN A 192.0.2.1", "example.org. 60 IN A 192.0.2.2"))
    assert outcome.values == ("192.0.2.1", "192.0.2.2")


@pytest.mark.parametrize(("record", "data"), [("MX", "0 ."), ("SRV", "0 0 0 ."), ("TXT", '""')])
async def test_a_record_that_says_no_such_service_is_no_value(record: str, data: str) -> None:
    outcome, _ = await ask(records(f"example.org. 60 IN {record} {data}"), record=record)
    assert outcome == Miss(60)


async def test_match_drops_values_and_a_record_without_any_left_is_a_miss() -> None:
    lines = ['example.org. 60 IN TXT "v=spf1 -all"', 'example.org. 60 IN TXT "token 17"']
    outcome, _ = await ask(records(*lines), record="TXT", match="^v=spf1( |$)")
    assert outcome == Found("v=spf1 -all", 60)
    outcome, _ = await ask(records(*lines), record="TXT", match="^V=SPF1")
    assert outcome == Miss(60)


def txt(data: bytes) -> Callable[[dns.message.Message, bool], Any]:
    def answer(request: dns.message.Message, tcp: bool) -> dns.message.Message:
        response = reply(request, ['example.org. 60 IN TXT "fine"'])
        response.answer[0].add(TXT(dns.rdataclass.IN, dns.rdatatype.TXT, [data]), 60)
        return response

    return answer


@pytest.mark.parametrize("data", [b"caf\xe9", b"two\nlines", b"two\rlines", b"nul\0"])
async def test_a_txt_record_that_postfix_cannot_take_is_a_temporary_failure(data: bytes) -> None:
    outcome, _ = await ask(txt(data), record="TXT")
    assert isinstance(outcome, TempFail)
    assert data.decode("latin-1") not in outcome.reason


async def test_match_passes_over_a_foreign_record_that_is_not_utf8() -> None:
    outcome, _ = await ask(txt(b"caf\xe9"), record="TXT", match="fine")
    assert outcome == Found("fine", 60)


async def test_a_value_that_would_cost_match_too_much_is_a_temporary_failure() -> None:
    outcome, _ = await ask(records(f'example.org. 60 IN TXT "{"a" * 40}!"'), record="TXT", match="^(a+)+$")
    assert isinstance(outcome, TempFail)
    assert "match" in outcome.reason


# For how long


async def test_an_answer_holds_for_the_least_ttl_of_its_cname_chain() -> None:
    outcome, _ = await ask(
        records(
            "example.org. 300 IN CNAME one.example.net.",
            "one.example.net. 10 IN CNAME two.example.net.",
            "two.example.net. 500 IN A 192.0.2.1",
        )
    )
    assert outcome == Found("192.0.2.1", 10)


@pytest.mark.parametrize(
    ("rcode", "answer", "authority", "ttl"),
    [
        ("NXDOMAIN", [], [SOA], 300),
        ("NXDOMAIN", [], [SOA.replace(" 900 ", " 120 ")], 120),
        ("NXDOMAIN", [], [], None),
        ("NOERROR", [], [SOA], 300),
        ("NOERROR", [], [], None),
        ("NXDOMAIN", ["example.org. 7 IN CNAME gone.example.org."], [SOA], 7),
        ("NOERROR", ["example.org. 7 IN CNAME bare.example.org."], [SOA], 7),
        ("NOERROR", ["other.example.org. 7 IN A 192.0.2.66"], [SOA], 300),
    ],
)
async def test_no_such_name_and_no_such_record_are_misses_for_the_negative_ttl(
    rcode: str, answer: list[str], authority: list[str], ttl: float | None
) -> None:
    outcome, _ = await ask(lambda request, tcp: reply(request, answer, authority=authority, rcode=rcode))
    assert outcome == Miss(ttl)


# When it cannot be found out


def looping(request: dns.message.Message, tcp: bool) -> Any:
    return reply(
        request, ["example.org. 9 IN CNAME a.example.org.", "a.example.org. 9 IN CNAME example.org."]
    )


def another_question(request: dns.message.Message, tcp: bool) -> Any:
    return reply(
        dns.message.make_query("example.net", "A", id=request.id), ["example.net. 9 IN A 192.0.2.66"]
    )


def wrong_id(request: dns.message.Message, tcp: bool) -> Any:
    response = reply(request, ["example.org. 9 IN A 192.0.2.66"])
    response.id = (request.id + 1) % 65536
    return response


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(status("SERVFAIL"), id="SERVFAIL"),
        pytest.param(status("REFUSED"), id="REFUSED"),
        pytest.param(status("FORMERR"), id="FORMERR"),
        pytest.param(status("YXDOMAIN"), id="YXDOMAIN"),
        pytest.param(lambda request, tcp: None, id="silence"),
        pytest.param(lambda request, tcp: b"\x00\x01garbage", id="garbage"),
        pytest.param(lambda request, tcp: b"", id="nothing"),
        pytest.param(wrong_id, id="wrong id"),
        pytest.param(another_question, id="another question"),
        pytest.param(looping, id="CNAME loop"),
        pytest.param(
            lambda request, tcp: reply(request, authority=["org. 9 IN NS a0.example.net."]), id="referral"
        ),
        pytest.param(
            lambda request, tcp: reply(request, ["example.org. 9 IN A 192.0.2.66"], rcode="NXDOMAIN"),
            id="NXDOMAIN with an answer",
        ),
        pytest.param(lambda request, tcp: None if tcp else reply(request, flags=dns.flags.TC), id="no TCP"),
        pytest.param(lambda request, tcp: reply(request, flags=dns.flags.TC), id="truncated on TCP too"),
    ],
)
async def test_a_server_in_trouble_is_a_temporary_failure_in_time(answer: Any) -> None:
    began = time.monotonic()
    outcome, server = await ask(answer, within=0.25)
    assert isinstance(outcome, TempFail), outcome
    assert "example" not in outcome.reason
    assert server.asked
    assert time.monotonic() - began < 2


async def test_a_truncated_answer_is_asked_for_again_over_tcp() -> None:
    lines = [f"example.org. 60 IN A 192.0.2.{host}" for host in range(200)]

    def answer(request: dns.message.Message, tcp: bool) -> Any:
        return reply(request, lines) if tcp else reply(request, flags=dns.flags.TC)

    outcome, server = await ask(answer)
    assert len(outcome.values) == 200
    assert [asked.tcp for asked in server.asked] == [False, True]


async def test_an_answer_that_is_not_ours_is_passed_over_and_the_right_one_awaited() -> None:
    async with loopback_dns(records("example.org. 60 IN A 192.0.2.1")) as server:
        resolver = await started(make_dns(query="{key}", nameservers=(server.nameserver,)))
        transports = []

        def answer(request: dns.message.Message, tcp: bool) -> Any:
            forged = reply(request, ["example.org. 60 IN A 192.0.2.66"])
            forged.id ^= 1
            transports.append(tcp)
            return forged if len(transports) == 1 else reply(request, ["example.org. 60 IN A 192.0.2.1"])

        server.answer = answer
        # The forged datagram comes first; the true one answers the request sent again.
        outcome = await resolver.resolve(make_query("example.org", 0.6))
        assert outcome == Found("192.0.2.1", 60)


@pytest.mark.parametrize("first", [status("SERVFAIL"), status("REFUSED"), lambda request, tcp: None])
async def test_the_next_server_is_asked_when_one_fails_or_is_silent(first: Any) -> None:
    async with loopback_dns(first) as bad, loopback_dns(records("example.org. 60 IN A 192.0.2.1")) as good:
        resolver = await started(make_dns(query="{key}", nameservers=(bad.nameserver, good.nameserver)))
        outcome = await resolver.resolve(make_query("example.org", 0.6))
        assert outcome == Found("192.0.2.1", 60)
        assert bad.asked
        assert len(good.asked) == 1


async def test_what_is_to_be_logged_of_trouble_names_the_server_and_not_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "tests.dns")
    async with loopback_dns(status("SERVFAIL")) as server:
        resolver = await started(make_dns(query="{key}", nameservers=(server.nameserver,)))
        # SERVFAIL takes the server out at once: no waiting.
        failure = await resolver.resolve(make_query("secret.example.org"))
    assert isinstance(failure, TempFail)
    assert "SERVFAIL" in failure.detail
    assert "127.0.0.1" in failure.detail
    assert "secret" not in failure.reason + failure.detail + caplog.text


async def test_a_lookup_given_up_leaves_no_socket_behind() -> None:
    async with loopback_dns(lambda request, tcp: None) as server:
        resolver = await started(make_dns(query="{key}", nameservers=(server.nameserver,)))
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await resolver.resolve(make_query("example.org"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


# Which name is asked


@pytest.mark.parametrize(
    ("template", "key", "labels"),
    [
        (None, "user@example.org", [b"example", b"org"]),
        ("{key}", "example.org", [b"example", b"org"]),
        ("{key}", "example.org.", [b"example", b"org"]),
        (
            "{domain}._report.example.net.",
            "u@example.org",
            [b"example", b"org", b"_report", b"example", b"net"],
        ),
        # A localpart's dots and backslashes are text.
        ("{local}.{domain}", "john.doe@example.org", [b"john.doe", b"example", b"org"]),
        ("{user}-x.example.net", "a.b@example.org", [b"a.b-x", b"example", b"net"]),
        ("{local}.example.net", "back\\.slash\\046@example.org", [b"back\\.slash\\046", b"example", b"net"]),
        ("{local}.example.net", "jörg@example.org", ["jörg".encode(), b"example", b"net"]),
        ("{key}.example.net", "a\\046b.c", [b"a\\046b", b"c", b"example", b"net"]),
        # IDNA 2008: ß is a letter of its own; capitals and width are mapped first.
        ("{domain}", "u@straße.example.org", [b"xn--strae-oqa", b"example", b"org"]),
        ("{domain}", "u@BÜCHER.example.org", [b"xn--bcher-kva", b"example", b"org"]),
        ("{key}", "xn--bcher-kva.example.org", [b"xn--bcher-kva", b"example", b"org"]),
        ("{key}", "_dmarc.example.org", [b"_dmarc", b"example", b"org"]),
        # Data that means something elsewhere.
        ("{key}.example.net", "' OR 1=1", [b"' OR 1=1", b"example", b"net"]),
        ("{key}.example.net", "{key}", [b"{key}", b"example", b"net"]),
        ("{key}.example.net", "${HOME}", [b"${HOME}", b"example", b"net"]),
        ("{key}.example.net", "%2e%2e", [b"%2e%2e", b"example", b"net"]),
        ("{key}.example.net", "/", [b"/", b"example", b"net"]),
        ("{key}.example.net", "a?b#c", [b"a?b#c", b"example", b"net"]),
        ("{key}.example.net", "@", [b"@", b"example", b"net"]),
    ],
)
async def test_a_key_reaches_the_server_as_labels(
    template: str | None, key: str, labels: list[bytes]
) -> None:
    async with loopback_dns(status("NXDOMAIN")) as server:
        options = {} if template is None else {"query": template}
        resolver = await started(make_dns(nameservers=(server.nameserver,), **options))
        assert await resolver.resolve(make_query(key)) == Miss(None)
        assert [list(asked.labels) for asked in server.asked] == [labels]


@pytest.mark.parametrize(
    ("template", "key"),
    [
        (None, "no-domain"),
        (None, "user@"),
        (None, "user@[192.0.2.1]"),
        ("{key}", ""),
        ("{key}", "."),
        ("{key}", ".."),
        ("{key}", ".example.org"),
        ("{key}", "a..example.org"),
        ("{key}", "a/../b"),
        ("{key}.example.net", "example.org."),
        ("{key}", "a\0b"),
        ("{key}", "a\r\nb"),
        ("{key}", "x" * 64 + ".example.org"),
        ("{key}", "x" * 300),
        ("{key}", ".".join(["x" * 60] * 5)),
        ("{key}", "ü" * 60),
        ("{key}", "xn--ü.example.org"),
        ("{key}", "\u200d.example.org"),
        ("{key}", "a。b.example.org"),
        ("{key}", "\udcff.example.org"),
        ("{local}.example.net", "\udcff@example.org"),
    ],
)
async def test_a_key_that_is_no_name_is_a_miss_and_nobody_is_asked(template: str | None, key: str) -> None:
    async with loopback_dns(status("SERVFAIL")) as server:
        options = {} if template is None else {"query": template}
        resolver = await started(make_dns(nameservers=(server.nameserver,), **options))
        assert await resolver.resolve(make_query(key)) is None
        assert server.asked == []


NIBBLES = "1." + "0." * 23 + "8.b.d.0.1.0.0.2"


@pytest.mark.parametrize(
    ("options", "key", "name"),
    [
        ({"query": "{key}.dnsbl.example.org"}, "192.0.2.10", "10.2.0.192.dnsbl.example.org"),
        ({"query": "{key}.dnsbl.example.org"}, "2001:db8::1", f"{NIBBLES}.dnsbl.example.org"),
        ({"query": "{key}.dnsbl.example.org"}, "::ffff:192.0.2.10", "10.2.0.192.dnsbl.example.org"),
        ({"record": "PTR"}, "192.0.2.10", "10.2.0.192.in-addr.arpa"),
        ({"record": "PTR"}, "2001:DB8::1", f"{NIBBLES}.ip6.arpa"),
    ],
)
async def test_reverse_writes_an_address_backwards(options: dict[str, Any], key: str, name: str) -> None:
    async with loopback_dns(status("NXDOMAIN")) as server:
        resolver = await started(make_dns(reverse=True, nameservers=(server.nameserver,), **options))
        assert await resolver.resolve(make_query(key)) == Miss(None)
        assert [b".".join(asked.labels).decode() for asked in server.asked] == [name]


@pytest.mark.parametrize(
    "key",
    ["example.org", "192.0.2", "192.0.2.256", "192.0.2.1.", "unknown", "fe80::1%eth0", "192.0.2.1/32", "::g"],
)
async def test_reverse_misses_on_what_is_no_address(key: str) -> None:
    async with loopback_dns(status("SERVFAIL")) as server:
        resolver = await started(
            make_dns(reverse=True, query="{key}.dnsbl.example.org", nameservers=(server.nameserver,))
        )
        assert await resolver.resolve(make_query(key)) is None
        assert server.asked == []


async def test_reverse_turns_the_address_and_leaves_other_variables() -> None:
    async with loopback_dns(status("NXDOMAIN")) as server:
        resolver = await started(
            make_dns(
                reverse=True,
                query="{client_address}.{sasl_username}.example.org",
                nameservers=(server.nameserver,),
            )
        )
        query = make_query("x", client_address="192.0.2.10", sasl_username="joe")
        assert await resolver.resolve(query) == Miss(None)
        assert b".".join(server.asked[0].labels) == b"10.2.0.192.joe.example.org"
        assert await resolver.resolve(make_query("x", client_address="192.0.2.10")) is None


# Configuration


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"nameservers": ("192.0.2.1", "ns.example.org")}, ("nameservers", 1)),
        ({"nameservers": ("192.0.2.1:0",)}, ("nameservers", 0)),
        ({"nameservers": ("192.0.2.1:70000",)}, ("nameservers", 0)),
        ({"nameservers": ("",)}, ("nameservers", 0)),
        ({"reverse": True}, ("reverse",)),
        ({"reverse": True, "query": "dnsbl.example.org"}, ("query",)),
        ({"query": "{key}..example.org"}, ("query",)),
        ({"query": ".{key}"}, ("query",)),
        ({"query": "{key}." + "x" * 64}, ("query",)),
        ({"match": "("}, ("match",)),
        ({"separator": "\n"}, ("separator",)),
    ],
)
def test_a_mistake_is_told_with_its_option(options: dict[str, Any], path: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_dns(**options)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_a_server_is_an_address_with_or_without_a_port(text: str, server: tuple[str, int]) -> None:
    assert make_dns(nameservers=(text,))._servers == (server,)


async def test_a_system_without_dns_servers_is_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import dns.asyncresolver

    empty = tmp_path / "resolv.conf"
    empty.write_text("search example.org\n")
    real = dns.asyncresolver.Resolver
    monkeypatch.setattr(dns.asyncresolver, "Resolver", lambda **options: real(filename=str(empty), **options))
    with pytest.raises(ConfigError, match="DNS servers"):
        await started(make_dns())


async def test_the_system_servers_are_asked_by_default_and_no_search_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import dns.asyncresolver

    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\nsearch example.com\noptions ndots:5\n")
    real = dns.asyncresolver.Resolver
    monkeypatch.setattr(dns.asyncresolver, "Resolver", lambda **options: real(filename=str(conf), **options))
    async with loopback_dns(status("NXDOMAIN")) as server:
        resolver = await started(make_dns(query="{key}"))
        resolver._resolver.port = server.port
        assert await resolver.resolve(make_query("host")) == Miss(None)
        assert [asked.labels for asked in server.asked] == [(b"host",)]


def test_importing_the_resolver_does_not_import_the_dns_library() -> None:
    code = (
        "import sys, tcpmapkit.resolvers.dns\n"
        "slow = ('dns', 'idna', 'asyncio', 'pcre2')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_mistake_of_one_resolver_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Dns(nameservers=("nonsense:x",), reverse=True, separator="\n", match="(")
    paths = [mistake.path for mistake in caught.value.errors]  # type: ignore[attr-defined]
    assert paths == [("nameservers", 0), ("reverse",), ("separator",), ("match",)]
