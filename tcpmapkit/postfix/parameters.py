"""Which parameters of main.cf take which maps: the one table for guesses, warnings and comparisons.

From postconf(5), access(5) and the manual of each table; who asks and how is in Postfix's own sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import attrs

from tcpmapkit.protocols.policy import Stage
from tcpmapkit.search import Search

__all__ = [
    "DELAYED",
    "PARAMETERS",
    "REFUSING",
    "RESTRICTION_LISTS",
    "STAGES",
    "Parameter",
    "find_parameter",
    "guess_parameter",
    "misfit",
]


@attrs.frozen
class Parameter:
    """A parameter that takes tables, or a ``check_*_access`` restriction.

    `search` is the map's option that gives what an indexed table would give there, None where Postfix
    itself asks the full key only; `also` is one that gives the same. `words`: the name of a map that has
    one of these in it is likely meant for it. `restrictions`: the list in which such a restriction
    usually stands. `shared`: the default of ``proxy_read_maps`` lets ``proxy:`` be put in front.
    """

    name: str
    search: Search | None
    words: tuple[str, ...] = ()
    restrictions: str = ""
    shared: bool = True
    also: Search | None = None

    def line(self, table: str) -> str:
        """The line of main.cf that names the table."""
        return f"{self.restrictions} = {self.name} {table}" if self.restrictions else f"{self.name} = {table}"


def _access(what: str, stage: str, *words: str) -> Parameter:
    return Parameter(f"check_{what}_access", "access", words, f"smtpd_{stage}_restrictions")


_VERIFY: Final = "address_verify_"

#: In the order in which a map's name is compared with `words`: the more telling first.
PARAMETERS: Final = (
    Parameter("virtual_alias_maps", "virtual", ("alias", "virtual")),
    Parameter("transport_maps", "transport", ("transport", "route")),
    Parameter("sender_canonical_maps", "canonical", ("sender_canonical",)),
    Parameter("recipient_canonical_maps", "canonical", ("recipient_canonical",)),
    Parameter("canonical_maps", "canonical", ("canonical",)),
    Parameter("smtp_generic_maps", "generic", ("generic",)),
    Parameter("relocated_maps", "address", ("relocated",)),
    Parameter("smtpd_sender_login_maps", "address", ("login",)),
    Parameter("relay_recipient_maps", "address", ("relay",)),
    Parameter("relay_domains", "domain", ("relay",)),
    # By default it is $virtual_mailbox_maps: a key without @ is asked as it is.
    Parameter("virtual_mailbox_domains", None, ("domain",), also="address"),
    Parameter("virtual_mailbox_maps", "address", ("mailbox",)),
    Parameter("sender_bcc_maps", "address", ("sender_bcc",)),
    Parameter("recipient_bcc_maps", "address", ("bcc",)),
    Parameter("sender_dependent_relayhost_maps", "address", ("relayhost",)),
    Parameter("smtp_sasl_password_maps", "address", ("password",)),
    Parameter("smtp_tls_policy_maps", None, ("tls",)),
    _access("client", "client", "client"),
    _access("helo", "helo", "helo"),
    _access("sender", "sender", "sender"),
    _access("recipient", "recipient", "recipient"),
    # Not guessed, but known.
    Parameter("lmtp_generic_maps", "generic"),
    Parameter("lmtp_sasl_password_maps", "address"),
    Parameter("local_recipient_maps", "address"),
    Parameter("sender_dependent_default_transport_maps", "address"),
    Parameter(f"{_VERIFY}sender_dependent_relayhost_maps", "address"),
    Parameter(f"{_VERIFY}sender_dependent_default_transport_maps", "address"),
    Parameter(f"{_VERIFY}transport_maps", "transport"),
    Parameter("lmtp_tls_policy_maps", None),
    Parameter("mydestination", None),
    Parameter("mynetworks", None),
    Parameter("virtual_alias_domains", None, also="virtual"),
    Parameter("check_sasl_access", None, (), "smtpd_recipient_restrictions"),
    Parameter("check_ccert_access", None, (), "smtpd_recipient_restrictions"),
    Parameter("check_etrn_access", "access", (), "smtpd_etrn_restrictions", shared=False),
    _access("reverse_client_hostname", "client"),
    *(
        _access(f"{what}_{record}", stage)
        for what, stage in (
            ("client", "client"),
            ("reverse_client_hostname", "client"),
            ("helo", "helo"),
            ("sender", "sender"),
            ("recipient", "recipient"),
        )
        for record in ("a", "mx", "ns")
    ),
)

_BY_NAME: Final = {parameter.name: parameter for parameter in PARAMETERS}

#: A map with `search` whose name says nothing -> what it is most likely meant for.
_USUAL: Final[Mapping[Search | None, str]] = {
    None: "virtual_alias_maps",
    "address": "smtpd_sender_login_maps",
    "virtual": "virtual_alias_maps",
    "canonical": "canonical_maps",
    "generic": "smtp_generic_maps",
    "transport": "transport_maps",
    "access": "check_recipient_access",
    "domain": "relay_domains",
}

#: Delivery agents refuse network maps for what decides about file access (local(8), virtual(8)).
REFUSING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "alias_maps": "local(8) refuses tcp: and socketmap: maps here; use virtual_alias_maps",
        "mailbox_command_maps": "local(8) refuses tcp: and socketmap: maps here",
        "virtual_mailbox_maps": "virtual(8) refuses them; smtpd(8) and trivial-rewrite(8) take them, so "
        "they work with virtual_transport = lmtp:...",
        "virtual_uid_maps": "virtual(8) refuses tcp: and socketmap: maps here",
        "virtual_gid_maps": "virtual(8) refuses tcp: and socketmap: maps here",
    }
)

#: protocol_state -> the restriction list that is asked at it, ``smtpd_delay_reject = no`` provided for
#: those before RCPT (SMTPD_POLICY_README).
STAGES: Final[Mapping[Stage, str]] = MappingProxyType(
    {
        "CONNECT": "smtpd_client_restrictions",
        "EHLO": "smtpd_helo_restrictions",
        "HELO": "smtpd_helo_restrictions",
        "MAIL": "smtpd_sender_restrictions",
        "RCPT": "smtpd_recipient_restrictions",
        "DATA": "smtpd_data_restrictions",
        "END-OF-MESSAGE": "smtpd_end_of_data_restrictions",
        "VRFY": "smtpd_recipient_restrictions",
        "ETRN": "smtpd_etrn_restrictions",
    }
)

#: The stages whose lists are evaluated at RCPT unless ``smtpd_delay_reject = no``.
DELAYED: Final[frozenset[Stage]] = frozenset({"CONNECT", "EHLO", "HELO", "MAIL"})

RESTRICTION_LISTS: Final = frozenset({*STAGES.values(), "smtpd_relay_restrictions"})


def find_parameter(name: str) -> Parameter | None:
    """The parameter or restriction of that name, None for one of which this knows nothing."""
    return _BY_NAME.get(name)


def guess_parameter(map_name: str, search: Search | None) -> Parameter:
    """What a map is most likely meant for, by its `search` and then by its name.

    A name that is a parameter's own, as in ``[maps.relay_domains]``, is taken at its word.
    """
    name = map_name.lower()
    candidates = [one for one in PARAMETERS if search is None or one.search == search]
    exact = next((one for one in candidates if one.name == name), None)
    by_word = (one for one in candidates if any(word in name for word in one.words))
    return exact or next(by_word, _BY_NAME[_USUAL[search]])


def misfit(
    parameter: Parameter, search: Search | None, brought: frozenset[Search] = frozenset()
) -> str | None:
    """What is wrong with a map of that `search` behind the parameter, None when it fits.

    `brought` are the searches of the maps that it refers to: they do for one that has none itself.
    """
    fitting = {parameter.search, parameter.also or parameter.search}
    if search in fitting or (search is None and brought & fitting):
        return None
    if parameter.search is None:
        return f'{parameter.name} wants a map without `search`, this one has "{search}"'
    if search is None:
        return (
            f'{parameter.name} wants `search = "{parameter.search}"`: without it a map is asked the full '
            "key only, as Postfix sends it"
        )
    return f'{parameter.name} wants `search = "{parameter.search}"`, not "{search}"'
