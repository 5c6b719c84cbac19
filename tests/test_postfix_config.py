"""``postfix-config``: the lines for main.cf, and a Postfix's configuration beside ours."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner, Result

from tcpmapkit.cli import main
from tcpmapkit.config import Endpoint, ListenerConfig, MapConfig
from tcpmapkit.postfix import installed
from tcpmapkit.postfix.comparison import compare
from tcpmapkit.postfix.main_cf import main_cf, main_cf_lines, ready_line, warnings
from tcpmapkit.postfix.parameters import PARAMETERS, guess_parameter, misfit
from tcpmapkit.postfix.pointing import Row
from tcpmapkit.postfix.postconf import parse_postconf
from tcpmapkit.postfix.served import Served, find_served
from tcpmapkit.postfix.values import split_list
from tcpmapkit.search import SEARCHES, Search, SearchOrder
from tcpmapkit.server import Server
from tcpmapkit.site import Site, open_site
from tests.private_postfix import free_port, running_postfix
from tests.real_postfix import Postfix, settle

QUEUE = "/var/spool/postfix"


def make_map(name: str = "aliases", search: Search | None = "virtual", **options: object) -> MapConfig:
    return MapConfig(name, (), search=search, **options)  # type: ignore[arg-type]


def inet(host: str = "127.0.0.1", port: int = 4242) -> Endpoint:
    return Endpoint("inet", host, port)


def unix(path: str = f"{QUEUE}/tcpmapkit/x") -> Endpoint:
    return Endpoint("unix", path=path)


def tcp_table(one: MapConfig | None = None, at: Endpoint | None = None, deadline: float = 5) -> Served:
    one = one or make_map()
    return Served(ListenerConfig("tcp_table", at or inet(), one.name), (one,), deadline)


def socketmap(*maps: MapConfig, at: Endpoint | None = None) -> Served:
    return Served(ListenerConfig("socketmap", at or unix()), maps or (make_map(),), 5)


def policy(at: Endpoint | None = None, reads: str = "", deadline: float = 5, **options: object) -> Served:
    listener = ListenerConfig("policy", at or inet(port=4243), "clients", **options)  # type: ignore[arg-type]
    return Served(listener, (make_map("clients", None),), deadline, frozenset(reads.split()))


# The guess.


@pytest.mark.parametrize(
    ("name", "search", "parameter"),
    [
        ("aliases", None, "virtual_alias_maps"),
        ("x", None, "virtual_alias_maps"),
        ("clients", None, "check_client_access"),
        ("relay_recipient_maps", None, "relay_recipient_maps"),
        ("Relay_Domains", "domain", "relay_domains"),
        ("mydestination", None, "mydestination"),
        ("customer_maps", None, "virtual_alias_maps"),
        # The search order first, then the name.
        ("x", "address", "smtpd_sender_login_maps"),
        ("mailboxes", "address", "virtual_mailbox_maps"),
        ("aliases", "address", "smtpd_sender_login_maps"),
        ("x", "virtual", "virtual_alias_maps"),
        ("routes", "virtual", "virtual_alias_maps"),
        ("x", "canonical", "canonical_maps"),
        ("my_sender_canonical", "canonical", "sender_canonical_maps"),
        ("x", "generic", "smtp_generic_maps"),
        ("x", "transport", "transport_maps"),
        ("x", "access", "check_recipient_access"),
        ("clients", "access", "check_client_access"),
        ("senders", "access", "check_sender_access"),
        ("check_helo_mx_access", "access", "check_helo_mx_access"),
        ("x", "domain", "relay_domains"),
        ("transport_maps", "virtual", "virtual_alias_maps"),
    ],
)
def test_the_parameter_is_guessed_by_the_search_order_then_by_the_name(
    name: str, search: Search | None, parameter: str
) -> None:
    assert guess_parameter(name, search).name == parameter


@pytest.mark.parametrize("search", [None, *SEARCHES])
def test_a_guess_always_fits(search: Search | None) -> None:
    for parameter in PARAMETERS:
        guessed = guess_parameter(parameter.name, search)
        assert search is None or guessed.search == search
        if parameter.search == search:
            assert guessed is parameter
        assert (misfit(parameter, search) is None) == (
            search == parameter.search or (search is not None and search == parameter.also)
        )


def test_every_parameter_is_one_of_the_real_postfixs(private: Postfix) -> None:
    names = [one.name for one in PARAMETERS if not one.restrictions]
    done = private.run("postconf", *names)
    assert (done.stderr, len(done.stdout.splitlines())) == (b"", len(names))


def test_what_proxymap_opens_by_default_is_what_the_table_says(postfix: Postfix) -> None:
    real = postfix.run("postconf", "-h", "-d", "proxy_read_maps").stdout.decode().split()
    for one in PARAMETERS:
        assert (one.name, f"${one.restrictions or one.name}" in real) == (one.name, one.shared)


# The lines.


@pytest.mark.parametrize(
    ("served", "lines"),
    [
        (tcp_table(), ["virtual_alias_maps = tcp:127.0.0.1:4242"]),
        (tcp_table(at=inet("::1")), ["virtual_alias_maps = tcp:[::1]:4242"]),
        (tcp_table(at=inet("::")), ["virtual_alias_maps = tcp:[::1]:4242"]),
        (tcp_table(at=inet("0.0.0.0")), ["virtual_alias_maps = tcp:127.0.0.1:4242"]),
        (
            tcp_table(make_map("clients", "access")),
            ["smtpd_client_restrictions = check_client_access tcp:127.0.0.1:4242"],
        ),
        (
            socketmap(make_map(), make_map("routes", "transport")),
            [
                "virtual_alias_maps = socketmap:unix:tcpmapkit/x:aliases",
                "transport_maps = socketmap:unix:tcpmapkit/x:routes",
            ],
        ),
        (
            socketmap(make_map("do$$ar"), at=unix("/run/a$b")),
            ["virtual_alias_maps = socketmap:unix:/run/a$$b:do$$$$ar"],
        ),
        (socketmap(at=inet("::1")), ["virtual_alias_maps = socketmap:inet:[::1]:4242:aliases"]),
        (socketmap(at=unix(f"{QUEUE}x/y")), [f"virtual_alias_maps = socketmap:unix:{QUEUE}x/y:aliases"]),
        (policy(), ["smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:4243"]),
        (
            policy(reads="recipient_count"),
            ["smtpd_data_restrictions = check_policy_service inet:127.0.0.1:4243"],
        ),
        (
            policy(unix(), stage="END-OF-MESSAGE"),
            ["smtpd_end_of_data_restrictions = check_policy_service unix:tcpmapkit/x"],
        ),
        (
            policy(stage="EHLO", default_action="DUNNO"),
            ["smtpd_helo_restrictions = check_policy_service { inet:127.0.0.1:4243, default_action=DUNNO }"],
        ),
        (
            policy(stage="MAIL", default_action="DEFER later, $5"),
            [
                "smtpd_sender_restrictions = check_policy_service "
                "{ inet:127.0.0.1:4243, { default_action = DEFER later, $$5 } }"
            ],
        ),
        (
            policy(stage="ETRN", default_action="450 }{"),
            ["smtpd_etrn_restrictions = check_policy_service inet:127.0.0.1:4243"],
        ),
    ],
)
def test_each_listener_has_its_lines(served: Served, lines: list[str]) -> None:
    assert main_cf_lines(served, QUEUE) == lines
    assert ready_line(served, QUEUE).endswith("; in main.cf: " + "; ".join(lines))
    assert [line for line in main_cf([served], QUEUE) if line and line[0] != "#"] == lines


def test_a_parameter_has_one_line_and_the_others_are_comments() -> None:
    lines = list(main_cf([tcp_table(), socketmap(make_map(), make_map("more"))], QUEUE))
    assert [line for line in lines if line.startswith("virtual_alias_maps")] == [
        "virtual_alias_maps = tcp:127.0.0.1:4242"
    ]
    assert "#virtual_alias_maps = socketmap:unix:tcpmapkit/x:more" in lines


@pytest.mark.parametrize(
    ("served", "chrooted", "told"),
    [
        (tcp_table(), None, ""),
        (
            tcp_table(make_map("aliases", None)),
            None,
            'virtual_alias_maps wants `search = "virtual"`: without',
        ),
        (tcp_table(make_map("virtual_alias_domains", "domain")), None, "wants a map without `search`"),
        (tcp_table(make_map("transport_maps")), None, 'wants `search = "transport"`, not "virtual"'),
        (tcp_table(make_map("alias_maps")), None, "local(8) refuses"),
        (socketmap(), True, ""),
        (socketmap(at=unix("/run/x")), True, "/run/x is not below queue_directory"),
        (socketmap(at=unix("/run/x")), None, "/run/x is not below queue_directory"),
        (socketmap(at=unix("/run/x")), False, ""),
        (socketmap(at=unix(f"{QUEUE}/a b")), False, "cannot carry"),
        (socketmap(make_map("a:b")), False, "map 'a:b': main.cf cannot carry"),
        (policy(), None, ""),
        (policy(stage="CONNECT"), None, "needs `smtpd_delay_reject = no`"),
        (policy(stage="RCPT", reads="recipient_count"), None, "recipient_count is 0 before DATA"),
        (policy(stage="DATA", reads="recipient_count"), None, ""),
        (policy(default_action="450 {"), None, "unbalanced braces"),
    ],
)
def test_what_is_likely_wrong_is_told(served: Served, chrooted: bool | None, told: str) -> None:
    texts = list(warnings([served], QUEUE, chrooted))
    assert len(texts) == bool(told), texts
    assert told in "".join(texts)


# Beside a Postfix that is there.

#: Nothing of it differs from the maps above.
FITTING = """\
myhostname = mail.example.org
mydestination =
myorigin = example.org
recipient_delimiter = +
smtpd_policy_service_default_action = DUNNO
"""
LOCAL = make_map(local_domains=("example.org",))


@pytest.mark.parametrize(("search", "told"), [("transport", []), ("access", ["routes"])])
def test_a_map_may_leave_the_search_to_the_maps_it_refers_to(
    tmp_path: Path, search: str, told: list[str]
) -> None:
    step = '[[maps.{0}.resolvers]]\ntype = "map"\nmap = "{1}"\n'
    (tmp_path / "tcpmapkit.toml").write_text(
        '[[listeners]]\nprotocol = "tcp_table"\nendpoint = "inet:127.0.0.1:4242"\nmap = "routes"\n'
        + "".join(step.format(*pair) for pair in (("routes", "fast"), ("fast", "domains")))
        + f'[maps.domains]\nsearch = "{search}"\n[[maps.domains.resolvers]]\ntype = "static"\nvalue = "x"\n'
    )
    served = find_served(open_site(tmp_path / "tcpmapkit.toml"))
    wrong = [text for text in warnings(served, QUEUE, None) if "wants" in text]
    assert [text.split()[1].rstrip(":") for text in wrong] == told


def rows(text: str, *served: Served) -> list[Row]:
    told = compare(parse_postconf(FITTING + text), served)
    return [row for row in told if row[0] not in ("assumed", "not asked")]


@pytest.mark.parametrize(
    ("served", "host", "meets"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::ffff:127.0.0.1]", True),
        ("127.0.0.1", "[::1]", False),
        ("::1", "[::1]", True),
        ("::1", "[0:0::1]", True),
        ("::1", "localhost", True),
        ("localhost", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "192.0.2.1", True),
        ("0.0.0.0", "[::1]", False),
        ("::", "[::1]", True),
        ("::", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("mail.example.org", "Mail.Example.org", True),
    ],
)
def test_a_host_may_be_spelled_in_other_ways(served: str, host: str, meets: bool) -> None:
    told = rows(f"virtual_alias_maps = tcp:{host}:4242\n", tcp_table(LOCAL, inet(served)))
    assert [row[0] for row in told if row[0] == "points here"] == ["points here"] * meets


@pytest.mark.parametrize(
    ("path", "meets"),
    [
        ("tcpmapkit/x", True),
        ("./tcpmapkit//x", True),
        (f"{QUEUE}/tcpmapkit/x", True),
        ("/tcpmapkit/x", True),  # in a chroot jail
        ("x", False),
        ("/x", False),
    ],
)
def test_a_socket_may_be_named_relative_to_the_queue_directory(path: str, meets: bool) -> None:
    told = rows(f"virtual_alias_maps = socketmap:unix:{path}:aliases\n", socketmap(LOCAL))
    assert [row[0] for row in told if row[0] == "points here"] == ["points here"] * meets


POINTS = ("points here", "virtual_alias_maps", "tcp:127.0.0.1:4242: map aliases, inet:127.0.0.1:4242")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("virtual_alias_maps = tcp:127.0.0.1:4242", [POINTS]),
        ("virtual_alias_maps = hash:/x, $mine\nmine = tcp:127.0.0.1:4242", [POINTS]),
        ("virtual_alias_maps = ${mine?$mine}\nmine = tcp:127.0.0.1:4242", [POINTS]),
        ("virtual_alias_maps = tcp:127.0.0.1:4242\nproxy_read_maps = $virtual_alias_maps", [POINTS]),
        ("virtual_alias_maps = tcp:192.0.2.1:4242, tcp:127.0.0.1:25", []),
        (
            "virtual_alias_maps = proxy:unionmap:{static:x, tcp:127.0.0.1:4242}\n"
            "proxy_read_maps = $virtual_alias_maps",
            [POINTS],
        ),
    ],
)
def test_a_parameter_that_asks_us_is_found(text: str, expected: list[Row]) -> None:
    assert rows(f"{text}\n", tcp_table(LOCAL)) == expected


@pytest.mark.parametrize(
    ("text", "kind", "place", "told"),
    [
        ("alias_maps = tcp:127.0.0.1:4242", "refused", "alias_maps", "local(8) refuses"),
        ("virtual_mailbox_maps = tcp:127.0.0.1:4242", "refused", "virtual_mailbox_maps", "virtual(8)"),
        (
            "virtual_alias_maps = proxy:tcp:127.0.0.1:4242\nproxy_read_maps = proxy:hash:/x",
            "refused",
            "virtual_alias_maps",
            "proxy_read_maps does not list it",
        ),
        (
            "transport_maps = tcp:127.0.0.1:4242",
            "search",
            "transport_maps",
            'wants `search = "transport"`, not "virtual"',
        ),
        (
            "submission/inet/smtpd_sender_restrictions = check_sender_access tcp:127.0.0.1:4242",
            "search",
            "submission/inet/smtpd_sender_restrictions",
            'check_sender_access wants `search = "access"`',
        ),
        (
            "virtual_alias_maps = tcp:[::1]:4242",
            "no listener",
            "virtual_alias_maps",
            "the listener at that port",
        ),
        (
            "virtual_alias_maps = socketmap:inet:127.0.0.1:4242:x",
            "wrong protocol",
            "virtual_alias_maps",
            "speaks tcp_table, not socketmap",
        ),
        ("virtual_alias_maps = tcp:127.0.0.1:name", "not understood", "virtual_alias_maps", "port"),
        ("virtual_alias_maps = ${x tcp:127.0.0.1:4242", "not understood", "virtual_alias_maps", "unbalanced"),
        ("what is this", "not understood", "line 6", "what is this"),
        (
            "virtual_alias_maps = tcp:127.0.0.1:4242\ninet_protocols = ipv6",
            "inet_protocols",
            "virtual_alias_maps",
            "IPv6 only",
        ),
        ("ipc_timeout = 5s", "time-out", "ipc_timeout", "may take 5 s"),
        ("ipc_timeout = soon", "not understood", "ipc_timeout", "not a time"),
        ("recipient_delimiter = -+", "differs", "recipient_delimiter", '"-+": map aliases has'),
        ("mydestination = example.net", "differs", "mydestination", "example.net is not among"),
        ("mydestination = hash:/x", "not understood", "mydestination", "by hand"),
        ("myorigin = /etc/mailname", "not understood", "mydestination", "/etc/mailname"),
        ("mydestination = $nowhere", "not understood", "mydestination", "$nowhere is not in the text"),
        (
            "propagate_unmatched_extensions = canonical",
            "differs",
            "propagate_unmatched_extensions",
            "lacks virtual: map aliases has propagate_extension = true",
        ),
    ],
)
def test_what_does_not_fit_is_told(text: str, kind: str, place: str, told: str) -> None:
    found = [row for row in rows(f"{text}\n", tcp_table(LOCAL)) if row[0] == kind]
    assert [row[:2] for row in found] == [(kind, place)]
    assert told in found[0][2]


@pytest.mark.parametrize("transport", ["lmtp:unix:private/lmtp", "$other"])
def test_virtual_mailbox_maps_are_refused_by_virtual_alone(transport: str) -> None:
    text = f"virtual_transport = {transport}\nother = lmtp:x\nvirtual_mailbox_maps = tcp:127.0.0.1:4242\n"
    assert "refused" not in [row[0] for row in rows(text, tcp_table(LOCAL))]


def test_a_domain_of_ours_that_postfix_does_not_have_is_told() -> None:
    one = make_map(local_domains=("Example.org", "example.net", "[192.0.2.1]"))
    here = "mydestination = $myhostname, localhost.$mydomain, localhost, [192.0.2.1]\n"
    assert "[192.0.2.1]" not in str(rows(here, tcp_table(one)))
    assert rows("", tcp_table(one)) == [
        (
            "differs",
            "mydestination",
            "example.net is among the local_domains of map aliases, and not in mydestination or myorigin",
        )
    ]


def test_a_table_asked_for_anothers_result_may_have_any_search_order() -> None:
    text = "transport_maps = pipemap:{hash:/x, tcp:127.0.0.1:4242}\n"
    assert [row[0] for row in rows(text, tcp_table(LOCAL))] == ["points here"]


def test_a_map_name_that_does_not_exist_is_told_with_a_suggestion() -> None:
    [row] = rows("virtual_alias_maps = socketmap:unix:tcpmapkit/x:alias\n", socketmap(LOCAL))
    assert row[:2] == ("no such map", "virtual_alias_maps")
    assert "did you mean 'aliases'?" in row[2]


@pytest.mark.parametrize(
    ("master", "at", "path", "told"),
    [
        ("smtp inet n - y - - smtpd", unix("/run/x"), "/run/x", ["smtpd(8) is chrooted"]),
        ("smtp inet n - n - - smtpd", unix("/run/x"), "/run/x", []),
        ("", unix("/run/x"), "/run/x", ["a chrooted service"]),
        ("smtp inet n - y - - smtpd", unix(), f"{QUEUE}/tcpmapkit/x", ["write tcpmapkit/x"]),
        ("smtp inet n - y - - smtpd", unix(), "tcpmapkit/x", []),
    ],
)
def test_a_path_that_a_chroot_jail_hides_is_told(
    master: str, at: Endpoint, path: str, told: list[str]
) -> None:
    text = f"virtual_alias_maps = socketmap:unix:{path}:aliases\n{master}\n"
    found = [row[2] for row in rows(text, socketmap(LOCAL, at=at)) if row[0] == "chroot"]
    assert len(found) == len(told)
    assert all(part in text for part, text in zip(told, found, strict=True))


@pytest.mark.parametrize(
    ("search", "ours", "text", "differs"),
    [
        ("transport", None, "", False),
        ("transport", "parent", "", True),
        ("transport", "parent", "parent_domain_matches_subdomains = transport_maps", False),
        ("access", None, "", False),
        ("access", "dot", "", True),
        ("access", None, "parent_domain_matches_subdomains =", True),
        ("domain", None, "parent_domain_matches_subdomains = Relay_Domains", False),
        ("domain", "dot", "parent_domain_matches_subdomains = smtpd_access_maps", False),
    ],
)
def test_subdomains_are_matched_as_the_map_says_or_it_is_told(
    search: Search, ours: str | None, text: str, differs: bool
) -> None:
    told = rows(f"{text}\n", tcp_table(make_map("x", search, match_subdomains=ours)))
    assert [row[1] for row in told] == ["parent_domain_matches_subdomains"] * differs


@pytest.mark.parametrize(
    ("search", "propagates"), [("virtual", True), ("canonical", True), ("generic", False)]
)
def test_what_a_map_does_by_default_is_what_postfix_does(search: Search, propagates: bool) -> None:
    order = SearchOrder(search)
    kind = [key.kind for key in order.keys("user+x@example.org")][1]
    extended = order.rewritten("a@example.org", "user+x@example.org", kind) != "a@example.org"
    assert extended == propagates
    told = rows("", tcp_table(make_map("x", search, local_domains=("example.org",))))
    assert told == []  # with Postfix's own default


LISTS = "smtpd_recipient_restrictions = check_policy_service"


@pytest.mark.parametrize(
    ("text", "served", "told"),
    [
        (f"{LISTS} inet:127.0.0.1:4243", policy(default_action="DUNNO"), []),
        (f"{LISTS} inet:localhost:4243", policy(default_action="DUNNO"), []),
        (f"{LISTS} inet:127.0.0.1:4243", policy(), ["default action"]),
        (f"{LISTS} {{ inet:127.0.0.1:4243, timeout=5s }}", policy(default_action="DUNNO"), ["time-out"]),
        (
            f"{LISTS} {{ inet:127.0.0.1:4243 {{ default_action = 450 4.7.1 later }} }}",
            policy(default_action="450 4.7.1  later"),
            [],
        ),
        (f"{LISTS} {{ inet:127.0.0.1:4243 default_action=OK }}", policy(default_action="DUNNO"), ["differs"]),
        (
            f"{LISTS} inet:127.0.0.1:4243\nsmtpd_policy_service_timeout = 3",
            policy(default_action="DUNNO"),
            ["time-out"],
        ),
        (
            f"{LISTS} inet:127.0.0.1:4243\nsmtpd_policy_service_max_idle = 0",
            policy(default_action="DUNNO"),
            [],  # max_ttl ends it before
        ),
        (
            f"{LISTS} inet:127.0.0.1:4243\nsmtpd_policy_service_max_idle = 1h\n"
            "smtpd_policy_service_max_ttl = 2h",
            policy(default_action="DUNNO"),
            ["time-out"],
        ),
        (
            f"{LISTS} inet:127.0.0.1:4243\nsmtpd_policy_service_request_limit = 1",
            policy(default_action="DUNNO"),
            ["time-out"],
        ),
        (
            f"{LISTS} inet:127.0.0.1:4243\nsmtpd_policy_service_timeout = ${{stress?{{1}}:{{x}}}}",
            policy(default_action="DUNNO"),
            ["not understood"],
        ),
        (f"{LISTS} inet:127.0.0.1:4243", policy(default_action="DUNNO", stage="RCPT"), []),
        (f"{LISTS} inet:127.0.0.1:4243", policy(default_action="DUNNO", stage="DATA"), ["stage"]),
        (
            "smtpd_client_restrictions = check_policy_service inet:127.0.0.1:4243",
            policy(default_action="DUNNO", stage="CONNECT"),
            ["stage"],
        ),
        (
            "smtpd_client_restrictions = check_policy_service inet:127.0.0.1:4243\nsmtpd_delay_reject = no",
            policy(default_action="DUNNO", stage="CONNECT"),
            [],
        ),
        (
            "smtpd_data_restrictions = greylist\nsmtpd_restriction_classes = greylist\n"
            "greylist = check_policy_service inet:127.0.0.1:4243",
            policy(default_action="DUNNO", stage="RCPT"),
            ["stage"],
        ),
        (
            "submission/inet/smtpd_policy_service_timeout = 1s\n"
            "submission/inet/smtpd_data_restrictions = check_policy_service inet:127.0.0.1:4243",
            policy(default_action="DUNNO"),
            ["time-out"],
        ),
    ],
)
def test_a_policy_service_is_compared_with_its_listener(text: str, served: Served, told: list[str]) -> None:
    kinds = [row[0] for row in rows(f"{text}\n", served)]
    assert kinds == ["points here", *told]


def test_a_map_that_nothing_asks_is_told_with_a_line_that_would() -> None:
    [row, *_] = compare(parse_postconf(FITTING), [tcp_table(LOCAL)])
    assert row == (
        "not asked",
        "inet:127.0.0.1:4242",
        "map aliases: such as virtual_alias_maps = tcp:127.0.0.1:4242",
    )


def test_the_defaults_that_a_comparison_rests_on_are_told() -> None:
    told = {row[1] for row in compare(parse_postconf(FITTING), [tcp_table(LOCAL)]) if row[0] == "assumed"}
    assert told == {"queue_directory", "ipc_timeout", "propagate_unmatched_extensions"}


# The commands, and the real Postfix.

SITE = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:{port}"
map = "aliases"

[[listeners]]
protocol = "socketmap"
endpoint = "unix:{directory}/socketmap"
maps = ["routes", "hosts"]

[[listeners]]
protocol = "socketmap"
endpoint = "inet:[::1]:{port}"
maps = ["logins"]

[[listeners]]
protocol = "policy"
endpoint = "inet:127.0.0.1:{policy}"
map = "verdicts"
stage = "DATA"
default_action = "DEFER try again, later"

[maps.aliases]
search = "virtual"
[[maps.aliases.resolvers]]
type = "static"
entries = {{ "@example.org" = "all@example.net" }}
[maps.routes]
search = "transport"
[[maps.routes.resolvers]]
type = "static"
entries = {{ "example.org" = "smtp:[192.0.2.1]" }}
[maps.hosts]
search = "access"
[[maps.hosts.resolvers]]
type = "static"
entries = {{ "example.org" = "OK" }}
[maps.logins]
search = "address"
[[maps.logins.resolvers]]
type = "static"
entries = {{ "user@example.org" = "user" }}
[maps.verdicts]
[[maps.verdicts.resolvers]]
type = "static"
value = "DUNNO"
"""


