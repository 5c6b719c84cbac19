"""``http``: ask an HTTP API, by GET or POST.

What a status means: 404 and 410 (`not_found`) and 204 are misses; 408, 425, 429 and 5xx are
temporary, for as long as Retry-After says, at most 60 s; 200 has the answer; a redirection, never
followed, and any other 4xx are permanent; anything else is unexpected, and temporary. So are a
refused, broken or slow connection, a wrong certificate, and a 200 of another type, shape or size.

A 200 is JSON giving a string or a list of strings, after the JMESPath `value`, or one line of
text/plain; null, ``[]`` and ``""`` are misses, and empty strings in a list are left out. The answer
holds for as long as Cache-Control, Expires and Age say, the map's own limit allowing.

A key is data: percent-encoded with nothing safe, in `url` and in `params`. It cannot name a host. A
path segment that comes out as ``.``, ``..`` or empty, be it for a proxy that decodes ``%2F`` first,
makes the step miss, and so does text that a header cannot hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import attrs

from tcpmapkit import ConfigError, Found, Miss, PermFail, TempFail, hookimpl
from tcpmapkit.resolvers.http.credentials import read_token, tls_context
from tcpmapkit.resolvers.http.freshness import lifetime, retry_after
from tcpmapkit.resolvers.http.request import Headers, Url
from tcpmapkit.resolvers.http.response import Unusable, pass_over_body, read_body, values_in
from tcpmapkit.resolvers.remote import Unmatchable, ValueMatch
from tcpmapkit.resolvers.source_file import Identity, is_same, known

__all__ = ["Http"]

#: What is temporary though it is a 4xx: time-out, too early, too many requests.
_TEMPORARY: Final = frozenset({408, 425, 429})

_NOTHING: Mapping[str, Any] = {}


@attrs.define(eq=False, repr=False)
class Http:
    """One API. Options: see ``tcpmapkit plugins`` and the fields' help."""

    url: Annotated[Any, "template"] = attrs.field(
        metadata={"help": "The URL; constant up to the first / after the host."}
    )
    method: Literal["GET", "POST"] | None = attrs.field(
        default=None, metadata={"help": "The method; by default GET, or POST when json is given."}
    )
    params: Mapping[str, Annotated[Any, "template"]] = attrs.field(
        default=_NOTHING, metadata={"help": "Query parameters, added to those in the URL."}
    )
    headers: Mapping[str, Annotated[Any, "template"]] = attrs.field(
        default=_NOTHING, metadata={"help": "Request headers."}
    )
    json: Annotated[Any, "template-json"] = attrs.field(
        default=None, metadata={"help": "A request body of JSON; its strings are templates."}
    )
    value: str | None = attrs.field(
        default=None, metadata={"help": "The JMESPath of the value in a response; default the whole body."}
    )
    match: str | None = attrs.field(
        default=None,
        metadata={"help": "A regular expression (PCRE2); values in which it is not found are dropped."},
    )
    separator: str = attrs.field(default=",", metadata={"help": "What joins several values."})
    not_found: tuple[int, ...] = attrs.field(
        default=(404, 410), metadata={"help": "The statuses (4xx) that mean: no such key."}
    )
    max_body: Annotated[int, "size"] = attrs.field(
        default=1 << 20,
        validator=attrs.validators.ge(1),
        metadata={"help": "The longest response body that is read, decompressed."},
    )
    ca_file: Path | None = attrs.field(
        default=None, metadata={"help": "Certificates (PEM) to trust instead of the system's."}
    )
    client_cert: Path | None = attrs.field(
        default=None, metadata={"help": "A certificate and its key (PEM, one file) to show to the server."}
    )
    token_file: Path | None = attrs.field(
        default=None, metadata={"help": "A file with a token, sent as Authorization: Bearer."}
    )

    _url: Url = attrs.field(init=False)
    _headers: Headers = attrs.field(init=False)
    _value: Any = attrs.field(init=False, default=None)
    _match: Any = attrs.field(init=False, default=None)
    _own_headers: dict[str, str] = attrs.field(init=False)
    _tls: Any = attrs.field(init=False, default=True)
    _read: tuple[Identity | None, ...] = attrs.field(init=False, default=())
    _context: Any = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        mistakes = list(self._mistakes())
        if mistakes:
            raise ConfigError.several(mistakes)
        if self.method is None:
            self.method = "GET" if self.json is None else "POST"
        # Compressing a line of text gains nothing, so it is not asked for (and undone if need be).
        ours = {
            "Accept": "application/json, text/plain;q=0.9, */*;q=0.1",
            "Accept-Encoding": "identity",
            "User-Agent": "tcpmapkit",
        }
        if self.json is not None:
            ours["Content-Type"] = "application/json"
        if self._url.authorization is not None:
            ours["Authorization"] = self._url.authorization
        self._own_headers = {name: text for name, text in ours.items() if name not in self._headers}

    def _mistakes(self) -> Iterator[ConfigError]:
        """Compile the options, and tell what is wrong with them, one by one."""
        try:
            self._url = Url.compile(self.url, self.params)
            self._headers = Headers.compile(self.headers)
        except ConfigError as error:
            yield error
        else:
            yield from self._contradictions()
        for number, status in enumerate(self.not_found):
            if not 400 <= status <= 499 or status in _TEMPORARY:
                yield ConfigError(
                    f"the status {status} cannot mean that a key does not exist",
                    path=("not_found", number),
                    hint="any 4xx but 408, 425 and 429",
                )
        if not {"\0", "\r", "\n"}.isdisjoint(self.separator):
            yield ConfigError("a separator has no NUL, CR or LF", path=("separator",))
        try:
            if self.value is not None:
                self._value = _compile_value(self.value)
        except ConfigError as error:
            yield error
        try:
            if self.match is not None:
                self._match = ValueMatch(self.match)
        except ConfigError as error:
            yield error

    def _contradictions(self) -> Iterator[ConfigError]:
        has_user = self._url.authorization is not None
        if (self.token_file is not None) + has_user + ("authorization" in self._headers) > 1:
            yield ConfigError(
                "only one of token_file, an Authorization header and a user in the URL can be sent",
                path=("token_file",) if self.token_file is not None else ("url",),
            )
        for name in ("ca_file", "client_cert"):
            if getattr(self, name) is not None and not self._url.origin.startswith("https:"):
                yield ConfigError("this takes an https:// URL", path=(name,))

    async def start(self, context: Any) -> None:
        """Read the token and the certificates, and load the HTTP client, off the event loop.

        Raises `ConfigError` for a file that cannot be used.
        """
        import asyncio

        await asyncio.to_thread(self._load)
        self._context = context

    def _load(self) -> None:
        import aiohttp  # noqa: F401 - loaded here, so that no lookup pays for it

        self._read = tuple(map(known, self.files))
        if self.token_file is not None:
            self._own_headers["Authorization"] = f"Bearer {read_token(self.token_file)}"
        if self.ca_file is not None or self.client_cert is not None:
            self._tls = tls_context(self.ca_file, self.client_cert)

    @property
    def files(self) -> tuple[Path, ...]:
        """What the server is shown, and which certificates are trusted: that is renewed now and then."""
        return tuple(one for one in (self.token_file, self.ca_file, self.client_cert) if one is not None)

    def is_current(self) -> bool:
        """Whether those files are still the ones that were read; blocks for a stat(2) each."""
        return all(map(is_same, self.files, self._read))

    async def resolve(self, query: Any) -> Any:
        """The values that the API has for this query, joined; see the module for what else."""
        from aiohttp import ClientError
        from yarl import URL

        try:
            url, headers = self._url.fill(query), self._headers.fill(query)
            body = None if self.json is None else self.json(query)
        except UnicodeEncodeError:
            return None
        if url is None or headers is None or (body is None and self.json is not None):
            return None
        try:
            async with self._context.http.request(
                self.method,
                URL(url, encoded=True),
                headers=self._own_headers | headers,
                # A date of TOML is text in JSON.
                data=None if body is None else json.dumps(body, default=str).encode(),
                allow_redirects=False,
                auto_decompress=False,
                ssl=self._tls,
            ) as response:
                return await self._answer(response)
        except Unusable as unusable:
            return TempFail(unusable.reason, detail=unusable.detail)
        except TimeoutError:
            return TempFail("the HTTP request timed out")
        except (ClientError, OSError) as error:
            # The text of such an error may hold the URL, and so a key or a secret.
            cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or ""
            return TempFail("the HTTP request failed", detail=f"{type(error).__name__} {cause}".strip())

    async def _answer(self, response: Any) -> Any:
        status, now = response.status, time.time()
        if status in self.not_found or status == 204:
            await pass_over_body(response, self.max_body)
            return Miss(lifetime(response.headers, now))
        if status == 200:
            values = values_in(await read_body(response, self.max_body), response, self._value)
            return self._found(values, lifetime(response.headers, now))
        reason = f"HTTP status {status}"
        if status in _TEMPORARY or status >= 500:
            return TempFail(reason, retry_after(response.headers, now))
        if status < 300:
            raise Unusable(reason, "neither 200 nor 204")
        return PermFail(reason)

    def _found(self, values: list[str], ttl: float | None) -> Any:
        if self._match is not None:
            try:
                values = list(filter(self._match, values))
            except Unmatchable as error:
                raise Unusable("a value cannot be matched", str(error)) from None
        if not values:
            return Miss(ttl)
        try:
            return Found.joined(values, self.separator, ttl)
        except ValueError as error:
            raise Unusable("the HTTP response has no value for Postfix", str(error)) from None


def _compile_value(expression: str) -> Any:
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        return jmespath.compile(expression)
    except JMESPathError as error:
        raise ConfigError(
            f"not a JMESPath: {str(error).partition(chr(10))[0].rstrip(' :')}", path=("value",)
        ) from None


@hookimpl
def register_resolvers(register: Any) -> None:
    register("http", Http)
