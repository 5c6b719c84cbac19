# ruff: noqa: E501  (an error is one line)
"""The configuration file: what is right is structured, what is wrong is told with its place."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tcpmapkit.cache import CacheOptions
from tcpmapkit.config import (
    LogConfig,
    MapTest,
    ServerConfig,
    StepConfig,
    locate,
    plugins_config,
    read_document,
    structure,
)
from tcpmapkit.errors import ConfigError, ConfigErrors

from .config_fakes import (
    TYPES,
    NeedsItself,
    NestsUnresolvable,
    Rule,
    Strange,
    TakesTimeout,
    Unresolvable,
    configure,
    mistakes,
    resolver_type,
)

GOOD = """
[server]
deadline = "3s"
max_connections = 10_000
user = "nobody"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:4242"
map = "aliases"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:[::]:4242"
map = "aliases"
allow = ["192.0.2.0/24", "2001:db8::/32"]

[maps.aliases]
deadline = 2.5
fold = false
recipient_delimiter = "+-"
cache = { ttl = "1h", max_size = "1MiB", refresh_ahead = true }

[[maps.aliases.resolvers]]
type = "csv"
path = "aliases.csv"
key_column = "address"
name = "local"
on_error = "next"
timeout = "300ms"
domains = ["Example.ORG", ".example.net"]
result = "<{value}>"

[[maps.aliases.resolvers]]
type = "regex"
rules = [{ pattern = "^x$", result = "$1 $$ ${HOME}" }]

[[maps.aliases.resolvers]]
type = "chain"
resolvers = [
  { type = "nothing", authoritative = true },
  { type = "pipe", resolvers = [{ type = "map", map = "other" }, { type = "nothing" }] },
]

[[maps.aliases.tests]]
key = "a"
expect = "b"

[[maps.aliases.tests]]
key = ""
expect = false

[maps.other]
cache = false
resolvers = [{ type = "http", url = "https://example.org/{key}", wait = "1s", max_body = "1KiB", ratio = 2 }]

[log]
to = "syslog"
"""


def test_a_right_file_has_no_errors_and_every_option(tmp_path: Path) -> None:
    config, errors = configure(tmp_path, GOOD)
    assert errors == []
    assert config.server == ServerConfig(
        deadline=3.0, max_connections=10_000, user="nobody", max_connections_written=True
    )
    assert config.log == LogConfig(to="syslog")
    assert config.directory == tmp_path
    first, second = config.listeners
    assert (str(first.endpoint), first.map, first.path) == (
        "inet:127.0.0.1:4242",
        "aliases",
        ("listeners", 0),
    )
    assert second.allow == (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
    aliases, other = config.maps["aliases"], config.maps["other"]
    assert (aliases.deadline, aliases.fold, aliases.recipient_delimiter) == (2.5, False, "+-")
    assert aliases.cache == CacheOptions(ttl=3600.0, max_size=2**20, refresh_ahead=True)
    assert (aliases.cache_written, other.cache, other.cache_written) == (True, None, True)
    assert aliases.tests == (
        MapTest("a", "b", path=("maps", "aliases", "tests", 0)),
        MapTest("", None, path=("maps", "aliases", "tests", 1)),
    )
    csv, regex, chain = aliases.resolvers
    assert csv == StepConfig(
        type="csv",
        name="local",
        on_error="next",
        timeout=0.3,
        result="<{value}>",
        domains=("example.org", ".example.net"),
        options={"path": tmp_path / "aliases.csv", "key_column": "address"},
        path=("maps", "aliases", "resolvers", 0),
    )
    assert regex.options == {"rules": (Rule("^x$", "$1 $$ ${HOME}"),)}
    nothing, pipe = chain.options["resolvers"]
    assert (nothing.authoritative, nothing.key, nothing.options) == (True, "{key}", {})
    assert pipe.options["resolvers"][0] == StepConfig(
        type="map",
        options={"map": "other"},
        path=("maps", "aliases", "resolvers", 2, "resolvers", 1, "resolvers", 0),
    )
    assert other.resolvers[0].options == {
        "url": "https://example.org/{key}",
        "wait": 1.0,
        "max_body": 1024,
        "ratio": 2.0,
    }


def test_an_empty_file_is_a_configuration_with_every_default(tmp_path: Path) -> None:
    config, errors = configure(tmp_path, "")
    assert (errors, config.listeners, dict(config.maps)) == ([], (), {})
    assert config.server.max_connections_written is False


SEVEN = """\
[server]
deadline = "soon"
wrokers = 1

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:99999"
map = "alias"

