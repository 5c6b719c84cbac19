"""The `http` resolver: what each response means, against servers on the loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from tcpmapkit import ConfigError, Found, Miss, PermFail, Query, TempFail
from tcpmapkit.resolver import Context
from tcpmapkit.resolvers.http import Http
from tcpmapkit.template import JsonTemplate, Template
from tests.loopback_http import (
    LoopbackHttp,
    answering,
    connections_in_use,
    http_client,
    loopback_api,
    loopback_raw,
    sending,
)

VARIABLES = ("key", "local", "user", "extension", "domain", "sender")


def make_http(**options: Any) -> Http:
    """The resolver, its templates compiled as the configuration does."""
    options["url"] = Template.compile(options["url"], VARIABLES)
    for name in ("params", "headers"):
        if name in options:
            options[name] = {key: Template.compile(text, VARIABLES) for key, text in options[name].items()}
    if "json" in options:
        options["json"] = JsonTemplate.compile(options["json"], VARIABLES)
    return Http(**options)


def make_query(key: str, **attributes: str) -> Query:
    return Query(key, "aliases", deadline=time.monotonic() + 5, attributes=attributes)


async def started(session: Any, **options: Any) -> Http:
    resolver = make_http(**options)
    context = Context(
        Path.cwd(), "api", "aliases", logging.getLogger("tests.http"), open_http=lambda: session
    )
    await resolver.start(context)
    return resolver


async def ask(
    server: LoopbackHttp, key: str = "user@example.org", path: str = "/{key}", **options: Any
) -> Any:
    """The outcome for `key`; no connection may be left in use behind it."""
    async with http_client() as session:
        resolver = await started(session, url=server.url + path, **options)
        outcome = await resolver.resolve(make_query(key))
        assert connections_in_use(session) == 0
        return outcome


async def answer_to(answer: Any, **options: Any) -> Any:
    async with loopback_api(answer) as server:
        return await ask(server, **options)


# What a 200 says


@pytest.mark.parametrize(
    ("text", "options", "outcome"),
    [
        ('"found"', {}, Found("found")),
        ('["one"]', {}, Found("one")),
        ('["one","two","one"]', {}, Found("one,two", values=("one", "two"))),
        ('["one","two"]', {"separator": " "}, Found("one two", values=("one", "two"), separator=" ")),
        ('["one","", "two"]', {}, Found("one,two", values=("one", "two"))),
        ('{"data":{"goto":["a@example.org"]}}', {"value": "data.goto"}, Found("a@example.org")),
        ('{"data":{"goto":null}}', {"value": "data.goto"}, Miss()),
        ('{"other":1}', {"value": "data.goto"}, Miss()),
        ('[{"a":"x","on":true},{"a":"y","on":false}]', {"value": "[?on].a"}, Found("x")),
        ("null", {}, Miss()),
        ("[]", {}, Miss()),
        ('""', {}, Miss()),
        ('["",""]', {}, Miss()),
        ('["a@example.org","b@example.net"]', {"match": r"@example\.net$"}, Found("b@example.net")),
        ('["a@example.org"]', {"match": r"@EXAMPLE\.ORG$"}, Miss()),
        ('\ufeff"with a byte order mark"', {}, Found("with a byte order mark")),
        ('"\\u00fcber"', {}, Found("über")),
    ],
)
async def test_json_gives_a_string_or_a_list_of_strings(
    text: str, options: dict[str, Any], outcome: Any
) -> None:
    assert await answer_to(answering(text), **options) == outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("found", Found("found")),
        ("found\n", Found("found")),
        ("found\r\n", Found("found")),
        (" two words ", Found(" two words ")),
        ("", Miss()),
        ("\n", Miss()),
    ],
)
async def test_plain_text_gives_its_one_line(text: str, outcome: Any) -> None:
    assert await answer_to(answering(text, content_type="text/plain", charset="utf-8")) == outcome


@pytest.mark.parametrize("kind", ["application/json", "application/problem+json", "Application/JSON"])
async def test_every_json_type_is_json(kind: str) -> None:
    assert await answer_to(answering(content_type=kind)) == Found("found")


@pytest.mark.parametrize(
    ("body", "kind", "options"),
    [
        (b"<html>Sign in</html>", "text/html", {}),
        (b"<html>Sign in</html>", "application/json", {}),
        (b"", "application/json", {}),
        (b'"found', "application/json", {}),
        (b'"found" more', "application/json", {}),
        (b'{"a":"b"}', "application/json", {}),
        (b"17", "application/json", {}),
        (b"true", "application/json", {}),
        (b'["a",17]', "application/json", {}),
        (b'["a",null]', "application/json", {}),
        (b'[["a"]]', "application/json", {}),
        (b'{"a":{"b":1}}', "application/json", {"value": "a"}),
        (b'{"a":1}', "application/json", {"value": "length(a)"}),
        (b"[" * 200_000, "application/json", {}),
        (b"1" * 10_000, "application/json", {}),
        (b'"caf\xe9"', "application/json", {}),
        (b'"two\\nlines"', "application/json", {}),
        (b'"two\\rlines"', "application/json", {}),
        (b'"nul\\u0000"', "application/json", {}),
        (b'"half \\ud83d"', "application/json", {}),
        (b'["fine","half \\ud83d"]', "application/json", {"match": "fine"}),
        (b'"' + b"a" * 40 + b'!"', "application/json", {"match": "^(a+)+$"}),
        (b"two\nlines", "text/plain", {}),
        (b"two\rlines", "text/plain", {}),
        (b"found\n\n", "text/plain", {}),
        (b"caf\xe9", "text/plain", {}),
        (b"caf\xe9", "text/plain; charset=iso-8859-1", {}),
        (b"found", "text/plain", {"value": "a"}),
        (b"found", "application/octet-stream", {}),
        (b"\x1f\x8b", "application/gzip", {}),
    ],
)
async def test_any_other_type_or_shape_is_a_temporary_failure(
    body: bytes, kind: str, options: dict[str, Any]
) -> None:
    outcome = await answer_to(
        lambda request: web.Response(body=body, headers={"Content-Type": kind}), **options
    )
    assert isinstance(outcome, TempFail)
    assert len(outcome.reason) < 80
    assert "example" not in outcome.reason


# Statuses


@pytest.mark.parametrize(
    ("status", "options", "kind"),
    [
        (404, {}, Miss),
        (410, {}, Miss),
        (204, {}, Miss),
        (404, {"not_found": (410,)}, PermFail),
        (400, {"not_found": (400, 404)}, Miss),
        (400, {}, PermFail),
        (401, {}, PermFail),
        (403, {}, PermFail),
        (414, {}, PermFail),
        (408, {}, TempFail),
        (425, {}, TempFail),
        (429, {}, TempFail),
        (500, {}, TempFail),
        (502, {}, TempFail),
        (503, {}, TempFail),
        (599, {}, TempFail),
        (201, {}, TempFail),
        (202, {}, TempFail),
        (206, {}, TempFail),
        (300, {}, PermFail),
        (304, {}, PermFail),
    ],
)
async def test_a_status_means_what_the_manual_says(status: int, options: dict[str, Any], kind: type) -> None:
    outcome = await answer_to(lambda request: web.Response(status=status), **options)
    assert type(outcome) is kind
    if kind is not Miss:
        assert outcome.reason == f"HTTP status {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirection_is_never_followed(status: int) -> None:
    async with loopback_api(
        lambda request: web.Response(status=status, headers={"Location": "/elsewhere"})
    ) as server:
        assert isinstance(await ask(server), PermFail)
        assert len(server.received) == 1


def date(offset: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(1_700_000_000 + offset))


NOW = {"Date": date(0)}


@pytest.mark.parametrize("status", [429, 503, 500])
@pytest.mark.parametrize(
    ("headers", "ttl"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "86400"}, 60),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": date(30), **NOW}, 30),
        ({"Retry-After": date(3000), **NOW}, 60),
        ({"Retry-After": date(-30), **NOW}, 0),
        ({}, None),
    ],
)
async def test_a_failure_lasts_as_long_as_retry_after_says(
    status: int, headers: dict[str, str], ttl: float | None
) -> None:
    outcome = await answer_to(lambda request: web.Response(status=status, headers=headers))
    assert outcome == TempFail(f"HTTP status {status}", ttl)


# For how long


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize(
    ("headers", "ttl"),
    [
        ({}, None),
        ({"Cache-Control": "max-age=60"}, 60),
        ({"Cache-Control": 'Public, Max-Age="60"'}, 60),
        ({"Cache-Control": "max-age=60, s-maxage=10"}, 10),
        ({"Cache-Control": "s-maxage=100, max-age=60"}, 100),
        ({"Cache-Control": "max-age=60, max-age=30"}, 30),
        ({"Cache-Control": "max-age=60", "Age": "20"}, 40),
        ({"Cache-Control": "max-age=60", "Age": "200"}, 0),
        ({"Cache-Control": "max-age=60", "Age": "old"}, 60),
        ({"Cache-Control": "no-store, max-age=60"}, 0),
        ({"Cache-Control": "no-cache"}, 0),
        ({"Cache-Control": "private"}, 0),
        ({"Cache-Control": "max-age=soon"}, 0),
        ({"Cache-Control": "max-age"}, 0),
        ({"Cache-Control": "must-revalidate"}, None),
        ({"Cache-Control": "x-max-age=60"}, None),
        ({"Expires": date(90), **NOW}, 90),
        ({"Expires": date(90), "Age": "30", **NOW}, 60),
        ({"Expires": date(-90), **NOW}, 0),
        ({"Expires": "0"}, 0),
        ({"Expires": date(90), "Cache-Control": "max-age=5", **NOW}, 5),
    ],
)
async def test_an_answer_and_a_miss_hold_as_long_as_the_headers_say(
    status: int, headers: dict[str, str], ttl: float | None
) -> None:
    outcome = await answer_to(answering(status=status, headers=headers))
    assert outcome == (Found("found", ttl) if status == 200 else Miss(ttl))


async def test_expires_without_a_date_counts_from_now() -> None:
    headers = b"Content-Type: application/json\r\nContent-Length: 7\r\nExpires: " + date(1e9).encode()
    async with loopback_raw(sending(b"HTTP/1.1 200 OK\r\n" + headers + b'\r\n\r\n"found"')) as server:
        outcome = await ask(server)
    assert outcome.ttl == pytest.approx(1_700_000_000 + 1e9 - time.time(), abs=5)


# Bodies


async def test_a_body_over_the_limit_is_a_temporary_failure_and_not_read_on() -> None:
    sent = 0

    async def ten_megabytes(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(160):
            writer.write(b"10000\r\n" + b"a" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536

    async with loopback_raw(ten_megabytes) as server:
        outcome = await ask(server, max_body=100_000)
    assert outcome == TempFail("the HTTP response is too long")
    assert sent < 10_000_000


@pytest.mark.parametrize(("size", "kind"), [(100, Found), (101, TempFail)])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate", "raw deflate"])
async def test_the_limit_is_of_bytes_decompressed(size: int, kind: type, encoding: str) -> None:
    body = b'"' + b"a" * (size - 2) + b'"'
    if encoding == "gzip":
        body = gzip.compress(body)
    elif encoding == "deflate":
        body = zlib.compress(body)
    elif encoding == "raw deflate":
        squeeze = zlib.compressobj(wbits=-15)
        body = squeeze.compress(body) + squeeze.flush()
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding.split()[-1]}
    outcome = await answer_to(lambda request: web.Response(body=body, headers=headers), max_body=100)
    assert type(outcome) is kind


FOUND = gzip.compress(b"found", mtime=0)


@pytest.mark.parametrize(
    ("body", "encoding", "reason"),
    [
        pytest.param(gzip.compress(b"a" * 50_000_000, mtime=0), "gzip", "too long", id="bomb"),
        pytest.param(FOUND[:-9], "gzip", "damaged", id="cut off"),
        pytest.param(FOUND + b"more", "gzip", "damaged", id="more behind it"),
        pytest.param(b"found", "gzip", "damaged", id="not gzip"),
        pytest.param(b"found", "deflate", "damaged", id="not deflate"),
        pytest.param(b"found", "br", "unknown encoding", id="brotli"),
        pytest.param(gzip.compress(FOUND, mtime=0), "gzip, gzip", "unknown encoding", id="twice"),
    ],
)
async def test_a_bomb_and_a_damaged_body_are_temporary_failures(
    body: bytes, encoding: str, reason: str
) -> None:
    headers = {"Content-Type": "text/plain", "Content-Encoding": encoding}
    outcome = await answer_to(lambda request: web.Response(body=body, headers=headers))
    assert isinstance(outcome, TempFail)
    assert reason in outcome.reason


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param({"Content-Encoding": "br"}, b"an error page", id="an encoding that is not ours"),
        pytest.param({"Content-Encoding": "gzip"}, b"an error page", id="damaged"),
        pytest.param({}, b"an error page" * 100, id="over the limit"),
    ],
)
async def test_a_status_that_means_a_miss_does_so_whatever_the_body_is(
    headers: dict[str, str], body: bytes
) -> None:
    def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=404, body=body, headers=headers)

    assert await answer_to(answer, max_body=100) == Miss()


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(sending(), id="hangs up"),
        pytest.param(sending(then="reset"), id="resets"),
        pytest.param(sending(b"HTTP/1.1 200"), id="half a status line"),
        pytest.param(sending(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), id="not HTTP"),
        pytest.param(sending(OK, b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n"), id="endless header"),
        pytest.param(sending(OK, b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nfound"), id="two lengths"),
        pytest.param(sending(OK, b"Content-Length: 10\r\n\r\nfound"), id="half a body"),
        pytest.param(sending(OK, b"Content-Length: 10\r\n\r\nfound", then="reset"), id="reset in the body"),
        pytest.param(sending(OK, b"Transfer-Encoding: chunked\r\n\r\n5\r\nfound\r\n"), id="half the chunks"),
        pytest.param(sending(OK, b"Transfer-Encoding: chunked\r\n\r\nzz\r\nfound"), id="no chunk"),
        pytest.param(sending(OK, b"\r\nfound"), id="text that nothing ends"),
        pytest.param(sending(b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\nab"), id="half a miss"),
    ],
)
async def test_a_broken_connection_is_a_temporary_failure(script: Any) -> None:
    async with loopback_raw(script) as server:
        outcome = await ask(server)
    assert isinstance(outcome, TempFail), outcome
    assert "127.0.0.1" not in outcome.reason


async def test_text_without_a_length_counts_when_its_line_ends() -> None:
    async with loopback_raw(sending(OK, b"\r\nfound\n")) as server:
        assert await ask(server) == Found("found")


async def test_a_refused_connection_is_a_temporary_failure() -> None:
    async with loopback_raw(sending()) as server:
        pass
    assert await ask(server) == TempFail("the HTTP request failed")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(sending(then="wait"), id="says nothing"),
        pytest.param(sending(OK, then="wait"), id="half the headers"),
        pytest.param(sending(OK, b"Content-Length: 10\r\n\r\nfound", then="wait"), id="half the body"),
        pytest.param(sending(b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\n", then="wait"), id="half a miss"),
    ],
)
async def test_a_slow_api_is_left_at_the_time_limit_and_its_connection_closed(script: Any) -> None:
    async with loopback_raw(script) as server, http_client() as session:
        resolver = await started(session, url=f"{server.url}/{{key}}")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await resolver.resolve(make_query("user@example.org"))
        assert connections_in_use(session) == 0
        async with asyncio.timeout(2):
            while server.open:
                await asyncio.sleep(0.001)


async def test_connections_are_used_again_after_answers_and_misses() -> None:
    def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == "/absent":
            return web.Response(status=404, text="no such key" * 1000)
        return answering()(request)

    async with loopback_api(answer) as server, http_client() as session:
        resolver = await started(session, url=f"{server.url}/{{key}}")
        for key in ("a", "absent", "b", "absent", "c"):
            await resolver.resolve(make_query(key))
        assert len({request.connection for request in server.received}) == 1


# Requests


async def test_the_request_is_a_get_that_asks_for_json() -> None:
    async with loopback_api(answering()) as server:
        assert await ask(server) == Found("found")
    request = server.received[0]
    assert (request.method, request.target, request.body) == ("GET", "/user%40example.org", b"")
    assert request.headers["Accept"].startswith("application/json")
    assert request.headers["User-Agent"] == "tcpmapkit"
    assert "Cookie" not in request.headers


async def test_json_is_posted_with_its_templates_filled() -> None:
    async with loopback_api(answering()) as server:
        body = {"query": {"mail": "{key}", "domain": "@{domain}"}, "limit": 1, "fields": ["{local}", "b"]}
        key = 'quo"te\\{key}@example.org'
        assert await ask(server, key, "/graph", json=body) == Found("found")
    request = server.received[0]
    assert request.method == "POST"
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body) == {
        "query": {"mail": key, "domain": "@example.org"},
        "limit": 1,
        "fields": ['quo"te\\{key}', "b"],
    }


async def test_a_json_template_without_its_variable_is_a_miss() -> None:
    async with loopback_api(answering()) as server:
        assert await ask(server, "no-domain", "/", json={"domain": "{domain}"}) is None
        assert server.received == []


async def test_own_headers_stand_over_ours() -> None:
    headers = {"accept": "text/plain", "User-Agent": "mine", "X-Key": "<{key}>", "Host": "api.example.org"}
    async with loopback_api(answering()) as server:
        assert await ask(server, "käse", headers=headers) == Found("found")
    received = server.received[0].headers
    assert received.getall("Accept") == ["text/plain"]
    assert received.getall("User-Agent") == ["mine"]
    assert received.getall("Host") == ["api.example.org"]
    assert received["X-Key"] == "<käse>"


async def test_a_token_is_read_from_its_file_at_start(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("\n s3cret-token \n")
    async with loopback_api(answering()) as server:
        assert await ask(server, token_file=token) == Found("found")
    assert server.received[0].headers["Authorization"] == "Bearer s3cret-token"


async def test_a_user_in_the_url_is_sent_as_basic_authorization() -> None:
    async with loopback_api(answering()) as server, http_client() as session:
        url = server.url.replace("://", "://joe:p%40ss@") + "/{key}"
        resolver = await started(session, url=url)
        assert await resolver.resolve(make_query("k")) == Found("found")
    assert server.received[0].headers["Authorization"] == "Basic am9lOnBAc3M="
    assert server.targets == ["/k"]


@pytest.mark.parametrize("text", ["", " \n", "two\nlines", "two words", "bell\a", "käse"])
async def test_a_token_that_no_header_can_hold_is_refused(tmp_path: Path, text: str) -> None:
    token = tmp_path / "token"
    token.write_text(text)
    with pytest.raises(ConfigError) as caught:
        await started(None, url="http://api.example.org/", token_file=token)
    assert caught.value.file == token
    assert text.strip() == "" or text not in str(caught.value)


async def test_a_file_that_cannot_be_read_is_told_by_its_name(tmp_path: Path) -> None:
    absent, junk = tmp_path / "absent", tmp_path / "junk"
    junk.write_text("no certificate")
    for option, file in (
        ("token_file", absent),
        ("ca_file", absent),
        ("ca_file", junk),
        ("client_cert", junk),
    ):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            await started(None, url="https://api.example.org/", **{option: file})
        assert (caught.value.file, caught.value.path) == (file, (option,))


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str = "localhost", client: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    if client:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize(
    ("name", "trusted", "found"),
    [("localhost", True, True), ("localhost", False, False), ("other.example.org", True, False)],
)
async def test_a_wrong_certificate_is_a_temporary_failure(
    authority: trustme.CA,
    tmp_path: Path,
    name: str,
    trusted: bool,
    found: bool,
) -> None:
    ca_file = tmp_path / "ca.pem"
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(ca_file)
    async with loopback_api(answering(), server_tls(authority, name)) as server:
        outcome = await ask(server, ca_file=ca_file)
    assert outcome == (Found("found") if found else TempFail("the HTTP request failed"))
    assert found or "certificate verify failed" in outcome.detail


async def test_a_client_certificate_is_shown(authority: trustme.CA, tmp_path: Path) -> None:
    ca_file, client = tmp_path / "ca.pem", tmp_path / "client.pem"
    authority.cert_pem.write_to_path(ca_file)
    authority.issue_cert("client.example.org").private_key_and_cert_chain_pem.write_to_path(client)
    async with loopback_api(answering(), server_tls(authority, client=True)) as server:
        assert await ask(server, ca_file=ca_file, client_cert=client) == Found("found")
        assert await ask(server, ca_file=ca_file) == TempFail("the HTTP request failed")


async def test_a_server_of_the_world_is_not_trusted_by_a_private_certificate(authority: trustme.CA) -> None:
    async with loopback_api(answering(), server_tls(authority)) as server:
        assert await ask(server) == TempFail("the HTTP request failed")


# Other people's contracts


async def test_postfix_rest_connector_is_served_by_options_alone() -> None:
    aliases = {"john+x@example.org": '["a@example.org","b@example.org"]', "none@example.org": "[]"}

    def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("X-Auth-Token") != "test123":
            return web.Response(status=403)
        text = aliases.get(request.query["key"])
        return web.Response(status=404) if text is None else answering(text)(request)

    options: Mapping[str, Any] = {
        "path": "/tcp-lookup-route",
        "params": {"key": "{key}"},
        "headers": {"X-Auth-Token": "test123"},
    }
    async with loopback_api(answer) as server:
        found = await ask(server, "john+x@example.org", **options)
        assert found == Found("a@example.org,b@example.org", values=("a@example.org", "b@example.org"))
        assert await ask(server, "none@example.org", **options) == Miss()
        assert await ask(server, "absent@example.org", **options) == Miss()
        assert isinstance(await ask(server, "x", path="/r", params={"key": "{key}"}), PermFail)
    assert server.targets[0] == "/tcp-lookup-route?key=john%2Bx%40example.org"


async def test_mailu_podop_is_served_by_options_alone() -> None:
    def answer(request: web.BaseRequest) -> web.StreamResponse:
        return (
            answering()(request)
            if request.raw_path.endswith("/john%2Bx%40example.org")
            else web.Response(status=404)
        )

    async with loopback_api(answer) as server:
        path = "/internal/postfix/alias/{key}"
        assert await ask(server, "john+x@example.org", path) == Found("found")
        assert await ask(server, "absent@example.org", path) == Miss()


# What is logged, and when what is imported


async def test_what_is_to_be_logged_of_trouble_has_no_url_key_or_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "tests.http")
    async with loopback_raw(sending()) as server, http_client() as session:
        resolver = await started(
            session, url=f"{server.url}/{{key}}?apikey=s3cret", headers={"X-Auth-Token": "s3cret"}
        )
        failure = await resolver.resolve(make_query("joe@example.org"))
    assert failure == TempFail("the HTTP request failed")
    assert failure.detail == "ServerDisconnectedError"
    text = failure.reason + "".join(
        entry.getMessage() for entry in caplog.records if entry.name == "tests.http"
    )
    assert "s3cret" not in text
    assert "joe" not in text
    assert "s3cret" not in repr(resolver)


def test_importing_the_resolver_does_not_import_the_http_library() -> None:
    code = (
        "import sys, tcpmapkit.resolvers.http\n"
        "slow = ('aiohttp', 'yarl', 'jmespath', 'asyncio', 'ssl', 'pcre2')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