def tcpmapkit(*args: str | Path, given: str = "") -> Result:
    return CliRunner().invoke(main, [str(one) for one in args], input=given, catch_exceptions=False)


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(SITE.format(directory=tmp_path, port=4242, policy=4243))
    return file


@pytest.fixture
def private(postfix: Postfix, tmp_path: Path) -> Postfix:
    """The real Postfix with a configuration and a queue directory that the test may write in."""
    for file in postfix.configuration.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    main_cf = tmp_path / "main.cf"
    text = main_cf.read_text().replace(str(postfix.configuration), str(tmp_path))
    main_cf.write_text(text.replace("inet_protocols = ipv4", "inet_protocols = all"))
    (tmp_path / "master.cf").write_text("smtp inet n - n - - smtpd\n")
    settle(main_cf)
    settle(tmp_path / "master.cf")
    return attrs.evolve(postfix, configuration=tmp_path)


@asynccontextmanager
async def running(site: Site) -> AsyncIterator[list[Served]]:
    """What is served, at the ports that the system chose."""
    served = find_served(site)
    listeners = [(one.listener, [site.maps.maps[each.name] for each in one.maps]) for one in served]
    server = Server(site.config.server, listeners)
    server.bind()
    try:
        await site.start()
        await server.start()
        for at, (one, [address, *_]) in enumerate(zip(served, server.addresses, strict=True)):
            if len(address) > 1:
                endpoint = attrs.evolve(one.listener.endpoint, port=address[1])
                served[at] = one.at(attrs.evolve(one.listener, endpoint=endpoint))
        yield served
    finally:
        await server.stop()
        await site.maps.stop()


