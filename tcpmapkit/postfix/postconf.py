"""What postconf(1) prints, or main.cf itself: parameters, services, overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from tcpmapkit.postfix.values import NotUnderstood, expand
from tcpmapkit.resolvers.postfix_lines import WHITE_SPACE, logical_lines

__all__ = ["DEFAULTS", "QUEUE_DIRECTORY", "Postconf", "Service", "parse_postconf"]

QUEUE_DIRECTORY: Final = "/var/spool/postfix"
"""Where relative paths begin, by default."""

#: Postfix's defaults (postconf(5)) for what ``postconf -n`` leaves out.
DEFAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "compatibility_level": "0",
        "inet_protocols": "all",
        "ipc_timeout": "3600s",
        "mydestination": "$myhostname, localhost.$mydomain, localhost",
        "myorigin": "$myhostname",
        "parent_domain_matches_subdomains": "debug_peer_list,fast_flush_domains,mynetworks,"
        "permit_mx_backup_networks,qmqpd_authorized_clients,relay_domains,smtpd_access_maps",
        "propagate_unmatched_extensions": "canonical, virtual",
        "queue_directory": QUEUE_DIRECTORY,
        "recipient_delimiter": "",
        "smtpd_delay_reject": "yes",
        "smtpd_policy_service_default_action": "451 4.3.5 Server configuration problem",
        "smtpd_policy_service_max_idle": "300s",
        "smtpd_policy_service_max_ttl": "1000s",
        "smtpd_policy_service_request_limit": "0",
        "smtpd_policy_service_timeout": "100s",
        "stress": "",
        "virtual_transport": "virtual",
    }
)

# A transport's own parameters have the name of its service in front: "my-relay_time_limit".
_PARAMETER: Final = re.compile(r"([^\s/={}#]+)\s*=\s*(.*)", re.DOTALL)
_OVERRIDE: Final = re.compile(r"([^\s=]+/[a-z-]+)/([^\s/={}]+)\s*=\s*(.*)", re.DOTALL)
_SERVICE: Final = re.compile(
    r"(\S+)\s+(inet|unix|fifo|pass|unix-dgram)\s+[yn-]\s+[yn-]\s+([yn-])\s+\S+\s+\S+\s+(\S+)(?:\s.*)?",
    re.DOTALL,
)


@attrs.frozen
class Service:
    """A line of master.cf: `name` as in ``smtp/inet``, `command` as in ``smtpd``; `chroot` None for
    the default of this Postfix."""

    name: str
    command: str
    chroot: bool | None


@attrs.frozen
class Postconf:
    """A configuration of Postfix: unexpanded values, overrides by service (``submission/inet``)."""

    values: Mapping[str, str]
    overrides: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict)
    services: tuple[Service, ...] = ()
    #: Lines that are none of postconf's, with their numbers.
    strange: tuple[tuple[int, str], ...] = ()

    def written(self, name: str, service: str = "") -> str | None:
        """The unexpanded value, or the manual's default; None where neither is known."""
        for values in (self.overrides.get(service, {}), self.values, DEFAULTS):
            if name in values:
                return values[name]
        if name == "mydomain":  # what follows the first dot of the host's name
            host = self.written("myhostname", service)
            return None if host is None else host.partition(".")[2] or "localdomain"
        return None

    def value(self, name: str, service: str = "", *, complete: bool = True) -> str:
        """The expanded value. Raises `NotUnderstood`; with `complete` also for a parameter in it that
        is not known."""

        def lookup(other: str) -> str | None:
            found = self.written(other, service)
            if found is None and complete:
                raise NotUnderstood(f"${other} is not in the text, and its default is the machine's own")
            return found

        return expand(f"${{{name}}}", lookup)

    def chrooted(self, command: str) -> bool | None:
        """Whether a service that runs the program is in a chroot jail; None when no service is known."""
        services = [one for one in self.services if one.command == command]
        if not services:
            return None
        return any(self._old_default if one.chroot is None else one.chroot for one in services)

    @property
    def _old_default(self) -> bool:
        """Before compatibility level 1 a service is chrooted unless it says otherwise (master(5))."""
        level = (self.written("compatibility_level") or "0").strip()
        return level.partition(".")[0] == "0"

    def every_value(self) -> Iterator[tuple[str, str]]:
        """Service ("" for main.cf) and name of every parameter that the text sets."""
        for name in self.values:
            yield "", name
        for service, values in self.overrides.items():
            for name in values:
                yield service, name


def parse_postconf(text: str) -> Postconf:
    """Read the output of ``postconf`` or ``postconf -n``, that of ``postconf -M`` and ``-P`` after it,
    or main.cf itself. Of several values of a parameter the last counts, as in main.cf."""
    values: dict[str, str] = {}
    overrides: dict[str, dict[str, str]] = {}
    services: list[Service] = []
    strange: list[tuple[int, str]] = []
    for number, line in logical_lines(text, lambda number, why: strange.append((number, why))):
        line = line.rstrip(WHITE_SPACE)
        if match := _PARAMETER.fullmatch(line):
            values[match[1]] = match[2]
        elif match := _OVERRIDE.fullmatch(line):
            overrides.setdefault(match[1], {})[match[2]] = match[3]
        elif match := _SERVICE.fullmatch(line):
            chroot = {"y": True, "n": False}.get(match[3])
            services.append(Service(f"{match[1]}/{match[2]}", match[4], chroot))
        elif not line.startswith("postconf: "):  # its warnings, where somebody kept both streams
            strange.append((number, line[:60]))
    return Postconf(values, overrides, tuple(services), tuple(sorted(strange)))
