"""``[[listeners.tests]]``: requests and their actions, run by check and by plugins' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tcpmapkit import Found
from tcpmapkit.cli import main
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.protocols.policy import MAX_REPLY
from tcpmapkit.testing import ask, started_file

SITE = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:4242"
map = "plain"

[[listeners]]
protocol = "policy"
endpoint = "inet:127.0.0.1:4243"
map = "pairs"
key = "{client_address}/{sender}"
default_action = "DUNNO"
stage = "RCPT"
TESTS

[maps.plain]
resolvers = [{ type = "static", value = "x" }]
[[maps.plain.tests]]
key = "any"
expect = "x"

[maps.pairs]
[[maps.pairs.resolvers]]
type = "static"
[maps.pairs.resolvers.entries]
"192.0.2.7/" = "REJECT spam"
"192.0.2.8/joe@example.org" = "DUNNO"
"/" = "WARN nobody"
"long/" = "LONG"
[[maps.pairs.resolvers]]
type = "rules"
rules = [{ action = "HOLD", when = [{ attribute = "size", compare = "> 5" }] }]
[[maps.pairs.resolvers]]
type = "http"
url = "http://127.0.0.1:1/"
params = { key = "{sender}" }
domains = ["example.net"]
""".replace("LONG", "x" * MAX_REPLY)


def written(attributes: str, expect: str) -> str:
    return f"[[listeners.tests]]\nattributes = {{ {attributes} }}\nexpect = {expect}\n"


def check(directory: Path, tests: str, *options: str) -> Result:
    file = directory / "tcpmapkit.toml"
    file.write_text(SITE.replace("TESTS", tests))
    return CliRunner().invoke(main, ["check", "-c", str(file), *options], catch_exceptions=False)


RIGHT = [
    ('client_address = "192.0.2.7", sender = ""', '"REJECT spam"'),
    ('client_address = "192.0.2.7"', '"REJECT spam"'),
    ("", '"WARN nobody"'),
    ('client_address = "203.0.113.1"', "false"),
    ('client_address = "203.0.113.1"', '"DUNNO"'),
    ('client_address = "192.0.2.8", sender = "Joe@Example.org"', "false"),
    ('client_address = "192.0.2.8", sender = "joe@example.org"', '"DUNNO"'),
    ('client_address = "192.0.2.8", sender = "joe@example.org"', '"dunno because"'),
    ('client_address = "203.0.113.1", size = "6"', '"HOLD"'),
    ('client_address = "203.0.113.1", size = "5", unheard_of = "x"', "false"),
]


def test_right_answers_are_counted_with_those_of_the_maps(tmp_path: Path) -> None:
    result = check(tmp_path, "".join(written(*one) for one in RIGHT))
    assert result.exit_code == 0, result.stderr
    assert result.stderr.endswith(f": 2 maps, {len(RIGHT) + 1} tests passed\n")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("attributes", "expect", "message"),
    [
        ('client_address = "192.0.2.7"', '"REJECT"', "the request gives 'REJECT spam', not 'REJECT'"),
        ('client_address = "192.0.2.7"', "false", "the request gives 'REJECT spam', not 'DUNNO'"),
        ('client_address = "192.0.2.7"', '"DUNNO"', "the request gives 'REJECT spam', not 'DUNNO'"),
        ('client_address = "203.0.113.1"', '"OK"', "the request gives 'DUNNO', not 'OK'"),
        ('client_address = "203.0.113.1", size = "6"', '"hold"', "the request gives 'HOLD', not 'hold'"),
        (
            'client_address = "long"',
            '"x"',
            "the request gives no reply: the action is too long for a reply",
        ),
    ],
)
def test_a_wrong_answer_is_an_error_at_its_place(
    tmp_path: Path, attributes: str, expect: str, message: str
) -> None:
    result = check(tmp_path, written("", '"WARN nobody"') + written(attributes, expect))
    assert result.exit_code == 78
    line = SITE[: SITE.index("TESTS")].count("\n") + 6
    place = f"{tmp_path}/tcpmapkit.toml:{line}:10: listeners[1].tests[1].expect: "
    assert result.stderr.startswith(f"{place}{message}\n")
    assert f"| expect = {expect}\n" in result.stderr


FAILING = written('client_address = "203.0.113.1", sender = "x@example.net"', "false")


def test_a_lookup_that_fails_is_a_warning_whatever_the_default_action_is(tmp_path: Path) -> None:
    result = check(tmp_path, FAILING + written(*RIGHT[0]))
    assert result.exit_code == 0
    [warning] = [line for line in result.stderr.splitlines() if "listeners[1].tests[0].attributes: " in line]
    assert warning.startswith("warning: ")
    assert "the request could not be answered: " in warning
    assert result.stderr.splitlines()[-1].endswith("2 maps, 2 tests passed, 1 could not be run")


def test_offline_it_is_left_out(tmp_path: Path) -> None:
    result = check(tmp_path, FAILING + written(*RIGHT[0]), "--offline")
    assert result.exit_code == 0
    assert result.stderr.endswith("2 maps, 2 tests passed, 1 left out (offline)\n")


def test_a_key_that_no_map_is_asked_is_a_failure(tmp_path: Path) -> None:
    result = check(tmp_path, written(f'client_address = "{"x" * 10_000}"', "false"))
    assert result.exit_code == 0
    assert "the request could not be answered: key too long" in result.stderr


async def test_the_tests_of_a_plugins_author_run_them_too() -> None:
    async with started_file(SITE.replace("TESTS", "".join(written(*one) for one in RIGHT))) as maps:
        assert await ask(maps["pairs"], "192.0.2.7/") == Found("REJECT spam")
    for wrong in (written("", '"OK"'), FAILING):
        with pytest.raises(ConfigErrors, match=r"the request"):
            async with started_file(SITE.replace("TESTS", wrong)):
                pass
    async with started_file(SITE.replace("TESTS", written("", '"OK"')), run_tests=False):
        pass
