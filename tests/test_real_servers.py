"""The real servers that other tests lean on: each is there, private, and tells its answers apart."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.real_postfix import Postfix
from tests.real_redis import RedisServer


@pytest.fixture
def table(tmp_path: Path) -> Path:
    table = tmp_path / "table"
    table.write_text("a@example.org  one, two\nümlaut@example.org drei\n")
    return table


def test_postfix_has_the_map_types_that_the_tests_compare_with(postfix: Postfix) -> None:
    assert {"tcp", "socketmap", "texthash", "cidr", "regexp", "pcre"} <= postfix.map_types


@pytest.mark.parametrize(
    ("rule", "key", "value"),
    [
        ("pcre", "A@example.org", "seen"),
        ("regexp", "A@example.org", "seen"),
        ("texthash", "a@example.org", "seen"),
        ("cidr", "192.0.2.7", "seen"),
    ],
)
def test_each_kind_of_table_is_read(
    postfix: Postfix, tmp_path: Path, rule: str, key: str, value: str
) -> None:
    lines = {"texthash": "a@example.org", "cidr": "192.0.2.0/24"}
    (tmp_path / "table").write_text(lines.get(rule, "/^a@/") + " seen\n")
    assert postfix.ask(f"{rule}:{tmp_path}/table", [key, "other@example.org"]) == {
        key: value,
        "other@example.org": None,
    }


def test_many_keys_are_asked_in_one_run(postfix: Postfix, table: Path) -> None:
    keys = ["a@example.org", "b@example.org", "ümlaut@example.org", "b@example.org", "\udcff@example.org"]
    assert postfix.ask(f"texthash:{table}", keys) == {
        "a@example.org": "one, two",
        "b@example.org": None,
        "ümlaut@example.org": "drei",
        "\udcff@example.org": None,
    }


@pytest.mark.parametrize("key", ["a\tb", "a\nb", "a\0b"])
def test_a_key_that_postmap_cannot_be_told_is_refused(postfix: Postfix, table: Path, key: str) -> None:
    with pytest.raises(ValueError, match="cannot be asked"):
        postfix.ask(f"texthash:{table}", [key])


def test_a_table_that_cannot_be_read_is_no_miss(postfix: Postfix, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No such file"):
        postfix.ask(f"texthash:{tmp_path}/none", ["a"])


def test_a_miss_says_nothing_on_standard_error(postfix: Postfix, table: Path) -> None:
    missed = postfix.postmap("-q", "nobody@example.org", f"texthash:{table}")
    assert (missed.returncode, missed.stdout, missed.stderr) == (1, b"", b"")


async def test_postmap_asks_a_server_in_the_tests_own_loop(postfix: Postfix) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            writer.write(b"200 seen\n" if request == b"get key\n" else b"500 not%20found\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        table = f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert (await postfix.apostmap("-q", "key", table)).stdout == b"seen\n"
        assert await postfix.aask(table, ["key", "other"]) == {"key": "seen", "other": None}


def test_redis_listens_on_the_loopback_and_on_a_unix_socket(redis_server: RedisServer) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.settimeout(10)
        unix.connect(str(redis_server.socket))
        unix.sendall(b"PING\r\n")
        assert unix.recv(16) == b"+PONG\r\n"
    with socket.create_connection(("127.0.0.1", redis_server.port), timeout=10) as inet:
        inet.sendall(b"DBSIZE\r\n")
        assert inet.recv(16).startswith(b":")


async def test_an_async_test_runs_on_the_loop_it_is_named_after(request: pytest.FixtureRequest) -> None:
    module = type(asyncio.get_running_loop()).__module__
    assert module.startswith("uvloop") == ("uvloop" in request.node.callspec.id)


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_a_test_may_ask_for_one_loop_only() -> None:
    assert type(asyncio.get_running_loop()).__module__.startswith("asyncio")
