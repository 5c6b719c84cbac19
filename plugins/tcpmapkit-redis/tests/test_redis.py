"""The resolver type redis, against a real redis-server and against servers that misbehave."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import tcpmapkit_redis

from tcpmapkit import ConfigError, Found, Miss, PermFail, TempFail
from tcpmapkit.shown import show_keys
from tcpmapkit.testing import ask, query, started, step
from tests.real_redis import RedisServer

from .conftest import OwnRedis, free_port, listening, read_command

CANNOT_BE_REACHED = TempFail("Redis cannot be reached")
NOT_READY = TempFail("Redis is not ready")
LOGIN_REFUSED = PermFail("Redis refuses the login")
COMMAND_REFUSED = PermFail("Redis refuses the command")
CLUSTER = PermFail("Redis is a cluster, which is not supported")

start = partial(started, plugins=[tcpmapkit_redis])


def resolver(url: str, options: str = 'get = "virtual:{key}"') -> str:
    return f'type = "redis"\nurl = "{url}"\n{options}'


@pytest.mark.parametrize(
    ("options", "key", "answer"),
    [
        ('get = "virtual:{key}"', "Joe@Example.org", Found("joe@mail.example.org")),
        ('get = "virtual:{key}"', "nobody@example.org", Miss()),
        ('get = "virtual:{key}"', "empty@example.org", Miss()),
        ('get = "virtual:{user}@{domain}"', "joe+lists@example.org", Found("joe@mail.example.org")),
        ('get = "virtual:{user}@{domain}"', "joe", Miss()),
        ('hget = "transport"\nfield = "{domain}"', "joe@example.org", Found("smtp:[192.0.2.25]")),
        ('hget = "transport"\nfield = "{domain}"', "joe@example.com", Miss()),
        ('hget = "transport"', "example.org", Found("smtp:[192.0.2.25]")),
        ('hget = "{domain}"\nfield = "{user}"', "joe@example.net", Found("joé")),
        ('hget = "no such hash"', "example.org", Miss()),
        (
            'members = "members:{key}"',
            "staff@example.org",
            Found("a@x,b@x,ö@x", values=("a@x", "b@x", "ö@x")),
        ),
        ('members = "members:{key}"', "one@example.org", Found("a@x")),
        ('members = "members:{key}"', "nobody@example.org", Miss()),
        ('members = "members:{key}"', "blank@example.org", Miss()),
        (
            'members = "members:{key}"\nresult = "{value}.example.org"',
            "one@example.org",
            Found("a@x.example.org"),
        ),
    ],
)
async def test_what_redis_holds_is_found_and_the_rest_is_a_miss(
    redis_server: RedisServer, store: redis.Redis, options: str, key: str, answer: Found | Miss
) -> None:
    store.set("virtual:joe@example.org", "joe@mail.example.org")
    store.set("virtual:empty@example.org", "")
    store.hset("transport", "example.org", "smtp:[192.0.2.25]")
    store.hset("example.net", "joe", "joé")
    store.sadd("members:staff@example.org", "b@x", "ö@x", "a@x", "")
    store.sadd("members:one@example.org", "a@x")
    store.sadd("members:blank@example.org", "")
    async with start(resolver(redis_server.url, options)) as map:
        assert await ask(map, key) == answer


HOSTILE = [
    "\r\nflushall\r\n",
    "a\0b",
    "*",
    "a b",
    "{key}",
    "${home}",
    "..",
    "' or 1=1",
    "%2e",
    "[ab]?",
    "\\",
    "$6\r\nfoobar",
    "ü@exämple.org",
    "x" * 10_000,
]


@pytest.mark.parametrize("key", HOSTILE, ids=lambda key: ascii(key[:20]))
@pytest.mark.parametrize(
    "options", ['get = "x:{key}"', 'hget = "x"', 'hget = "x:{key}"', 'members = "x:{key}"']
)
async def test_a_hostile_key_reaches_redis_as_data(
    redis_server: RedisServer, store: redis.Redis, key: str, options: str
) -> None:
    async with start(step(resolver(redis_server.url, options), special_keys=True)) as map:
        store.set("x:other", "never")
        assert await ask(map, key) == Miss()
        match options.split()[0]:
            case "get":
                store.set(f"x:{key}", "found")
            case "members":
                store.sadd(f"x:{key}", "found")
            case _:
                store.hset("x" if options == 'hget = "x"' else f"x:{key}", key, "found")
        assert await ask(map, key) == Found("found")
        assert store.dbsize() == 2


async def test_a_key_that_is_no_utf_8_is_a_miss(redis_server: RedisServer) -> None:
    async with start(resolver(redis_server.url)) as map:
        assert await ask(map, "joe\udcff@example.org") == Miss()


@pytest.mark.parametrize("value", [b"caf\xe9", b"two\nlines", b"a\0b"])
@pytest.mark.parametrize("command", ["get", "members"])
async def test_a_value_that_postfix_cannot_be_told_is_a_temporary_failure_and_logged(
    redis_server: RedisServer,
    store: redis.Redis,
    value: bytes,
    command: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    show_keys("hash")
    if command == "get":
        store.set("virtual:joe@example.org", value)
    else:
        store.sadd("virtual:joe@example.org", value)
    async with start(resolver(redis_server.url, command + ' = "virtual:{key}"')) as map:
        assert await ask(map, "joe@example.org") == TempFail("Redis holds what is no value for Postfix")
    assert "joe@example.org" not in caplog.text
    assert re.search(f"{command.upper().replace('MEMBERS', 'SMEMBERS')} for #[0-9a-f]{{12}}", caplog.text)


async def test_a_key_of_another_type_is_a_permanent_failure(
    redis_server: RedisServer, store: redis.Redis
) -> None:
    store.sadd("virtual:joe@example.org", "a")
    async with start(resolver(redis_server.url)) as map:
        assert await ask(map, "joe@example.org") == PermFail("Redis holds another type under this name")
        store.delete("virtual:joe@example.org")
        assert await ask(map, "joe@example.org") == Miss()


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("unix://{0.socket}", Found("database 0")),
        ("unix://{0.socket}?db=5", Found("database 5")),
        ("redis://127.0.0.1:{0.port}", Found("database 0")),
        ("redis://127.0.0.1:{0.port}/5", Found("database 5")),
    ],
)
async def test_each_kind_of_url_is_connected_to(
    redis_server: RedisServer, store: redis.Redis, url: str, answer: Found
) -> None:
    store.set("virtual:a", "database 0")
    with redis.Redis(port=redis_server.port, db=5) as five:
        five.set("virtual:a", "database 5")
    async with start(resolver(url.format(redis_server))) as map:
        assert await ask(map, "a") == answer


async def test_a_database_that_does_not_exist_is_a_permanent_failure(redis_server: RedisServer) -> None:
    async with start(resolver(f"redis://127.0.0.1:{redis_server.port}/4711")) as map:
        assert await ask(map, "a") == PermFail("Redis has no such database")


# Logging in.


@pytest.mark.parametrize(
    ("password", "options", "answer"),
    [
        ("right\n", 'get = "virtual:{key}"', Found("found")),
        ("wrong", 'get = "virtual:{key}"', LOGIN_REFUSED),
        ("right", 'get = "secret:{key}"', COMMAND_REFUSED),
        ("right", 'hget = "virtual:{key}"', COMMAND_REFUSED),
    ],
)
async def test_a_user_gets_what_redis_lets_him_have(
    redis_server: RedisServer, store: redis.Redis, tmp_path: Path, password: str, options: str, answer: object
) -> None:
    store.set("virtual:a", "found")
    store.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">right", "~virtual:*", "+get")
    (tmp_path / "password").write_text(password)
    login = '\nusername = "reader"\npassword_file = "password"'
    async with start(resolver(redis_server.url, options + login), directory=tmp_path) as map:
        assert await ask(map, "a") == answer


async def test_a_server_that_wants_a_password_refuses_who_has_none(
    own_redis: Callable[..., OwnRedis], tmp_path: Path
) -> None:
    server = own_redis(requirepass="right")
    (tmp_path / "password").write_text("right\n")
    async with start(resolver(server.url)) as map:
        assert await ask(map, "a") == LOGIN_REFUSED
    options = 'password_file = "password"\nget = "virtual:{key}"'
    async with start(resolver(server.url, options), directory=tmp_path) as map:
        assert await ask(map, "a") == Miss()


async def test_tls_is_spoken_with_a_server_whose_certificate_is_trusted_and_with_no_other(
    own_redis: Callable[..., OwnRedis], tmp_path: Path
) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    port = free_port()
    own_redis(
        tls_port=str(port),
        tls_cert_file=str(tmp_path / "certificate"),
        tls_key_file=str(tmp_path / "key"),
        tls_auth_clients="no",
    )
    options = 'get = "virtual:{key}"'
    url = f"rediss://localhost:{port}"
    async with start(resolver(url, options + '\nca_file = "ca"'), directory=tmp_path) as map:
        assert await ask(map, "a") == Miss()
    async with start(resolver(url, options)) as map:
        assert await ask(map, "a") == CANNOT_BE_REACHED


# Trouble.


async def test_a_dead_server_is_asked_once_and_at_once(caplog: pytest.LogCaptureFixture) -> None:
    connections = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1

    async with listening(hang_up) as url, start(resolver(url)) as map:
        assert await ask(map, "a") == CANNOT_BE_REACHED
        assert connections == 1
        assert await ask(map, "a") == CANNOT_BE_REACHED
        assert connections == 2
    assert len(caplog.records) == 1, "trouble is logged when it begins"


async def test_a_refused_connection_waits_for_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = []

    async def nap(seconds: float, *_: Any) -> None:
        naps.append(seconds)

    async with start(resolver(f"redis://127.0.0.1:{free_port()}")) as map:
        monkeypatch.setattr("redis.asyncio.retry.sleep", nap)
        assert await ask(map, "a") == CANNOT_BE_REACHED
    assert naps == []


async def test_a_server_that_never_answers_costs_the_steps_time_and_no_connection(
    redis_server: RedisServer, store: redis.Redis
) -> None:
    """The first connection is answered nothing; once it was given up, another is made in its place."""
    store.set("virtual:a", "found")
    silent = True

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if silent:
            await reader.read(-1)
            return
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", redis_server.port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(copy(reader, to_redis))
                both.create_task(copy(from_redis, writer))
        finally:
            to_redis.close()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    options = 'get = "virtual:{key}"\nconnections = 1'
    async with listening(pass_on) as url, start(step(resolver(url, options), timeout="50ms")) as map:
        assert await ask(map, "a") == TempFail("timed out")
        waiting = await asyncio.gather(*(ask(map, "a") for _ in range(3)))
        assert waiting == [TempFail("timed out")] * 3, "those without a connection wait within their time"
        silent = False
        for _ in range(50):  # 50 ms may be short for a busy machine
            if (answer := await ask(map, "a")) == Found("found"):
                break
        assert answer == Found("found")


async def test_the_next_lookup_finds_a_server_that_was_restarted(
    own_redis: Callable[..., OwnRedis], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_redis()
    async with start(resolver(server.url)) as map:
        assert await asyncio.gather(*(ask(map, "a") for _ in range(8))) == [Miss()] * 8
        server.stop()
        assert await ask(map, "a") == CANNOT_BE_REACHED
        server.start()
        assert await ask(map, "a") == Miss()
        server.stop()
        server.start()
        for _ in range(5):  # turns in which the event loop sees that its connections are gone
            await asyncio.sleep(0)
        assert await ask(map, "a") == Miss(), "a connection that broke in the pool is replaced"
    assert [record.getMessage().partition(": Redis cannot be reached")[:2] for record in caplog.records] == [
        ("redis is failing", ": Redis cannot be reached"),
        (caplog.messages[1], ""),
    ]
    assert caplog.messages[1].startswith("redis has recovered")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("-LOADING Redis is loading the dataset in memory", NOT_READY),
        ("-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", NOT_READY),
        ("-CLUSTERDOWN The cluster is down", NOT_READY),
        ("-TRYAGAIN Multiple keys request during rehashing of slot", NOT_READY),
        ("-BUSY Redis is busy running a script.", NOT_READY),
        ("-OOM command not allowed when used memory > 'maxmemory'.", NOT_READY),
        ("-READONLY You can't write against a read only replica.", NOT_READY),
        ("-ERR upstream failure", NOT_READY),
        ("-ERR max number of clients reached", CANNOT_BE_REACHED),
        ("what is this", CANNOT_BE_REACHED),
        ("-MOVED 3999 192.0.2.1:6381", CLUSTER),
        ("-ASK 3999 192.0.2.1:6381", CLUSTER),
        ("-NOAUTH Authentication required.", LOGIN_REFUSED),
        ("-WRONGPASS invalid username-password pair or user is disabled.", LOGIN_REFUSED),
        ("-NOPERM this user has no permissions to run the 'get' command", COMMAND_REFUSED),
        ("-ERR invalid DB index", PermFail("Redis has no such database")),
        ("$5\r\nfound", Found("found")),
        ("$-1", Miss()),
    ],
)
async def test_what_the_server_says_is_told_apart(reply: str, answer: object) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            command = await read_command(reader)
            writer.write(reply.encode() + b"\r\n" if command[0] == b"GET" else b"+OK\r\n")

    async with listening(say) as url, start(resolver(url)) as map:
        assert await ask(map, "a") == answer


async def test_a_hundred_lookups_share_the_connections_there_are(
    redis_server: RedisServer, store: redis.Redis
) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/7"
    async with start(resolver(url, 'get = "virtual:{key}"\nconnections = 3')) as map:
        answers = await asyncio.gather(*(ask(map, f"key{number}", time_left=60) for number in range(100)))
        assert answers == [Miss()] * 100
        assert 1 <= len([one for one in store.client_list() if one["db"] == "7"]) <= 3


async def test_lookups_that_are_given_up_at_any_moment_lose_no_connection(
    redis_server: RedisServer, store: redis.Redis
) -> None:
    store.set("virtual:a", "found")
    async with start(resolver(redis_server.url, 'get = "virtual:{key}"\nconnections = 2')) as map:
        for turns in range(60):
            lookups = [asyncio.ensure_future(ask(map, f"key{number}")) for number in range(5)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for lookup in lookups:
                lookup.cancel()
            await asyncio.gather(*lookups, return_exceptions=True)
        assert (
            await asyncio.gather(*(ask(map, "a", time_left=60) for _ in range(20))) == [Found("found")] * 20
        )


# Options.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "takes exactly one of get, hget and members"),
        ('get = "a"\nmembers = "b"', "takes exactly one of get, hget and members (here are get and members)"),
        ('get = "{kee}"', "unknown variable {kee}"),
        ('get = "a"\nfield = "b"', "field: goes with hget only"),
        ('members = "a"\nseparator = "\\n"', "separator: has NUL, CR or LF"),
        ('get = "a"\nconnections = 0', "connections"),
        ('get = "a"\nconections = 2', "did you mean"),
        ('get = "a"\nurl = "http://127.0.0.1"', "is not a redis://, rediss:// or unix:// URL"),
        ('get = "a"\nurl = "redis://joe:geheim@127.0.0.1"', "holds a user name or password"),
        ('get = "a"\nurl = "redis://127.0.0.1:x"', "has a bad port"),
        ('get = "a"\nurl = "redis://127.0.0.1/x"', "names a database that is no number"),
        ('get = "a"\nurl = "redis://127.0.0.1?password=geheim"', "unknown option 'password'"),
        ('get = "a"\nurl = "unix://relative.sock"', "names no absolute path"),
        ('get = "a"\nusername = "joe"', "username: goes with password_file only"),
        ('get = "a"\nca_file = "ca"', "ca_file: goes with a rediss:// url only"),
        ('get = "a"\npassword_file = "none"', "No such file"),
        ('get = "a"\npassword_file = "empty"', "has no password on its first line"),
        ('get = "a"\nurl = "rediss://localhost"\nca_file = "none"', "No such file"),
        ('get = "a"\nurl = "rediss://localhost"\nca_file = "empty"', "holds no certificates in PEM form"),
    ],
)
async def test_a_mistake_in_the_options_is_told_and_no_secret_with_it(
    tmp_path: Path, options: str, message: str
) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError) as raised:
        async with start(f'type = "redis"\n{options}', directory=tmp_path):
            pass
    assert message in str(raised.value)
    assert "geheim" not in str(raised.value)


async def test_the_reason_of_a_failure_names_neither_server_nor_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    async with start(resolver(f"redis://127.0.0.1:{port}")) as map:
        failure = await ask(map, query("joe@example.org"))
    assert isinstance(failure, TempFail)
    assert str(port) not in failure.reason
    assert str(port) in caplog.text, "the log has it"
