"""The admin endpoint over real sockets: who is let in, what is refused, and what slow clients cost."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tcpmapkit.admin import endpoint as admin_endpoint
from tcpmapkit.admin.endpoint import MOST_CONNECTIONS, AdminEndpoint
from tcpmapkit.admin.guard import LONGEST_BODY, ROUTES, asks_here
from tcpmapkit.admin.token import Token, read_token
from tcpmapkit.config import AdminConfig, Endpoint
from tcpmapkit.errors import ConfigError
from tcpmapkit.listener import Address
from tests.documents import TOP
from tests.endpoints import until

TOKEN = "0123456789abcdef-the-token"

CONTROL = TOP / "docs" / "control.md"

Command = dict[str, Any]


def token_file(directory: Path, text: str = TOKEN + "\n", mode: int = 0o600) -> Path:
    file = directory / "token"
    file.write_text(text)
    file.chmod(mode)
    return file


@attrs.define(eq=False)
class Answers:
    """What a server would answer; `asked` is what it was asked, `held` what it waits for before."""

    answer: Callable[[Command], dict[str, Any]] = lambda command: {"asked": command["command"]}
    asked: list[Command] = attrs.Factory(list)
    held: asyncio.Event | None = None

    async def all(self, command: Command) -> list[dict[str, Any]]:
        self.asked.append(command)
        if self.held is not None:
            await self.held.wait()
        return [self.answer(command)]


@asynccontextmanager
async def serving(config: AdminConfig, answers: Answers) -> AsyncIterator[AdminEndpoint]:
    endpoint = AdminEndpoint(config, answers.all, answers_one(answers))
    endpoint.bind()
    await endpoint.start()
    try:
        yield endpoint
    finally:
        await endpoint.stop()


def answers_one(answers: Answers) -> Callable[[Command], Any]:
    async def one(command: Command) -> dict[str, Any]:
        return (await answers.all(command))[0]

    return one


def on_unix(directory: Path, **options: Any) -> AdminConfig:
    return AdminConfig(Endpoint("unix", path=str(directory / "admin.sock")), **options)


def on_inet(directory: Path) -> AdminConfig:
    return AdminConfig(Endpoint("inet", "127.0.0.1", 0), token_file=token_file(directory))


async def connect(endpoint: AdminEndpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    [address] = endpoint.addresses
    return await connect_to(address)


async def connect_to(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if len(address) == 1:
        return await asyncio.open_unix_connection(address[0])
    return await asyncio.open_connection(*address)


async def send(endpoint: AdminEndpoint, request: bytes) -> bytes:
    """All that comes back for these bytes until the server hangs up."""
    reader, writer = await connect(endpoint)
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@attrs.frozen
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        assert self.headers["content-type"].startswith("application/json")
        answer = json.loads(self.body)
        assert isinstance(answer, dict)
        return answer


def parsed(raw: bytes) -> Response:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Response(int(first.split(" ")[1]), headers, body)


async def ask(
    endpoint: AdminEndpoint,
    target: str,
    method: str = "GET",
    body: bytes = b"",
    host: str = "localhost",
    token: str | None = TOKEN,
    headers: tuple[str, ...] = (),
) -> Response:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    lines += [f"Authorization: Bearer {token}"] if token is not None else []
    if body:
        lines += [f"Content-Length: {len(body)}"]
        lines += (
            []
            if any("content-type" in line.lower() for line in lines)
            else ["Content-Type: application/json"]
        )
    return parsed(await send(endpoint, "\r\n".join([*lines, "", ""]).encode("latin-1") + body))


@pytest.fixture(params=["unix", "inet"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> AdminConfig:
    return on_unix(tmp_path) if request.param == "unix" else on_inet(tmp_path)


@pytest.fixture
def inet(tmp_path: Path) -> AdminConfig:
    return on_inet(tmp_path)


# Answers.


async def test_a_question_is_answered_as_json_and_the_connection_closed(config: AdminConfig) -> None:
    answers = Answers()
    async with serving(config, answers) as endpoint:
        response = await ask(endpoint, "/v1/status")
    assert (response.status, response.json) == (200, {"asked": "status"})
    assert response.headers["connection"] == "close"
    assert response.headers["cache-control"] == "no-store"
    assert "aiohttp" not in str(response.headers).lower()
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_parameters_come_in_the_query_or_as_json(config: AdminConfig) -> None:
    answers = Answers()
    expected = {"command": "lookup", "map": "aliases", "key": "ö+1@example.org", "explain": True}
    body = json.dumps({"map": "aliases", "key": "ö+1@example.org", "explain": True}).encode()
    async with serving(config, answers) as endpoint:
        await ask(endpoint, "/v1/lookup?map=aliases&key=%C3%B6%2B1@example.org&explain=1")
        await ask(endpoint, "/v1/lookup?map=aliases&key=%C3%B6%2B1@example.org&explain")
        await ask(endpoint, "/v1/lookup", "POST", body)
    assert answers.asked == [expected] * 3


async def test_whether_it_is_ready_is_a_status(config: AdminConfig) -> None:
    answers = Answers(lambda command: {"ready": False})
    async with serving(config, answers) as endpoint:
        assert (await ask(endpoint, "/livez")).status == 200
        assert answers.asked == [], "alive is whoever answers"
        assert (await ask(endpoint, "/readyz")).status == 503
        answers.answer = lambda command: {"ready": True}
        assert (await ask(endpoint, "/readyz")).status == 200


async def test_a_reload_that_is_refused_is_a_status_and_tells_the_errors(config: AdminConfig) -> None:
    answer = {"ok": False, "errors": ["tcpmapkit.toml:1:1: no"], "warnings": [], "changed": []}
    async with serving(config, Answers(lambda command: answer)) as endpoint:
        response = await ask(endpoint, "/v1/reload", "POST", b'{"force": true}')
    assert (response.status, response.json) == (422, answer)


@pytest.mark.parametrize(("kind", "status"), [("request", 400), ("unknown", 404), ("unavailable", 503)])
async def test_an_error_of_a_command_is_a_status(config: AdminConfig, kind: str, status: int) -> None:
    answers = Answers(lambda command: {"error": "no", "kind": kind})
    async with serving(config, answers) as endpoint:
        response = await ask(endpoint, "/v1/lookup?map=a&key=b")
    assert (response.status, response.json["error"]) == (status, "no")


async def test_head_has_no_body(config: AdminConfig) -> None:
    async with serving(config, Answers()) as endpoint:
        response = await ask(endpoint, "/v1/status", "HEAD")
    assert (response.status, response.body) == (200, b"")


# Refusals.


@pytest.mark.parametrize(
    "authorization",
    [
        (),
        ("Authorization: Bearer wrong",),
        (f"Authorization: Bearer {TOKEN}x",),
        (f"Authorization: Bearer {TOKEN[:-1]}",),
        (f"Authorization: Basic {TOKEN}",),
        (f"Authorization: {TOKEN}",),
        ("Authorization: Bearer",),
        ("Authorization: Bearer ",),
        (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer wrong"),
        ("Authorization: Bearer \xff",),
        (f"X-Token: {TOKEN}",),
    ],
)
@pytest.mark.parametrize("target", ["/v1/status", "/metrics", "/livez", "/v1/reload", "/nothing"])
async def test_without_the_token_nothing_is_told(
    inet: AdminConfig, authorization: tuple[str, ...], target: str
) -> None:
    answers = Answers()
    async with serving(inet, answers) as endpoint:
        response = await ask(endpoint, target, token=None, headers=authorization)
    assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
    assert answers.asked == []


async def test_a_token_in_the_query_is_none(inet: AdminConfig) -> None:
    async with serving(inet, Answers()) as endpoint:
        assert (await ask(endpoint, f"/v1/status?token={TOKEN}", token=None)).status == 401


async def test_a_unix_socket_asks_for_a_token_when_it_has_one(tmp_path: Path) -> None:
    async with serving(on_unix(tmp_path, token_file=token_file(tmp_path)), Answers()) as endpoint:
        assert (await ask(endpoint, "/v1/status", token=None)).status == 401
        assert (await ask(endpoint, "/v1/status")).status == 200


@pytest.mark.parametrize(
    ("hosts", "ours"),
    [
        (["localhost"], True),
        (["LOCALHOST:9042"], True),
        (["127.0.0.1"], True),
        (["127.0.0.1:80"], True),
        (["[::1]:9042"], True),
        (["127.0.0.9:9042"], True),
        ([], False),
        ([""], False),
        (["attacker.example.com"], False),
        (["attacker.example.com:9042"], False),
        (["localhost.example.com"], False),
        (["localhost:9042@example.com"], False),
        (["example.com/localhost"], False),
        (["127.0.0.1.example.com"], False),
        (["192.0.2.1"], False),
        (["localhost:"], False),
        (["localhost:99999999"], False),
        (["localhost", "attacker.example.com"], False),
        (["localhost", "localhost"], False),
        (["localhost, attacker.example.com"], False),
        (["::1"], False),
    ],
)
def test_only_this_hosts_own_names_are_asked_for(hosts: list[str], ours: bool) -> None:
    assert asks_here(hosts, "127.0.0.9") is ours


def test_the_endpoints_own_address_is_one_of_its_names() -> None:
    assert asks_here(["[::2]:1"], "::2")
    assert not asks_here(["[::2]:1"], "")
    assert not asks_here(["x"], "")


@pytest.mark.parametrize("host", ["attacker.example.com", "attacker.example.com:9042", "192.0.2.1", ""])
async def test_a_foreign_host_is_refused_even_with_the_token(config: AdminConfig, host: str) -> None:
    answers = Answers()
    async with serving(config, answers) as endpoint:
        response = await ask(endpoint, "/v1/status", host=host)
    assert response.status == 403
    assert "error" in response.json
    assert answers.asked == []


async def test_a_request_without_host_or_with_two_is_refused(config: AdminConfig) -> None:
    answers = Answers()
    token = f"Authorization: Bearer {TOKEN}\r\n".encode()
    async with serving(config, answers) as endpoint:
        for head in (
            b"GET /v1/status HTTP/1.0\r\n",
            b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example.com\r\n",
        ):
            assert parsed(await send(endpoint, head + token + b"\r\n")).status in (400, 403)
    assert answers.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//",
        "//v1/status",
        "/v1//status",
        "/v1/status/",
        "/v1/./status",
        "/v1/../v1/status",
        "/livez/../v1/status",
        "/../../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/v1/%73tatus",
        "/v1%2Fstatus",
        "/v1/status%00",
        "/v1/status;x",
        "/v1/status#x",
        "/V1/STATUS",
        "/v1\\status",
        "http://localhost/v1/status",
        "http://attacker.example.com/v1/status",
        "*",
    ],
)
async def test_a_path_is_taken_as_it_is(config: AdminConfig, target: str) -> None:
    answers = Answers()
    async with serving(config, answers) as endpoint:
        response = await ask(endpoint, target)
    assert response.status in (400, 404)
    assert "error" in response.json
    assert answers.asked == []


@pytest.mark.parametrize(
    ("target", "method", "allowed"),
    [
        ("/v1/purge?map=aliases", "GET", "POST"),
        ("/v1/reload", "GET", "POST"),
        ("/v1/reload", "PUT", "POST"),
        ("/v1/reload", "HEAD", "POST"),
        ("/v1/status", "POST", "GET, HEAD"),
        ("/v1/status", "DELETE", "GET, HEAD"),
        ("/v1/status", "OPTIONS", "GET, HEAD"),
        ("/v1/status", "TRACE", "GET, HEAD"),
        ("/metrics", "POST", "GET, HEAD"),
    ],
)
async def test_what_changes_something_is_done_by_post_alone(
    config: AdminConfig, target: str, method: str, allowed: str
) -> None:
    answers = Answers()
    async with serving(config, answers) as endpoint:
        response = await ask(endpoint, target, method)
    assert (response.status, response.headers["allow"]) == (405, allowed)
    assert answers.asked == []


async def test_a_body_that_is_too_long_is_refused_before_it_has_come(config: AdminConfig) -> None:
    answers = Answers()
    head = f"POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    sizes = b"Content-Length: %d\r\n\r\n" % (LONGEST_BODY + 1)
    chunk = b"%x\r\n%s\r\n" % (LONGEST_BODY // 2 + 1, b"x" * (LONGEST_BODY // 2 + 1))
    async with serving(config, answers) as endpoint:
        assert parsed(await send(endpoint, head + sizes)).status == 413
        chunked = await send(endpoint, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        assert parsed(chunked).status == 413
    assert answers.asked == []


async def test_a_body_that_would_become_long_is_not_unpacked(config: AdminConfig) -> None:
    answers = Answers()
    bomb = gzip.compress(json.dumps({"map": "x" * 10_000_000}).encode())
    assert len(bomb) < LONGEST_BODY
    async with serving(config, answers) as endpoint:
        response = await ask(endpoint, "/v1/purge", "POST", bomb, headers=("Content-Encoding: gzip",))
    assert response.status == 400
    assert answers.asked == []


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/purge", b""),
        ("/v1/purge", b"{"),
        ("/v1/purge", b"[]"),
        ("/v1/purge", b"\xff"),
        ("/v1/purge", b"[" * 100_000),
        ("/v1/purge", b'{"key": "x"}'),
        ("/v1/purge", b'{"map": 1}'),
        ("/v1/purge", b'{"map": "a", "key": null}'),
        ("/v1/purge", b'{"map": "a", "command": "reload"}'),
        ("/v1/reload", b'{"force": "yes"}'),
        ("/v1/lookup", b'{"policy": "p", "attributes": {"a": 1}}'),
        ("/v1/lookup", b'{"policy": "p", "attributes": []}'),
        ("/v1/lookup?explain=perhaps", b""),
        ("/v1/lookup?map=a&map=b", b""),
        ("/v1/lookup?key=%ff", b""),
        ("/v1/lookup?command=reload", b""),
        ("/v1/lookup?" + "&".join(f"x{number}=1" for number in range(40)), b""),
    ],
)
async def test_parameters_that_are_none_are_refused(config: AdminConfig, target: str, body: bytes) -> None:
    answers = Answers()
    async with serving(config, answers) as endpoint:
        response = await ask(endpoint, target, "POST", body)
    assert response.status == 400
    assert "error" in response.json
    assert answers.asked == []


async def test_a_form_of_a_web_page_is_refused(config: AdminConfig) -> None:
    answers = Answers()
    async with serving(config, answers) as endpoint:
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            response = await ask(
                endpoint, "/v1/reload", "POST", b'{"force": true}', headers=(f"Content-Type: {kind}",)
            )
            assert response.status == 415
    assert answers.asked == []


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"get key@example.org\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
        b"GET /v1/status?key=secret@example.org HTTP/9.9\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 2000 + b"\r\n",
        b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_not_shown(
    config: AdminConfig, bytes_sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = Answers()
    async with serving(config, answers) as endpoint:
        response = parsed(await send(endpoint, bytes_sent))
    assert (response.status, response.json) == (400, {"error": "that is not HTTP"})
    assert response.headers["server"] == "tcpmapkit"
    assert answers.asked == []
    assert "example.org" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_bug_is_told_without_what_was_asked(
    config: AdminConfig, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(command: Command) -> dict[str, Any]:
        raise ValueError(f"what about {command['key']}")

    async with serving(config, Answers(fail)) as endpoint:
        response = await ask(endpoint, "/v1/lookup?map=aliases&key=joe@example.org")
    assert (response.status, response.json) == (500, {"error": "internal error: see the log"})
    assert "ValueError" in caplog.text
    assert "in fail" in caplog.text
    assert "joe@example.org" not in caplog.text


async def test_no_line_of_the_log_has_a_key_or_the_token(
    config: AdminConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(config, Answers()) as endpoint:
        await ask(endpoint, "/v1/lookup?map=aliases&key=joe@example.org")
        await ask(endpoint, "/v1/purge", "POST", b'{"map": "aliases", "key": "joe@example.org"}')
        await ask(endpoint, "/v1/status", token="another-secret")
    assert "joe" not in caplog.text
    assert TOKEN not in caplog.text
    assert "another-secret" not in caplog.text


async def test_who_is_not_let_in_is_logged_once_a_minute(
    inet: AdminConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(inet, Answers()) as endpoint:
        for _ in range(3):
            await ask(endpoint, "/v1/status", token=None)
            await ask(endpoint, "/v1/status", token="guessed")
            await ask(endpoint, "/v1/status", host="attacker.example.com")
    refused = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    assert refused == [
        "admin: a request without the token was refused",
        "admin: a request with a wrong token was refused",
        "admin: a request for a foreign Host was refused",
    ]


# Slow clients, and many.


async def test_a_request_that_does_not_come_in_is_given_up(
    config: AdminConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_endpoint, "READING_TIME", 0.05)
    async with serving(config, Answers()) as endpoint:
        for part in (
            b"",
            b"GET /v1/status HTTP/1.1\r\nHost: local",
            b"POST /v1/purge HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            + TOKEN.encode()
            + b"\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{",
        ):
            came = await send(endpoint, part)
            assert came == b"" or parsed(came).status == 408
        assert (await ask(endpoint, "/v1/status")).status == 200


async def test_a_response_that_is_not_taken_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_endpoint, "SENDING_TIME", 0.05)
    long = Answers(lambda command: {"long": "x" * 50_000_000})
    async with serving(on_unix(tmp_path), long) as endpoint:
        reader, writer = await connect(endpoint)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: bool(long.asked))
        await until(lambda: not endpoint._open)
        writer.close()


async def test_a_command_may_take_its_time(config: AdminConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_endpoint, "READING_TIME", 0.05)
    answers = Answers(held=asyncio.Event())
    async with serving(config, answers) as endpoint:
        asked = asyncio.ensure_future(ask(endpoint, "/v1/reload", "POST"))
        await until(lambda: bool(answers.asked))
        assert await send(endpoint, b"") == b""  # one that came later, and whose time is up
        answers.answer = lambda command: {"ok": True}
        answers.held.set()  # type: ignore[union-attr]
        assert (await asked).status == 200


async def test_connections_without_a_request_make_room(
    config: AdminConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_endpoint, "_NEW", 0.0)
    async with serving(config, Answers()) as endpoint:
        idle = [await connect(endpoint) for _ in range(MOST_CONNECTIONS * 2)]
        assert (await ask(endpoint, "/v1/status")).status == 200
        assert len(endpoint._open) <= MOST_CONNECTIONS
        for _, writer in idle:
            writer.close()


async def test_one_who_asks_in_a_burst_of_those_who_do_not_is_answered(
    inet: AdminConfig, caplog: pytest.LogCaptureFixture
) -> None:
    request = f"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    async with serving(inet, Answers()) as endpoint:
        for _ in range(3):  # each in one turn of the loop
            burst = [socket.create_connection(endpoint.addresses[0]) for _ in range(MOST_CONNECTIONS * 2)]
            asking = burst[MOST_CONNECTIONS // 2]
            asking.sendall(request.encode())
            reader, writer = await asyncio.open_connection(sock=asking)
            async with asyncio.timeout(10):
                assert parsed(await reader.read()).status == 200
            writer.close()
            for one in burst:
                if one is not asking:
                    one.close()
        await until(lambda: not endpoint._open)
    assert caplog.records == []


async def test_a_flood_is_bounded_and_logged_once_a_minute(
    inet: AdminConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_endpoint, "_NEW", 60.0)
    async with serving(inet, Answers()) as endpoint:
        flood = [socket.create_connection(endpoint.addresses[0]) for _ in range(300)]
        await until(lambda: "one more is closed" in caplog.text)
        await until(lambda: len(endpoint._open) == admin_endpoint._MOST_WITH_NEW and not endpoint._arriving)
        monkeypatch.setattr(admin_endpoint, "_NEW", 0.0)  # they are new no more
        assert (await ask(endpoint, "/v1/status")).status == 200
        await until(lambda: len(endpoint._open) < MOST_CONNECTIONS)
        for one in flood:
            one.close()
    assert len([one for one in caplog.records if "one more is closed" in one.getMessage()]) == 1


async def test_commands_under_way_are_never_ended_to_make_room(
    config: AdminConfig, caplog: pytest.LogCaptureFixture
) -> None:
    answers = Answers(held=asyncio.Event())
    async with serving(config, answers) as endpoint:
        asked = [asyncio.ensure_future(ask(endpoint, "/v1/status")) for _ in range(MOST_CONNECTIONS)]
        await until(lambda: len(answers.asked) == MOST_CONNECTIONS)
        assert await send(endpoint, b"") == b""
        answers.held.set()  # type: ignore[union-attr]
        assert {response.status for response in await asyncio.gather(*asked)} == {200}
    assert "one more is closed" in caplog.text


async def test_pipelined_requests_after_the_first_are_not_answered(config: AdminConfig) -> None:
    answers = Answers()
    one = f"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    async with serving(config, answers) as endpoint:
        assert (await send(endpoint, one * 5)).count(b"HTTP/1.1 ") == 1
    assert len(answers.asked) == 1


async def test_stopping_lets_an_answer_be_sent_and_waits_for_nobody_else(config: AdminConfig) -> None:
    answers = Answers(held=asyncio.Event())
    endpoint = AdminEndpoint(config, answers.all)
    endpoint.bind()
    await endpoint.start()
    [address] = endpoint.addresses
    _, idle = await connect(endpoint)
    asked = asyncio.ensure_future(ask(endpoint, "/v1/tables"))
    await until(lambda: bool(answers.asked))
    stopping = asyncio.ensure_future(endpoint.stop())
    await until(lambda: not endpoint.addresses)
    answers.answer = lambda command: {"tables": []}
    answers.held.set()  # type: ignore[union-attr]
    assert (await asked).json == {"tables": []}
    await stopping
    idle.close()
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        await connect_to(address)


async def test_a_connection_that_was_accepted_elsewhere_is_served(tmp_path: Path) -> None:
    endpoint = AdminEndpoint(on_inet(tmp_path), Answers().all)
    await endpoint.start()
    ours, theirs = socket.socketpair()
    endpoint.serve_connection(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(f"GET /livez HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    assert parsed(await reader.read()).status == 200
    writer.close()
    await endpoint.stop()


# The token.


@pytest.mark.parametrize(
    ("text", "mode", "wrong"),
    [
        ("", 0o600, "not one token"),
        ("\n \n", 0o600, "not one token"),
        ("two words", 0o600, "not one token"),
        ("two\nlines", 0o600, "not one token"),
        ("töken", 0o600, "not one token"),
        ("x" * 5000, 0o600, "not one token"),
        (TOKEN, 0o644, "every user of this host can read the token"),
        (TOKEN, 0o604, "every user of this host can read the token"),
    ],
)
def test_a_file_that_is_no_good_for_a_token_is_refused(
    text: str, mode: int, wrong: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=wrong) as raised:
        read_token(token_file(tmp_path, text, mode))
    assert raised.value.path == ("admin", "token_file")
    assert "öken" not in str(raised.value)


def test_a_token_file_that_is_missing_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "none")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_token(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_token(tmp_path / "fifo")


def test_a_group_may_read_the_token(tmp_path: Path) -> None:
    assert read_token(token_file(tmp_path, f" {TOKEN}\r\n", 0o640)) == TOKEN


def test_a_token_is_read_anew_when_its_file_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = token_file(tmp_path)
    token = Token(file)
    assert token.is_right(TOKEN)
    assert not token.is_right("new-token")
    file.write_text("new-token")
    assert token.is_right("new-token")
    assert not token.is_right(TOKEN)
    assert "new-token" not in caplog.text
    assert TOKEN not in f"{token!r}"


def test_a_token_stays_when_its_file_is_no_good_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = token_file(tmp_path)
    token = Token(file)
    file.write_text("")
    assert token.is_right(TOKEN)
    assert not token.is_right("")
    file.unlink()
    assert token.is_right(TOKEN)
    assert caplog.text.count("the token stays as it was") == 1
    token_file(tmp_path, "new-token")
    assert token.is_right("new-token")


def test_every_route_that_changes_something_is_post_only() -> None:
    assert {path for path, route in ROUTES.items() if route.changes} == {"/v1/purge", "/v1/reload"}
    assert all(route.methods == ("POST",) for route in ROUTES.values() if route.changes)


def test_the_manual_has_every_path_with_its_methods_and_parameters() -> None:
    rows = re.findall(r"^\| `(/\S+)` \| ([A-Z, ]+) \| ([^|]*)\|", CONTROL.read_text(), re.MULTILINE)
    told = {
        path: (set(methods.split(", ")), set(re.findall(r"`(\w+)`", names))) for path, methods, names in rows
    }
    assert told == {
        path: (set(route.methods) - {"HEAD"}, set(route.parameters)) for path, route in ROUTES.items()
    }
