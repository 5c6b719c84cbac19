"""A key is data to an HTTP API: it reaches the server as itself or it misses, and never moves the request."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmapkit import ConfigError, Found, Query
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.resolvers.http.request import Headers, Url
from tcpmapkit.site import open_site
from tcpmapkit.template import Template
from tests.loopback_http import answering, loopback_api
from tests.test_http_resolver import ask, make_http

LABEL = "x" * 300

#: Key, and the path segment that it becomes; None when it misses.
WALKING = [
    ("..", None),
    (".", None),
    ("/", None),
    ("//", None),
    ("", None),
    ("\\", None),
    ("../admin", None),
    ("a/../b", None),
    ("a\\..\\b", None),
    ("./b", None),
    ("%2e%2e", "%252e%252e"),
    ("%2E", "%252E"),
    ("..;", "..%3B"),
    ("...", "..."),
    ("a..b", "a..b"),
    ("a/b", "a%2Fb"),
    ("a//b", "a%2F%2Fb"),
    ("?", "%3F"),
    ("a?b=c&d", "a%3Fb%3Dc%26d"),
    ("#", "%23"),
    ("\r\n", "%0D%0A"),
    ("a HTTP/1.1\r\nX-Evil: 1", "a%20HTTP%2F1.1%0D%0AX-Evil%3A%201"),
    ("a\0b", "a%00b"),
    ("' OR 1=1", "%27%20OR%201%3D1"),
    ("{key}", "%7Bkey%7D"),
    ("${HOME}", "%24%7BHOME%7D"),
    ("a+b@example.org", "a%2Bb%40example.org"),
    ("jörg@example.org", "j%C3%B6rg%40example.org"),
    ("~-._a", "~-._a"),
    (":@host", "%3A%40host"),
    (LABEL, LABEL),
]


@pytest.mark.parametrize(("key", "segment"), WALKING)
async def test_a_key_in_the_path_is_one_segment_or_misses(key: str, segment: str | None) -> None:
    async with loopback_api(answering()) as server:
        outcome = await ask(server, key, "/v1/aliases/{key}/goto")
        if segment is None:
            assert outcome is None
            assert server.received == []
        else:
            assert outcome == Found("found")
            assert server.targets == [f"/v1/aliases/{segment}/goto"]
            assert "X-Evil" not in server.received[0].headers


@pytest.mark.parametrize("key", [key for key, _ in WALKING])
async def test_a_key_in_a_parameter_is_that_parameter_whole(key: str) -> None:
    async with loopback_api(answering()) as server:
        options: dict[str, Any] = {"params": {"a b&c": "<{key}>"}}
        assert await ask(server, key, "/v1?fixed=1&k={key}", **options) == Found("found")
        path, _, query = server.targets[0].partition("?")
        assert path == "/v1"
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
        assert pairs == [("fixed", "1"), ("k", key), ("a b&c", f"<{key}>")]


@pytest.mark.parametrize("key", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\x7f", "\x1b", " a", "a ", "a\t"])
async def test_a_key_that_a_header_cannot_hold_misses(key: str) -> None:
    async with loopback_api(answering()) as server:
        assert await ask(server, key, "/", headers={"X-Key": "{key}"}) is None
        assert server.received == []


async def test_a_key_that_is_not_unicode_misses() -> None:
    async with loopback_api(answering()) as server:
        assert await ask(server, "\udcff@example.org") is None
        assert server.received == []


@pytest.mark.parametrize("path", ["/{domain}", "/?d={domain}", "/a"])
async def test_a_variable_that_is_absent_misses(path: str) -> None:
    async with loopback_api(answering()) as server:
        options: dict[str, Any] = {} if "domain" in path else {"headers": {"X-Domain": "{domain}"}}
        assert await ask(server, "no-domain", path, **options) is None
        assert await ask(server, "no-domain", "/a", params={"d": "{domain}"}) is None
        assert server.received == []


@pytest.mark.parametrize(
    ("path", "key", "target"),
    [
        ("/a%2Fb/{key}", "k", "/a%2Fb/k"),
        ("/{key}.json", ".", "/..json"),
        ("/.{key}", ".", None),
        ("/%2e{key}", ".", None),
        ("/{key}{key}", ".", None),
        ("/{local}/{domain}", "..@example.org", None),
        ("/{local}/{domain}", "a@example.org", "/a/example.org"),
        ("/", "..", "/"),
        ("/lookup/?k={key}", "..", "/lookup/?k=.."),
        ("/a//b/?{key}", "c", "/a//b/?c"),
        ("/{key}?", "k", "/k?"),
    ],
)
def test_only_segments_with_a_variable_are_judged(path: str, key: str, target: str | None) -> None:
    url = Url.compile(Template.compile("http://api.example.org" + path), {})
    assert url.fill(Query(key)) == (None if target is None else f"http://api.example.org{target}")


@given(st.text(st.characters(codec="utf-8")))
def test_whatever_the_key_it_comes_back_from_the_url_unchanged(key: str) -> None:
    url = Url.compile(
        Template.compile("https://api.example.org/v1/{key}/x"), {"k": Template.compile("{key}")}
    )
    text = url.fill(Query(key))
    if text is None:
        return
    assert text.isascii()
    assert text.startswith("https://api.example.org/v1/")
    path, _, query = text.partition("?")
    segments = path.split("/")
    assert len(segments) == 6
    assert unquote(segments[4]) == key
    assert parse_qsl(query) == [("k", key)]


@given(st.text(st.characters(codec="utf-8")))
def test_whatever_the_key_it_cannot_end_a_header(key: str) -> None:
    headers = Headers.compile({"X-Key": Template.compile("{key}")})
    filled = headers.fill(Query(key))
    if filled is not None:
        assert filled == {"X-Key": key}
        assert not {"\r", "\n", "\0"} & set(key)


# Configuration


@pytest.mark.parametrize(
    "url",
    [
        "https://{domain}/x",
        "https://api.{domain}/x",
        "https://{user}@api.example.org/",
        "https://api.example.org:{extension}/",
        "https://api.example.org{key}",
        "https://api.example.org?k={key}",
        "{key}",
        "{key}://api.example.org/",
        "ftp://api.example.org/{key}",
        "file:///etc/passwd",
        "unix:/run/api.sock",
        "//api.example.org/",
        "https:///x",
        "https://api example.org/",
        "https://a@b@api.example.org/",
        "https://api.example.org:port/",
        "https://api.example.org:65536/",
        "https://bücher.example.org/",
        "https://[2001:db8::1/x",
        "https://api.example.org/a b",
        "https://api.example.org/{key}#part",
        "https://api.example.org/{{key}}",
        "https://api.example.org/ü",
        "https://api.example.org/\r\nX: y",
        "https://api.example.org\\@192.0.2.1/",
    ],
)
def test_a_url_whose_host_is_not_constant_and_plain_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_http(url=url)
    assert caught.value.path == ("url",)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://api.example.org", "http://api.example.org/"),
        ("http://api.example.org?a=b", "http://api.example.org/?a=b"),
        ("http://api.example.org:8080/{key}", "http://api.example.org:8080/k"),
        ("http://[2001:db8::1]:8080/{key}", "http://[2001:db8::1]:8080/k"),
        ("https://192.0.2.1/{key}", "https://192.0.2.1/k"),
        ("https://joe:p%40ss@api.example.org/{key}", "https://api.example.org/k"),
    ],
)
def test_a_url_with_a_constant_host_is_taken(url: str, target: str) -> None:
    assert Url.compile(Template.compile(url), {}).fill(Query("k")) == target


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"headers": {"X Key": "a"}}, ("headers", "X Key")),
        ({"headers": {"": "a"}}, ("headers", "")),
        ({"headers": {"X-Key": "a\r\nX-Evil: b"}}, ("headers", "X-Key")),
        ({"headers": {"X-Key": "a\n{key}"}}, ("headers", "X-Key")),
        ({"headers": {"Content-Length": "1"}}, ("headers", "Content-Length")),
        ({"headers": {"transfer-encoding": "chunked"}}, ("headers", "transfer-encoding")),
        ({"headers": {"Host": "{domain}"}}, ("headers", "Host")),
        ({"headers": {"Authorization": "Bearer {key}"}}, ("headers", "Authorization")),
        ({"headers": {"Authorization": "x"}, "token_file": "/t"}, ("token_file",)),
        ({"headers": {"authorization": "x"}, "url": "http://u@api.example.org/"}, ("url",)),
        ({"ca_file": "/ca.pem"}, ("ca_file",)),
        ({"client_cert": "/client.pem"}, ("client_cert",)),
        ({"not_found": (404, 500)}, ("not_found", 1)),
        ({"not_found": (429,)}, ("not_found", 0)),
        ({"not_found": (200,)}, ("not_found", 0)),
        ({"separator": "\r\n"}, ("separator",)),
        ({"value": "a["}, ("value",)),
        ({"value": ""}, ("value",)),
        ({"match": "("}, ("match",)),
    ],
)
def test_a_mistake_is_told_with_its_option(options: dict[str, Any], path: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_http(**{"url": "http://api.example.org/", **options})
    assert caught.value.path == path
    assert "\n" not in caught.value.message


def test_every_mistake_of_one_resolver_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    file.write_text(
        "[maps.m]\n[[maps.m.resolvers]]\ntype = 'http'\nurl = 'http://{domain}/'\nvalue = '[['\n"
        "match = '('\nnot_found = [500]\nseparator = \"\\n\"\n"
    )
    with pytest.raises(ConfigErrors) as caught:
        open_site(file)
    assert [error.line for error in caught.value.errors] == [4, 5, 6, 7, 8]