ASKED = {
    "virtual_alias_maps": ("any+x@example.org", "all@example.net"),
    "transport_maps": ("any@example.org", "smtp:[192.0.2.1]"),
    "smtpd_recipient_restrictions": ("a.example.org", "OK"),
    "smtpd_sender_login_maps": ("user+x@example.org", "user"),
}


async def test_the_real_postfix_takes_the_lines_and_finds_our_maps_by_them(
    private: Postfix, tmp_path: Path
) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(SITE.format(directory=tmp_path, port=0, policy=0))
    async with running(open_site(file)) as served:
        lines = list(main_cf(served, str(tmp_path)))
        with (tmp_path / "main.cf").open("a") as main_cf_file:
            main_cf_file.write("\n".join(lines) + "\n")
        settle(tmp_path / "main.cf")
        done = private.run("postconf", "-n")
        assert done.stderr == b""  # nothing unused, nothing set twice
        for parameter, (key, value) in ASKED.items():
            members = private.run("postconf", "-h", "-x", parameter).stdout.decode()
            [table] = [one for one in split_list(members) if ":" in one]
            assert (await private.aask(table, [key])) == {key: value}
        settings = "".join(private.run("postconf", *args).stdout.decode() for args in ((), ("-M",), ("-P",)))
        told = list(compare(parse_postconf(settings), served))
    pointing = {row[1] for row in told if row[0] == "points here"}
    # By default virtual_alias_domains asks the tables of virtual_alias_maps.
    assert pointing == {*ASKED, "smtpd_data_restrictions", "virtual_alias_domains"}
    assert {row[0] for row in told} == {"points here", "differs"}
    assert {row[1] for row in told if row[0] == "differs"} == {
        "recipient_delimiter",
        "mydestination",
        "myorigin",
    }