[maps.aliases]
[[maps.aliases.resolvers]]
type = "cvs"
path = "a.csv"
[[maps.aliases.resolvers]]
type = "csv"
  header = "yes"
"""


def test_seven_mistakes_are_seven_located_errors_sorted_by_line(tmp_path: Path) -> None:
    _, errors = configure(tmp_path, SEVEN)
    file = tmp_path / "tcpmapkit.toml"
    assert [str(error) for error in errors] == [
        f'{file}:2:12: server.deadline: \'soon\' is not a duration (such as "300ms", "5s", "2m", "1h", "7d")\n'
        '     2 | deadline = "soon"\n'
        "       |            ^",
        f"{file}:3:1: server.wrokers: unknown key (did you mean 'workers'?)\n"
        "     3 | wrokers = 1\n"
        "       | ^",
        f"{file}:7:12: listeners[0].endpoint: 'inet:127.0.0.1:99999': the port is not a number from 0 to 65535\n"
        '     7 | endpoint = "inet:127.0.0.1:99999"\n'
        "       |            ^",
        f"{file}:8:7: listeners[0].map: there is no map 'alias' (did you mean 'aliases'?)\n"
        '     8 | map = "alias"\n'
        "       |       ^",
        f"{file}:12:8: maps.aliases.resolvers[0].type: unknown resolver type 'cvs' (did you mean 'csv'?)\n"
        '    12 | type = "cvs"\n'
        "       |        ^",
        f"{file}:14:1: maps.aliases.resolvers[1].path: it is missing\n"
        "    14 | [[maps.aliases.resolvers]]\n"
        "       | ^",
        f"{file}:16:12: maps.aliases.resolvers[1].header: expected true or false, not a string\n"
        '    16 |   header = "yes"\n'
        "       |            ^",
    ]


STEP = "[maps.m]\n[[maps.m.resolvers]]\n"
LISTENER = '[maps.m]\nresolvers = [{type = "nothing"}]\n[[listeners]]\nmap = "m"\nprotocol = "tcp_table"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # types, taken strictly
        ('[server]\nmax_connections = "5"', ["2:19: server.max_connections: expected an integer, not a string"]),
        ("[server]\nmax_connections = true", ["2:19: server.max_connections: expected an integer, not true"]),
        ("[server]\nmax_connections = 0", ["2:19: server.max_connections: must be more than 0"]),
        ("[server]\nworkers = true", ["2:11: server.workers: expected an integer or 'auto', not true"]),
        ("[server]\nloop = 'uvlop'", ["2:8: server.loop: 'uvlop' is not 'auto' or 'asyncio' or 'uvloop' (did you mean 'uvloop'?)"]),
        ("[server]\ndeadline = '91s'", ["2:12: server.deadline: must be more than 0 and at most 90 seconds"]),
        ("[server]\ndeadline = 0", ["2:12: server.deadline: must be more than 0 and at most 90 seconds"]),
        ("server = 1", ["1:10: server: expected a table, not an integer"]),
        ("[[server]]", ["1:1: server: expected a table, not an array"]),
        ("[servr]", ["1:2: servr: unknown key (did you mean 'server'?)"]),
        ("[log]\nlevel = 'verbose'", ["2:9: log.level: 'verbose' is not 'debug' or 'info' or 'warning' or 'error'"]),
        ("[plugins]\ndisable = 'csv'", ["2:11: plugins.disable: expected an array, not a string"]),
        ("[plugins]\ndisable = ['csv', 1]", ["2:19: plugins.disable[1]: expected a string, not an integer"]),
        ("[plugins]\ndirectory = ''", ["2:13: plugins.directory: '' is not a path"]),
        # maps
        ("maps = []", ["1:8: maps: expected a table of maps, [maps.NAME], not an array"]),
        ("[maps]\nm = 1", ["2:5: maps.m: expected a table, [maps.m], not an integer"]),
        ("[maps.'a b']", ["1:7: maps.a b: a map's name is one word (no white space)"]),
        ("[maps.m]", ["1:1: maps.m.resolvers: it is missing"]),
        ("[maps.m]\nresolvers = []", ["2:13: maps.m.resolvers: there are no resolvers in it"]),
        ("[maps.m.resolvers]\ntype='csv'", ["1:1: maps.m.resolvers: expected an array of tables, not a table (write [[maps.m.resolvers]])"]),
        ("[maps.m]\nresolvers = ['csv']", ["2:14: maps.m.resolvers[0]: expected a table, not a string"]),
        (STEP + "type='nothing'\n[maps.x]\ncache = true", ["4:1: maps.x.resolvers: it is missing", "5:9: maps.x.cache: expected a table or false, not true"]),
        (STEP + "type='nothing'\n[maps.m.cache]\nttl = '-1s'\nttll = 1\njitter = 2", [
            "5:7: maps.m.cache.ttl: '-1s' is not a duration (such as \"300ms\", \"5s\", \"2m\", \"1h\", \"7d\")",
            "6:1: maps.m.cache.ttll: unknown key (did you mean 'ttl'?)",
            "7:10: maps.m.cache.jitter: must be from 0 to 1",
        ]),
        ("[maps.m]\nrecipient_delimiter='+@'\nresolvers=[{type='nothing'}]", ["2:21: maps.m.recipient_delimiter: '@' cannot be a delimiter"]),
        (STEP + "type='nothing'\n[[maps.m.tests]]\nkey='k'", ["4:1: maps.m.tests[0].expect: it is missing"]),
        (STEP + "type='nothing'\n[[maps.m.tests]]\nkey='k'\nexpect=true", ["6:8: maps.m.tests[0].expect: expected a string or false, not true"]),
        (STEP + "type='nothing'\n[[maps.m.tests]]\nkey=1\nexpect=''", ["5:5: maps.m.tests[0].key: expected a string, not an integer"]),
        (STEP + "type='nothing'\n[[maps.m.tests]]\nkey=''\nexpect=''", ["6:8: maps.m.tests[0].expect: no value found is empty (false is \"not found\")"]),
        # steps
        (STEP + "path='x'", ["2:1: maps.m.resolvers[0].type: it is missing"]),
        (STEP + "type=1\ntimeout=0", [
            "3:6: maps.m.resolvers[0].type: expected the name of a resolver type, not an integer",
            "4:9: maps.m.resolvers[0].timeout: must be more than 0 and at most 90 seconds",
        ]),
        (STEP + "type='xyz'\nwhat=1\nspecial_keys=1", [
            "3:6: maps.m.resolvers[0].type: unknown resolver type 'xyz' (known: chain, csv, http, map, nothing, pipe, regex)",
            "5:14: maps.m.resolvers[0].special_keys: expected true or false, not an integer",
        ]),
        (STEP + "type='nothing'\non_error='retry'", ["4:10: maps.m.resolvers[0].on_error: 'retry' is not 'fail' or 'next' or 'ignore'"]),
        (STEP + "type='nothing'\nresult=''\nkey=''", ["4:8: maps.m.resolvers[0].result: it is empty", "5:5: maps.m.resolvers[0].key: it is empty"]),
        (STEP + "type='nothing'\ndomains=['a.example', 'b@c', '.']", ["4:23: maps.m.resolvers[0].domains[1]: not a domain (such as \"example.org\", \".example.org\")"]),
        (STEP + "type='nothing'\ndomains=[]", ["4:9: maps.m.resolvers[0].domains: it is empty"]),
        (STEP + "type='nothing'\nx=1", [
            "4:1: maps.m.resolvers[0].x: unknown key (known: authoritative, breaker, domains, key, max_shrink, name, on_error, result, special_keys, timeout, type)"
        ]),
        (STEP + "type='csv'\npath='x'\nkey_column=1.5\ndelimiter=';;'", [
            "5:12: maps.m.resolvers[0].key_column: expected an integer or a string, not a float",
            "6:11: maps.m.resolvers[0].delimiter: ';;' is not one character",
        ]),
        (STEP + "type='regex'\nengine='pcre'\nrules=[{pattern='(', result='x'}, {pattern='x'}, {pattern=1, result='', y=1}]", [
            "4:8: maps.m.resolvers[0].engine: 'pcre' is not 'auto' or 'pcre2' or 're' (did you mean 'pcre2'?)",
            "5:17: maps.m.resolvers[0].rules[0].pattern: bad regex: missing )",
            "5:35: maps.m.resolvers[0].rules[1].result: it is missing",
            "5:59: maps.m.resolvers[0].rules[2].pattern: expected a string, not an integer",
            "5:69: maps.m.resolvers[0].rules[2].result: Length of 'result' must be >= 1: 0",
            "5:73: maps.m.resolvers[0].rules[2].y: unknown key (known: negate, pattern, result)",
        ]),
        (STEP + "type='http'\nurl='u'\nparams={a='x', b=1}\nnot_found=[404, '410']\nratio=nan\nanything=[{x=2026-01-01}]", [
            "5:18: maps.m.resolvers[0].params.b: expected a string, not an integer",
            "6:17: maps.m.resolvers[0].not_found[1]: expected an integer, not a string",
            "7:7: maps.m.resolvers[0].ratio: nan is not a number that can be used",
            "8:14: maps.m.resolvers[0].anything[0].x: expected a string, number, boolean, array or table, not a date or time",
        ]),
        (STEP + "type='chain'\nresolvers=[]\nother={type='csv'}", [
            "4:11: maps.m.resolvers[0].resolvers: there are no resolvers in it",
            "5:7: maps.m.resolvers[0].other: expected an array of tables, not a table",
        ]),
        (STEP + "type='pipe'\nresolvers=[{type='csv'}, {type='chain', resolvers=[{type='csv', path=3}]}]\nseparator=1", [
            "4:12: maps.m.resolvers[0].resolvers[0].path: it is missing",
            "4:70: maps.m.resolvers[0].resolvers[1].resolvers[0].path: expected a string, not an integer",
            "5:11: maps.m.resolvers[0].separator: expected a string, not an integer",
        ]),
        # listeners
        ("[listeners]\nmap='m'", ["1:1: listeners: expected an array of tables, not a table (write [[listeners]])"]),
        ("[[listeners]]", [
            "1:1: listeners[0].protocol: it is missing",
            "1:1: listeners[0].endpoint: it is missing",
        ]),
        ("[[listeners]]\nprotocol='policy'\nendpoint='unix:/run/x'\nmaps=['m']", [
            "1:1: listeners[0].map: it is missing",
            "4:1: listeners[0].maps: policy has no such option, only socketmap (`map` names its one map)",
            "4:7: listeners[0].maps[0]: there is no map 'm'",
        ]),
        ("[[listeners]]\nprotocol='socketmap'\nendpoint='inet:[::1]:1'\nmap='m'\nkey='{sender}'\nmode='0660'", [
            "4:1: listeners[0].map: socketmap has no such option, only tcp_table and policy (`maps` names the maps of it)",
            "4:5: listeners[0].map: there is no map 'm'",
            "5:1: listeners[0].key: socketmap has no such option, only policy",
            "6:1: listeners[0].mode: only a unix socket has one",
        ]),
        ("[[listeners]]\nprotocol='socketmap'\nendpoint='unix:x'\nmaps=[]\nallow=['192.0.2.1']\nmode='999'", [
            "4:6: listeners[0].maps: it is empty",
            "5:1: listeners[0].allow: a unix socket has no networks (`mode`, `owner` and `group` say who may connect)",
            "6:6: listeners[0].mode: '999' is not permissions in octal (such as \"0660\")",
        ]),
        (STEP + "type='nothing'\n[[listeners]]\nprotocol='policy'\nmap='m'\nendpoint='unix:x'\nkey='{key}'\ndefault_action=''\nstage='rcpt'", [
            "8:5: listeners[0].key: unknown variable {key} (known: the attributes of a policy request)",
            "9:16: listeners[0].default_action: an action is one line of text",
            "10:7: listeners[0].stage: 'rcpt' is not 'CONNECT' or 'EHLO' or 'HELO' or 'MAIL' or 'RCPT' or 'DATA'"
            " or 'END-OF-MESSAGE' or 'VRFY' or 'ETRN'",
        ]),
        (STEP + "type='nothing'\n[[listeners]]\nprotocol='policy'\nmap='m'\nendpoint='unix:x'\ndefault_action='" + "x" * 70000 + "'", [
            "8:16: listeners[0].default_action: no reply can carry so long an action",
        ]),
        ("[maps.m]\nlocal_domains=['a@b']\npropagate_extension=true\nresolvers=[{type='nothing'}]", [
            "2:1: maps.m.local_domains: without effect here (it belongs to search = \"address\", \"virtual\", \"canonical\", \"generic\")",
            "2:16: maps.m.local_domains[0]: not a domain (such as \"example.org\", \".example.org\")",
            "3:1: maps.m.propagate_extension: without effect here (it belongs to search = \"virtual\", \"canonical\", \"generic\")",
        ]),
        ("[maps.m]\nsearch='access'\nlocal_domains=['a']\nmatch_subdomains='dot'\nresolvers=[{type='nothing'}]", [
            "3:1: maps.m.local_domains: without effect for search = \"access\" (it belongs to search = \"address\", \"virtual\", \"canonical\", \"generic\")",
        ]),
        (LISTENER + "endpoint='unix:/run/x'", ["6:10: listeners[0].endpoint: tcp_table has no unix sockets (such as \"inet:127.0.0.1:4242\")"]),
        (LISTENER + "endpoint='inet:192.0.2.1:1'", [
            "6:10: listeners[0].endpoint: an endpoint that is not on loopback needs `allow`"
            " (the networks that may connect, such as allow = [\"192.0.2.0/24\"])"
        ]),
        (LISTENER + "endpoint='inet:192.0.2.1:1'\nallow=['192.0.2.1/24', 3]", [
            "7:8: listeners[0].allow[0]: '192.0.2.1/24' has bits set right of its mask (did you mean '192.0.2.0/24'?)",
            "7:24: listeners[0].allow[1]: expected a network such as \"192.0.2.0/24\", not an integer",
        ]),
        (LISTENER + "endpoint='inet:localhost:1'\n[[listeners]]\nmap='m'\nprotocol='tcp_table'\nendpoint='inet:LOCALHOST:01'", [
            "10:10: listeners[1].endpoint: another listener has this endpoint, in line 6 (one socketmap endpoint serves many maps; for the others each has its own)"
        ]),
        (LISTENER + "endpoint='inet:127.0.0.1:1'\nname='a'\n[[listeners]]\nmap='m'\nprotocol='tcp_table'\nendpoint='inet:127.0.0.1:2'\nname='a'", [
            "12:6: listeners[1].name: another listener has this name, in line 7"
        ]),
        (LISTENER + "endpoint='inet:127.0.0.1:1'\nname='a:b'", ["7:6: listeners[0].name: a colon separates names"]),
        (LISTENER + "endpoint='inet:127.0.0.1:1'\nname=''", ["7:6: listeners[0].name: must be 1 to 255 printable ASCII characters"]),
        (LISTENER + "endpoint='inet:127.0.0.1:1'\nprotocl='tcp_table'", [
            "7:1: listeners[0].protocl: unknown key (did you mean 'protocol'?)"
        ]),
        # templates, together with what else is wrong with their step
        (STEP + "type='http'\nurl='http://x/{kee}'\nkey='{value}'\nresult='{value}{x'\nratio=true\njson={a=['{b}', '{key}'], c='{d}'}", [
            "4:5: maps.m.resolvers[0].url: unknown variable {kee} (did you mean {key}?)",
            "5:5: maps.m.resolvers[0].key: unknown variable {value} (known: {key} {local} {user} {extension} {domain} and the attributes of a policy request)",
            "6:8: maps.m.resolvers[0].result: a lone '{' in the template '{value}{x' (a brace is {{ or }})",
            "7:7: maps.m.resolvers[0].ratio: expected a number, not true",
            "8:10: maps.m.resolvers[0].json.a[0]: unknown variable {b} (known: {key} {local} {user} {extension} {domain} and the attributes of a policy request)",
            "8:29: maps.m.resolvers[0].json.c: unknown variable {d} (known: {key} {local} {user} {extension} {domain} and the attributes of a policy request)",
        ]),
        # a byte order mark, CRLF, a tab before the caret
        ("\ufeff[server]\r\n\tgrase = 1\r\n", ["2:2: server.grase: unknown key (did you mean 'grace'?)"]),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_its_place(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert mistakes(tmp_path, text) == expected


def test_two_listeners_may_leave_the_port_to_the_system(tmp_path: Path) -> None:
    listener = '[[listeners]]\nmap="m"\nprotocol="tcp_table"\nendpoint="inet:127.0.0.1:0"\n'
    text = '[maps.m]\nresolvers = [{type = "nothing"}]\n' + 2 * listener
    assert mistakes(tmp_path, text) == []


def test_steps_tests_and_listeners_with_a_mistake_are_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    text = (
        STEP + "type='csv'\n[[maps.m.resolvers]]\ntype='nothing'\n"
        "[[maps.m.tests]]\nkey='a'\n[[maps.m.tests]]\nkey='b'\nexpect='c'\n"
        "[[listeners]]\nmap='m'\nprotocol='tcp_table'\nendpoint='inet:127.0.0.1:1'\n[[listeners]]\nmap='m'\n"
    )
    config, errors = configure(tmp_path, text)
    assert len(errors) == 4
    assert [step.path[-1] for step in config.maps["m"].resolvers] == [1]
    assert [test.path[-1] for test in config.maps["m"].tests] == [1]
    assert len(config.listeners) == 1


def test_a_wrong_option_of_a_map_is_left_at_its_default(tmp_path: Path) -> None:
    config, errors = configure(
        tmp_path, "[maps.m]\ndeadline = -1\nfold = false\nresolvers = [{type='nothing'}]"
    )
    assert len(errors) == 1
    assert (config.maps["m"].deadline, config.maps["m"].fold) == (None, False)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (Unresolvable, "resolver type 'odd' of example-plugin: its options cannot be read: NameError: "),
        (NestsUnresolvable, "resolver type 'odd' of example-plugin: an option of it cannot be read: name "),
        (
            Strange,
            "resolver type 'odd' of example-plugin: an option of it cannot be read: complex is not a type",
        ),
        (
            TakesTimeout,
            "resolver type 'odd' of example-plugin has an option 'timeout', which is every step's own",
        ),
    ],
)
def test_a_type_whose_options_cannot_be_read_is_a_bug_of_its_plugin(
    tmp_path: Path, factory: Any, message: str
) -> None:
    types = {**TYPES, "odd": resolver_type("odd", factory)}
    _, errors = configure(tmp_path, STEP + "type='odd'\ntimeout=0", types=types)
    assert [error.line for error in errors] == [3, 4]
    assert errors[0].message.startswith(message)
    assert configure(tmp_path, STEP + "type='nothing'", types=types)[1] == []


def test_a_validator_that_needs_the_instance_is_left_to_the_construction(tmp_path: Path) -> None:
    types = {"odd": resolver_type("odd", NeedsItself)}
    config, errors = configure(tmp_path, STEP + "type='odd'\nmost=0", types=types)
    assert errors == []
    assert config.maps["m"].resolvers[0].options == {"most": 0}


def test_errors_of_later_phases_are_located_by_their_path(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(STEP + "type='csv'\npath='x'\n")
    document = read_document(file)
    own = ConfigError("not a number", path=("maps", "m", "resolvers", 0, "path"))
    table = ConfigError("no value", path=("maps", "m", "resolvers", 0), file="aliases.csv", line=9)
    unknown = ConfigError("lost", path=("nowhere",))
    locate(document, ConfigErrors([own, table, unknown]))
    assert str(own).splitlines()[0] == f"{file}:4:6: maps.m.resolvers[0].path: not a number"
    assert str(table) == "aliases.csv:9: maps.m.resolvers[0]: no value"
    assert str(unknown) == f"{file}: nowhere: lost"


def test_the_plugins_table_is_read_before_the_rest_and_its_mistakes_are_told_with_the_rest(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text("[plugins]\ndirectory = 'plugins.d'\ndisable = ['a', 'b', 3]\n[maps.m]\n")
    document = read_document(file)
    plugins = plugins_config(document, {})
    assert (plugins.directory, plugins.disable) == (tmp_path / "plugins.d", ())
    assert [error.line for error in structure(document, TYPES, {})[1]] == [3, 4]


@pytest.mark.parametrize("table", ["plugins = 3", "[[plugins]]"])
def test_a_plugins_table_that_is_none_leaves_the_defaults(tmp_path: Path, table: str) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(table)
    assert plugins_config(read_document(file), {}).directory is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a = 1\nb = \n", ":2:5: invalid value\n     2 | b = \n       |     ^"),
        (b"[a]\r\n\tb = 1\r\n\tb = 2\r\n", ":3:7: "),
        (b"\xef\xbb\xbfa = = 1", ":1:5: invalid value\n     1 | a = = 1\n       |     ^"),
        (b"a = 'x", ':1:7: '),
        (b"x = 1\na = '\xe4\xff'", ":2:6: not UTF-8: byte 0xe4 (save the file as UTF-8)\n     2 | a = '"),
        (b"\xff\xfea\0", ":1:1: not UTF-8"),
        (b"a = " + b"[" * 5000, ": TOML inline arrays/tables are nested more than"),
        (b"a = " + b"[" * 100 + b"]" * 100, ": tables or arrays are nested more than 64 levels"),
        (b".".join([b"a"] * 900) + b" = 1", ": tables or arrays are nested more than 64 levels"),
    ],
)  # fmt: skip
def test_what_is_not_toml_is_told_with_its_place(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigErrors) as caught:
        read_document(file)
    assert str(caught.value).startswith(f"{file}{expected}")
    assert len(caught.value.errors) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.toml", "No such file or directory"), (".", "Is a directory"), ("a\0b", "null byte")],
)
def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigErrors, match="cannot read the configuration") as caught:
        read_document(tmp_path / name)
    assert message in str(caught.value)


def test_importing_the_configuration_imports_nothing_slow() -> None:
    import subprocess
    import sys

    code = "import tcpmapkit.config, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "tcpmapkit.config.structure" in loaded
    assert not {"aiohttp", "asyncio", "dns", "jmespath", "rich", "uvloop", "jsonschema"} & set(loaded)
