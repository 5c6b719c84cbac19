"""``postfix-config``: the lines for main.cf, and which parameters refuse such maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from tcpmapkit.config import Config, ListenerConfig

__all__ = ["main_cf_line", "postfix_config"]

#: Part of a map's name -> the line of main.cf that it is most likely meant for.
_LIKELY: Final = (
    ("alias", "virtual_alias_maps = {}"),
    ("virtual", "virtual_alias_maps = {}"),
    ("transport", "transport_maps = {}"),
    ("route", "transport_maps = {}"),
    ("canonical", "canonical_maps = {}"),
    ("generic", "smtp_generic_maps = {}"),
    ("relocated", "relocated_maps = {}"),
    ("login", "smtpd_sender_login_maps = {}"),
    ("relay", "relay_domains = {}"),
    ("domain", "virtual_mailbox_domains = {}"),
    ("mailbox", "virtual_mailbox_maps = {}"),
    ("bcc", "recipient_bcc_maps = {}"),
    ("tls", "smtp_tls_policy_maps = {}"),
    ("client", "smtpd_client_restrictions = check_client_access {}"),
    ("helo", "smtpd_helo_restrictions = check_helo_access {}"),
    ("sender", "smtpd_sender_restrictions = check_sender_access {}"),
    ("recipient", "smtpd_recipient_restrictions = check_recipient_access {}"),
)
#: A map with such a name is named after its parameter.
_PARAMETER: Final = ("_maps", "_domains")
_DEFAULT: Final = "virtual_alias_maps = {}"

#: An address that stands for all of the machine's -> the one that Postfix on it asks.
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

#: Delivery agents refuse network maps for what decides about file access (local(8), virtual(8)).
REFUSING: Final = {
    "alias_maps": "local(8) refuses tcp: and socketmap: maps here; use virtual_alias_maps",
    "virtual_mailbox_maps": "virtual(8) refuses them; smtpd(8) and trivial-rewrite(8) take them, so "
    "they work with virtual_transport = lmtp:...",
    "virtual_uid_maps": "virtual(8) refuses tcp: and socketmap: maps here",
    "virtual_gid_maps": "virtual(8) refuses tcp: and socketmap: maps here",
}


def main_cf_line(listener: ListenerConfig) -> str:
    """The line for main.cf, with the parameter guessed from the map's name."""
    name = listener.map.lower()
    if name.endswith(_PARAMETER):
        line = f"{name} = {{}}"
    else:
        line = next((line for part, line in _LIKELY if part in name), _DEFAULT)
    host = _ANY_ADDRESS.get(listener.endpoint.host, listener.endpoint.host)
    endpoint = attrs.evolve(listener.endpoint, host=host)
    return line.format(f"tcp:{str(endpoint).removeprefix('inet:')}")


def postfix_config(config: Config) -> Iterator[str]:
    """The lines of a piece of main.cf, comments included."""
    for listener in config.listeners:
        yield f"# map {listener.map}, {listener.protocol} at {listener.endpoint}."
        yield "# The parameter is a guess from the map's name; any that takes a table will do."
        yield main_cf_line(listener)
        yield ""
    if config.listeners:
        yield "# Postfix asks a tcp: map for the full key only: no user part without its extension,"
        yield "# no @domain, no parent domain. Parameters that refuse such maps:"
        for parameter, why in REFUSING.items():
            yield f"#   {parameter}: {why}"