def test_the_command_prints_lines_and_tells_warnings_elsewhere(site_file: Path) -> None:
    with site_file.open("a") as file:
        file.write(
            '[[listeners]]\nprotocol = "socketmap"\nendpoint = "inet:127.0.0.1:1"\nmaps = ["verdicts"]\n'
        )
    result = tcpmapkit("postfix-config", "-c", site_file)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "transport_maps = socketmap:unix:" in result.stdout
    assert any(line.startswith("smtpd_data_restrictions = check_policy_service {") for line in lines)
    assert "warning: map verdicts: virtual_alias_maps wants" in result.stderr
    assert "warning:" not in result.stdout


def test_the_command_compares_with_a_file_or_with_standard_input(site_file: Path, tmp_path: Path) -> None:
    text = "virtual_alias_maps = tcp:127.0.0.1:4242\n"
    (tmp_path / "settings").write_text(text)
    from_file = tcpmapkit("postfix-config", "-c", site_file, "--postconf", tmp_path / "settings")
    from_input = tcpmapkit("postfix-config", "-c", site_file, "--postconf", "-", given=text)
    assert from_file.exit_code == from_input.exit_code == 0
    assert from_file.stdout == from_input.stdout
    assert from_file.stdout.startswith("points here\tvirtual_alias_maps\ttcp:127.0.0.1:4242: map aliases")


