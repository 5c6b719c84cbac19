"""The request that a query makes: its URL and its headers.

What comes from a key is data wherever it stands. In the URL it is percent-encoded with nothing
safe; in a path segment it can neither climb nor vanish; in a header it cannot end the line.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import attrs

from tcpmapkit import ConfigError

__all__ = ["Headers", "Url"]

_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?:(?P<user>[A-Za-z0-9._~!$&'()*+,;=:%-]*)@)?"
    r"(?P<host>(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?)(?=[/?]|\Z)"
)
# RFC 3986 without "#": a fragment is never sent.
_NOT_IN_URL = re.compile(r"[^A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

#: Headers that frame the message: aiohttp's to write.
_FRAMING = frozenset({"connection", "content-length", "expect", "transfer-encoding", "upgrade"})


def _quote(text: str) -> str:
    return quote(text, safe="")


def _walks(segment: str) -> bool:
    """Whether a path segment means another place: ``.``, ``..``, nothing, encoded or not.

    Some proxies decode ``%2F`` before they resolve the dots, so its slashes are looked behind too.
    """
    pieces = re.split(r"[/\\]", unquote(segment))
    return "." in pieces or ".." in pieces or not any(pieces)


@attrs.frozen
class Url:
    """A URL template with its query parameters.

    `origin` is scheme, host and port; `written` how much of the template's text that was, user and
    password included; `segments` the numbers of the path segments with a variable in them;
    `authorization` the header that user and password make.
    """

    template: Any = attrs.field(repr=False)
    params: tuple[tuple[str, Any], ...] = attrs.field(repr=False)
    origin: str
    written: int
    segments: tuple[int, ...]
    authorization: str | None = attrs.field(repr=False)

    @classmethod
    def compile(cls, template: Any, params: Mapping[str, Any]) -> Url:
        """Raises `ConfigError`, its path beginning at the resolver's options."""
        constant = template.constant
        match = _ORIGIN.match(constant)
        if match is None or int(match["port"] or 80) > 65535:
            raise ConfigError("a URL is http:// or https:// and a host, all without variables", path=("url",))
        if template.variables and "/" not in constant[match.end() :]:
            raise ConfigError(
                "no variable may stand before the first / after the host",
                path=("url",),
                hint="a key must not choose whom to ask",
            )
        rest = "".join(part if isinstance(part, str) else "\0" for part in template.parts)[match.end() :]
        bad = _NOT_IN_URL.search(rest.replace("\0", ""))
        if bad is not None:
            hint = "a fragment is never sent" if bad[0] == "#" else f"write it as {quote(bad[0], safe='')}"
            raise ConfigError(f"{bad[0]!r} cannot stand in a URL", path=("url",), hint=hint)
        path = rest.partition("?")[0]
        authorization = None
        if match["user"] is not None:
            authorization = "Basic " + base64.b64encode(unquote(match["user"]).encode()).decode()
        return cls(
            template,
            tuple((_quote(name), value) for name, value in params.items()),
            f"{match['scheme']}://{match['host']}",
            match.end(),
            tuple(number for number, segment in enumerate(path.split("/")) if "\0" in segment),
            authorization,
        )

    def fill(self, query: Any) -> str | None:
        """The URL for this query, encoded; None when the query cannot be asked here."""
        text = self.template(query, _quote)
        if text is None:
            return None
        path, question, parameters = text[self.written :].partition("?")
        segments = path.split("/")
        if any(_walks(segments[number]) for number in self.segments):
            return None
        pairs = [parameters] if parameters else []
        for name, template in self.params:
            value = template(query)
            if value is None:
                return None
            pairs.append(f"{name}={_quote(value)}")
        return f"{self.origin}{path or '/'}" + (f"?{'&'.join(pairs)}" if pairs or question else "")


@attrs.frozen(repr=False)
class Headers:
    """The header templates, and the values that no query changes."""

    constant: Mapping[str, str]
    templates: tuple[tuple[str, Any], ...]

    @classmethod
    def compile(cls, headers: Mapping[str, Any]) -> Headers:
        """Raises `ConfigError`, its path beginning at the resolver's options."""
        constant: dict[str, str] = {}
        templates: list[tuple[str, Any]] = []
        for name, template in headers.items():
            path = ("headers", name)
            if not _HEADER_NAME.fullmatch(name):
                raise ConfigError("not a header's name", path=path)
            if name.lower() in _FRAMING:
                raise ConfigError("this header is the HTTP client's own", path=path)
            if any(_CONTROL.search(part) for part in template.parts if isinstance(part, str)):
                raise ConfigError("a header's value has a control character", path=path)
            if not template.variables:
                constant[name] = "".join(template.parts).strip()
            elif name.lower() in ("host", "authorization"):
                raise ConfigError(f"{name} takes no variable", path=path)
            else:
                templates.append((name, template))
        return cls(constant, tuple(templates))

    def __contains__(self, name: str) -> bool:
        names = (*self.constant, *(name for name, _ in self.templates))
        return name.lower() in (one.lower() for one in names)

    def fill(self, query: Any) -> dict[str, str] | None:
        """The headers for this query; None when a variable's text cannot stand in one: a control
        character, or outer white space, which the receiver would strip."""
        filled = dict(self.constant)
        for name, template in self.templates:
            value = template(query)
            if value is None or _CONTROL.search(value) or value != value.strip(" \t"):
                return None
            filled[name] = value
        return filled
