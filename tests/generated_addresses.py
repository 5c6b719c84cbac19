"""Tables and the addresses to ask them for, made by a seed: what search orders are compared with.

A table has keys of every form that Postfix looks up, so that most addresses match one, and many match
several. The results of aliases never lead back: a result's domain comes later in `DOMAINS` than the
key's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import attrs

from tests.postfix_observed import LOGINS

LOCAL_DOMAINS = ("mail.example.org", "local.example.org")  # MAIN_CF's mydestination
DOMAINS = (
    *LOCAL_DOMAINS,
    *("example.com", "sub.example.com", "a.b.sub.example.com", "bücher.example.com", "[192.0.2.1]"),
    *("[IPv6:2001:db8::1]", "example.net", "sub.example.net", "x.y.example.net", "xn--bcher-kva.example.net"),
)
# A table whose keys are domains has none for these: their addresses find a domain that they are part of, or
# nothing, and go on to the keys behind domains.
WITHOUT_KEY = (
    *("a.b.sub.example.com", "b.sub.example.com"),
    *("example.net", "xn--bcher-kva.example.net", "[IPv6:2001:db8::1]", "net", "org"),
)
# What results are in; no key is, so that a search ends there.
ELSEWHERE = ("there.example.org", "other.example.org")

USERS = ("joe", "Ann", "bob.smith", "jörg", "Σίσυφος", '"a b"', '"x,y"', '"at@sign"', r'"quo\"te"')
NEVER_SPLIT = ("postmaster", "mailer-daemon")
LISTS = ("owner-list", "list-request", "owner-list+x", "list-request+x")
EXTENSIONS = ("x", "Ext", "x+y", "", "ä", "1.2")


@attrs.frozen
class Generated:
    """A table and the addresses to ask for."""

    entries: tuple[tuple[str, str], ...]
    addresses: tuple[str, ...]

    def texthash(self) -> str:
        """The table as a texthash: file, in the format of postmap(1)."""
        return "".join(f"{key} {value}\n" for key, value in self.entries)

    def with_entry(self, key: str, value: str) -> Generated:
        """The same with another value for one key."""
        entries = [entry for entry in self.entries if entry[0].casefold() != key.casefold()]
        return attrs.evolve(self, entries=(*entries, (key, value)))


def _with_extension(user: str, extension: str) -> str:
    if user.endswith('"'):
        return f'{user[:-1]}+{extension}"'
    return f"{user}+{extension}"


def _localpart(chance: random.Random) -> str:
    user = chance.choice(chance.choices([USERS, NEVER_SPLIT, LISTS], [8, 1, 1])[0])
    return _with_extension(user, chance.choice(EXTENSIONS)) if chance.random() < 0.4 else user


def _recased(chance: random.Random, text: str) -> str:
    return chance.choice([text, text, text, text.upper(), text.capitalize()])


def addresses(chance: random.Random, size: int) -> list[str]:
    """Addresses as they come in SMTP: no two equal, local ones without a domain among them."""
    found = dict.fromkeys(["postmaster", "joe", "joe+x", '"joe"@example.com', "joe@example.com."])
    while len(found) < size:
        localpart = _localpart(chance)
        domain = chance.choice(chance.choices([LOCAL_DOMAINS, DOMAINS], [1, 3])[0])
        if "@" in localpart and domain in LOCAL_DOMAINS:
            continue  # Postfix takes it for mail to be passed on (resolve_dequoted_address)
        found[f"{_recased(chance, localpart)}@{_recased(chance, domain)}"] = None
    return list(found)


def _parents(domain: str) -> list[str]:
    labels = domain.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))] if "[" not in domain else [domain]


def _address_key(chance: random.Random) -> str:
    """A key of the kinds user+extension@domain, user@domain, user+extension, user, @domain."""
    domain = chance.choice(DOMAINS)
    kind = chance.random()
    if kind < 0.1:
        return f"@{_recased(chance, domain)}"
    localpart = _recased(chance, _localpart(chance))
    return localpart if kind < 0.4 else f"{localpart}@{domain}"


def _rank(key: str) -> int:
    """Where the key's domain stands in `DOMAINS`; a bare localpart is of the local domains."""
    if "@" not in key or key.endswith('"'):
        return len(LOCAL_DOMAINS) - 1
    return DOMAINS.index(next(known for known in DOMAINS if known.lower() == key.rpartition("@")[2].lower()))


def _alias(chance: random.Random, key: str) -> str:
    later = [*DOMAINS[_rank(key) + 1 :], *ELSEWHERE]
    kind = chance.random()
    if kind < 0.25:
        return f"@{chance.choice(later)}"
    if kind < 0.6:
        return f"{_localpart(chance)}@{chance.choice(later)}"
    results = [f"{_localpart(chance)}@{chance.choice(ELSEWHERE)}" for _ in range(chance.randint(1, 3))]
    if chance.random() < 0.3:
        results.append(f"@{chance.choice(ELSEWHERE)}")
    return chance.choice([", ", " ", ","]).join(results)


def _one_address(chance: random.Random, key: str) -> str:
    domain = chance.choice([*DOMAINS[_rank(key) + 1 :], *ELSEWHERE])
    return f"@{domain}" if chance.random() < 0.3 else f"{_localpart(chance)}@{domain}"


DOMAIN_KEYS = [name for domain in DOMAINS for name in _parents(domain) if name not in WITHOUT_KEY]