def test_a_file_that_cannot_be_read_is_a_mistake(site_file: Path, tmp_path: Path) -> None:
    result = tcpmapkit("postfix-config", "-c", site_file, "--postconf", tmp_path / "none")
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr == f"{tmp_path}/none: cannot be read: No such file or directory\n"


def fake_postconf(directory: Path, *lines: str) -> None:
    program = directory / "bin" / "postconf"
    program.parent.mkdir()
    program.write_text("\n".join(("#!/bin/sh", *lines, "")))
    program.chmod(0o755)


def test_without_a_file_the_machines_postfix_is_asked(
    site_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_postconf(
        tmp_path,
        'case "$*" in',
        '"") echo "virtual_alias_maps = tcp:127.0.0.1:4242";;',
        '-M) echo "smtp inet n - y - - smtpd";;',
        '-P) echo "smtp/inet/transport_maps = tcp:127.0.0.1:4242";;',
        "esac",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin")
    result = tcpmapkit("postfix-config", "-c", site_file, "--postconf")
    assert result.exit_code == 0
    assert "\npoints here\tsmtp/inet/transport_maps\t" in result.stdout
    assert "not understood" not in result.stdout.replace("not understood\tmydestination", "")


@pytest.mark.parametrize(("chroot", "told"), [("y", True), ("n", False)])
def test_the_machines_queue_directory_and_chroot_jails_are_asked_for(
    site_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chroot: str, told: bool
) -> None:
    fake_postconf(
        tmp_path,
        f'[ "$1" = -M ] && echo "smtp inet n - {chroot} - - smtpd"',
        '[ "$*" = "-x -h queue_directory" ] && echo /var/queue',
        "exit 0",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin")
    result = tcpmapkit("postfix-config", "-c", site_file)
    assert ("not below queue_directory (/var/queue)" in result.stderr) == told
    site_file.write_text(site_file.read_text().replace(f"unix:{tmp_path}", "unix:/var/queue/private"))
    result = tcpmapkit("postfix-config", "-c", site_file)
    assert "transport_maps = socketmap:unix:private/socketmap:routes\n" in result.stdout
    assert result.stderr == ""


def test_the_real_smtpd_takes_a_policy_service_with_an_action_of_several_words() -> None:
    nobody = policy(inet(port=free_port()), default_action="DEFER try again, later for $5 {x}")
    [line] = main_cf_lines(nobody)
    name, _, value = line.partition(" = ")
    with (
        running_postfix({name: value, "smtpd_policy_service_try_limit": "1"}) as mail,
        mail.session() as session,
    ):
        session.accepted("MAIL FROM:<a@example.net>")
        code, text = session.ask("RCPT TO:<b@mail.example.org>")
    assert code == 450
    assert text.endswith("try again, later for $5 {x}")


def test_a_machine_without_postconf_is_a_mistake_and_the_lines_are_printed_all_the_same(
    site_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(installed, "_PLACES", str(tmp_path))
    result = tcpmapkit("postfix-config", "-c", site_file, "--postconf")
    assert (result.exit_code, result.stdout) == (78, "")
    assert "there is no postconf on this machine" in result.stderr
    result = tcpmapkit("postfix-config", "-c", site_file)
    assert result.exit_code == 0
    assert f"not below queue_directory ({QUEUE})" in result.stderr
    assert "virtual_alias_maps = tcp:127.0.0.1:4242" in result.stdout


def test_a_postconf_that_fails_is_a_mistake_with_what_it_said(
    site_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_postconf(tmp_path, "echo 'postconf: fatal: open main.cf: Permission denied' >&2", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin")
    result = tcpmapkit("postfix-config", "-c", site_file, "--postconf")
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr == "postconf failed: postconf: fatal: open main.cf: Permission denied\n"
