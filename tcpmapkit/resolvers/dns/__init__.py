"""``dns``: ask the DNS, as a stub resolver of the system's servers or of `nameservers`.

The name asked is the template `query`. A dot in ``{key}``, ``{domain}`` or a request attribute
separates labels; one in ``{local}``, ``{user}`` or ``{extension}`` is text within a label (RFC
1035, section 8), as a backslash is everywhere. A label that is not ASCII goes out as its A-label
(IDNA 2008, UTS 46), a localpart's as UTF-8. What cannot be a name (an empty label, one over 63
bytes, a name over 255, a control character, an address literal) is a miss. The name is absolute:
no search list.

With ``reverse = true`` every variable that is an IP address comes out reversed, by bytes or nibbles
(DNSBL, RFC 5782), and a query without an address is a miss; ``record = "PTR"`` needs no `query`
then, the name is the address's own under in-addr.arpa or ip6.arpa.

Values are what `match` and `result` can use: an address; a name without the final dot; for MX the
exchange alone; for SRV ``target:port``; for TLSA the four fields; for TXT the strings of a record
joined. MX and SRV come by preference, then all by text. The target ``.`` says "no such service"
(RFC 7505, RFC 2782) and is no value. A TXT record in no UTF-8 never matches `match`, and without
`match` is a temporary failure, as is any value with NUL, CR or LF.

NXDOMAIN and NODATA are misses for the SOA's negative TTL (RFC 2308), an answer holds for the least
TTL of its CNAME chain. SERVFAIL, REFUSED, a referral, nonsense and silence are temporary.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final, Literal

import attrs

from tcpmapkit import ConfigError, Found, Miss, TempFail, hookimpl
from tcpmapkit.resolvers.dns.names import check_template, name_for
from tcpmapkit.resolvers.dns.records import NotText, is_referral, negative_ttl, texts
from tcpmapkit.resolvers.remote import Unmatchable, ValueMatch

__all__ = ["Dns"]

Record = Literal["A", "AAAA", "MX", "TXT", "PTR", "SRV", "CNAME", "NS", "TLSA"]

#: Bytes of a UDP answer: what passes every network unfragmented (DNS flag day 2020).
_UDP_SIZE: Final = 1232

#: Seconds for a lookup that has no deadline, and at most for one attempt.
_LIFETIME: Final = 5.0
_ATTEMPT: Final = 2.0


class _Unusable(Exception):
    """An answer that is none; its text is for Postfix's log."""