def _domain_key(chance: random.Random, leading_dot: float) -> str:
    domain = chance.choice(DOMAIN_KEYS)
    dot = "." if chance.random() < leading_dot and "[" not in domain else ""
    return _recased(chance, f"{dot}{domain}")


def _transport_key(chance: random.Random) -> str:
    if chance.random() < 0.7:
        return f"{_recased(chance, _localpart(chance))}@{chance.choice(DOMAINS)}"
    return _domain_key(chance, 0.5)


def _transport(chance: random.Random, key: str) -> str:
    nexthop = f"n{chance.randrange(10**6)}"
    forms = ["alpha:", f"beta:{nexthop}", f"gamma:[{nexthop}]:25", f":{nexthop}", f"error:5.1.1 {nexthop}"]
    return chance.choice(forms)


def _access_key(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.4:
        return f"{_recased(chance, _localpart(chance))}@{chance.choice(DOMAINS)}"
    return f"{_localpart(chance)}@" if kind < 0.75 else _domain_key(chance, 0.1)


def _action(chance: random.Random, key: str) -> str:
    text = f"n{chance.randrange(10**6)}"
    return chance.choice([f"REJECT {text}", f"550 5.1.1 {text}", f"450 4.7.1 {text}", "OK", "DUNNO"])


def _owners(chance: random.Random, key: str) -> str:
    owners = chance.sample(LOGINS, chance.randint(1, 3))
    return chance.choice([", ", " "]).join(owners)


def _text(chance: random.Random, key: str) -> str:
    return f"n{chance.randrange(10**6)}@example.net"


HOSTS = ("example.com", "example.net", "mail.example.com", "a.b.mail.example.com", "x.example.net")
HOST_KEYS = [name for host in HOSTS for name in _parents(host) if name not in WITHOUT_KEY]
NETWORKS = ("192.0.2", "198.51.100", "2001:db8", "2001:db8:1", "2001:db8:1:2:3:4", "203.0.113")
NETWORK_KEYS = NETWORKS[:-1]


def clients(chance: random.Random, size: int) -> list[str]:
    """Host names, IPv4 and IPv6 addresses; the latter also as nobody writes them."""
    found = dict.fromkeys(["2001:db8::", "2001:DB8:1::1", "2001:0db8:1:2:3:4:0005:6", "Mail.Example.COM"])
    while len(found) < size:
        network = chance.choice(NETWORKS)
        if chance.random() < 0.3:
            found[f"{chance.choice(['h', 'H', 'mx.h'])}{chance.randrange(9)}.{chance.choice(HOSTS)}"] = None
        elif ":" in network:
            found[f"{network}::{chance.randrange(1, 200):x}"] = None
        else:
            found[f"{network}.{chance.randrange(1, 30)}"] = None
    return list(found)


def _client_key(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.3:
        return _recased(chance, chance.choice(HOST_KEYS))
    if kind < 0.6:
        network = chance.choice(NETWORK_KEYS)
        parts = network.split(":" if ":" in network else ".")
        return (":" if ":" in network else ".").join(parts[: chance.randint(1, len(parts))])
    return chance.choice(clients(chance, 40)[4:])


def names(chance: random.Random, size: int) -> list[str]:
    """What clients say for HELO."""
    hosts = [
        f"{host}{number}.{domain}" for host in ("h", "H", "mx.h") for number in range(9) for domain in HOSTS
    ]
    return ["[192.0.2.1]", "[IPv6:2001:db8::1]", "localhost", *chance.sample(hosts, min(size, len(hosts)))]


Maker = tuple[
    Callable[[random.Random], str],
    Callable[[random.Random, str], str],
    Callable[[random.Random, int], Sequence[str]],
]
MAKERS: dict[str, Maker] = {
    "virtual_alias_maps": (_address_key, _alias, addresses),
    "canonical_maps": (_address_key, _one_address, addresses),
    "recipient_canonical_maps": (_address_key, _one_address, addresses),
    "sender_canonical_maps": (_address_key, _one_address, addresses),
    "smtp_generic_maps": (_address_key, _one_address, addresses),
    "transport_maps": (_transport_key, _transport, addresses),
    "smtpd_sender_login_maps": (_address_key, _owners, addresses),
    "relocated_maps": (_address_key, _text, addresses),
    # Lists of domains open a texthash: without folding its keys, and fold what they look for.
    "relay_domains": (lambda chance: _domain_key(chance, 0.1).lower(), _text, addresses),
    "check_client_access": (_client_key, _action, clients),
    "check_helo_access": (_client_key, _action, names),
    "check_sender_access": (_access_key, _action, addresses),
    "check_recipient_access": (_access_key, _action, addresses),
}


def generate(parameter: str, seed: int = 1, entries: int = 60, size: int = 250) -> Generated:
    """A table of so many entries for `parameter` (one of `MAKERS`), and `size` addresses; the same each time.

    No two keys are equal when folded.
    """
    make_key, make_value, make_addresses = MAKERS[parameter]
    chance = random.Random(f"{parameter} {seed}")
    table: dict[str, tuple[str, str]] = {}
    for _ in range(entries * 20):
        if len(table) == entries:
            break
        key = make_key(chance)
        table.setdefault(key.casefold(), (key, make_value(chance, key)))
    if parameter == "check_sender_access":
        table["<>"] = ("<>", "REJECT the null sender")
    asked = list(make_addresses(chance, size))
    if parameter == "check_sender_access":
        asked.append("")
    return Generated(tuple(table.values()), tuple(asked))