@attrs.define(eq=False)
class Dns:
    """One kind of record, asked for under one kind of name."""

    record: Record = attrs.field(default="A", metadata={"help": "The type of record to ask for."})
    query: Annotated[Any, "template"] = attrs.field(
        default=None,
        metadata={"help": "The name to ask for; by default {domain}, with reverse the address's own name."},
    )
    reverse: bool = attrs.field(
        default=False,
        metadata={"help": "Write addresses in reverse, as in {client_address}.dnsbl.example.org."},
    )
    nameservers: tuple[str, ...] = attrs.field(
        default=(),
        metadata={"help": "The servers to ask, as 192.0.2.1:53 or [2001:db8::1]:53; default the system's."},
    )
    match: str | None = attrs.field(
        default=None,
        metadata={"help": "A regular expression (PCRE2); values in which it is not found are dropped."},
    )
    separator: str = attrs.field(default=",", metadata={"help": "What joins several values."})

    _servers: tuple[tuple[str, int], ...] = attrs.field(init=False)
    _match: Any = attrs.field(init=False, default=None)
    _resolver: Any = attrs.field(init=False, default=None)
    _backend: Any = attrs.field(init=False, default=None)
    _context: Any = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        mistakes = []
        for check in (self._take_nameservers, self._check_query, self._check_separator, self._take_match):
            try:
                check()
            except ConfigError as mistake:
                mistakes.append(mistake)
        if mistakes:
            raise ConfigError.several(mistakes)

    def _take_nameservers(self) -> None:
        self._servers = tuple(_server(text, number) for number, text in enumerate(self.nameservers))

    def _check_query(self) -> None:
        if self.reverse and self.query is None and self.record != "PTR":
            raise ConfigError(
                f"reverse asks for {self.record} records under a zone: which?",
                path=("reverse",),
                hint='as in query = "{key}.dnsbl.example.org"',
            )
        if self.reverse and self.query is not None and not self.query.variables:
            raise ConfigError("reverse takes a variable", path=("query",))
        if self.query is not None:
            check_template(self.query)

    def _check_separator(self) -> None:
        if not {"\0", "\r", "\n"}.isdisjoint(self.separator):
            raise ConfigError("a separator has no NUL, CR or LF", path=("separator",))

    def _take_match(self) -> None:
        if self.match is not None:
            self._match = ValueMatch(self.match)

    async def start(self, context: Any) -> None:
        """Load dnspython and read the system's servers, off the event loop. Raises `ConfigError`."""
        import asyncio

        self._resolver = await asyncio.to_thread(self._make_resolver)
        import dns.asyncbackend

        self._backend = dns.asyncbackend.get_backend("asyncio")
        self._context = context

    def _make_resolver(self) -> Any:
        import dns.asyncresolver
        import dns.exception
        import dns.nameserver

        try:
            resolver = dns.asyncresolver.Resolver(configure=not self._servers)
        except (dns.exception.DNSException, ValueError, OSError) as error:
            raise ConfigError(
                f"the system's DNS servers are unknown: {error}",
                file="/etc/resolv.conf",
                hint="or set nameservers",
            ) from None
        if self._servers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in self._servers]
        resolver.use_edns(0, 0, _UDP_SIZE)
        return resolver

    async def resolve(self, query: Any) -> Any:
        """The values of the records, joined; a miss, or a temporary failure."""
        import copy

        import dns.exception
        import dns.name
        import dns.resolver

        labels = name_for(self.query, query, self.reverse)
        if labels is None:
            return None
        try:
            name = dns.name.Name([*labels, b""])
        except dns.exception.DNSException:
            return None
        left = query.time_left()
        lifetime = left if left < float("inf") else _LIFETIME
        # One silent server must leave time for the next, and a lost datagram for another.
        resolver = copy.copy(self._resolver)
        resolver.timeout = min(_ATTEMPT, lifetime / (len(resolver.nameservers) + 1))
        try:
            answer = await resolver.resolve(
                name, self.record, raise_on_no_answer=False, lifetime=lifetime, backend=self._backend
            )
            return self._read(answer)
        except dns.resolver.NXDOMAIN as error:
            return Miss(negative_ttl(error.kwargs["responses"][name]))
        except dns.resolver.LifetimeTimeout:
            return TempFail("the DNS did not answer in time")
        except dns.resolver.NoNameservers as error:
            return TempFail("no DNS server gave an answer", detail=_troubles(error))
        except _Unusable as error:
            return TempFail(str(error))
        except (dns.exception.DNSException, OSError) as error:
            return TempFail("the DNS lookup failed", detail=type(error).__name__)

    def _read(self, answer: Any) -> Any:
        from dns.flags import TC

        if answer.response.flags & TC:
            raise _Unusable("a DNS answer is cut off")
        if answer.rrset is None:
            if is_referral(answer.response):
                raise _Unusable("a DNS server knows only whom else to ask")
            return Miss(negative_ttl(answer.response))
        ttl = float(answer.chaining_result.minimum_ttl)
        try:
            found = texts(self.record, answer.rrset, skip_invalid=self._match is not None)
        except NotText as error:
            raise _Unusable(str(error)) from None
        try:
            values = [value for value in found if value and (self._match is None or self._match(value))]
        except Unmatchable as error:
            raise _Unusable(f"a DNS record cannot be matched: {error}") from None
        if not values:
            return Miss(ttl)
        try:
            return Found.joined(values, self.separator, ttl)
        except ValueError as error:
            self._context.logger.debug("%s: %s", self._context.name, error)
            raise _Unusable("a DNS record has no value for Postfix") from None


def _troubles(error: Any) -> str:
    """Which server said what: a status word, or the kind of trouble."""
    return ", ".join(
        f"{where} port {port}: {what if isinstance(what, str) else type(what).__name__}"
        for where, _, port, what, _ in error.kwargs["errors"]
    )


def _server(text: str, number: int) -> tuple[str, int]:
    match = re.fullmatch(r"\[([^\]]*)\](?::(\d{1,5}))?|([^:]*)(?::(\d{1,5}))?|(.*)", text)
    assert match is not None
    host, port = match[1] or match[3] or match[5] or "", int(match[2] or match[4] or 53)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or not 0 < port < 65536:
        raise ConfigError(
            f"not a DNS server's address: {text!r}",
            path=("nameservers", number),
            hint="as in 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:53",
        )
    return str(address), port


@hookimpl
def register_resolvers(register: Any) -> None:
    register("dns", Dns)
