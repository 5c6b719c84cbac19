"""``postfix-config``: the lines for main.cf, and what an administrator should know beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from tcpmapkit.postfix.parameters import (
    DELAYED,
    REFUSING,
    STAGES,
    Parameter,
    find_parameter,
    guess_parameter,
    misfit,
)
from tcpmapkit.postfix.postconf import QUEUE_DIRECTORY

if TYPE_CHECKING:
    from tcpmapkit.config import Endpoint, MapConfig
    from tcpmapkit.postfix.served import Served

__all__ = ["main_cf", "main_cf_lines", "ready_line", "table", "warnings"]

#: An address that stands for all of the machine's -> the one that Postfix on it asks.
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

#: What ends or splits a name in a list of main.cf, or a socketmap's name in it.
_NOT_IN_A_NAME: Final = frozenset(" \t\r\n,{}:")


def main_cf_lines(served: Served, queue_directory: str = QUEUE_DIRECTORY) -> list[str]:
    """The lines of main.cf that ask a listener, with the parameters guessed; one for each map of a
    socketmap listener."""
    listener = served.listener
    if listener.protocol == "policy":
        return [f"{_restriction_list(served)} = check_policy_service {_service(served, queue_directory)}"]
    return [_guess(one).line(table(served, one.name, queue_directory)) for one in served.maps]


def ready_line(served: Served, queue_directory: str = QUEUE_DIRECTORY) -> str:
    """What ``run`` says of a listener that can answer."""
    names = ", ".join(one.name for one in served.maps)
    lines = "; ".join(main_cf_lines(served, queue_directory))
    return f"{served.listener.endpoint} serves {names}; in main.cf: {lines}"


def table(served: Served, name: str, queue_directory: str) -> str:
    """``tcp:host:port`` or ``socketmap:...:NAME``, as main.cf names the map."""
    endpoint = _asked_at(served.listener.endpoint, queue_directory)
    if served.listener.protocol == "tcp_table":
        return f"tcp:{endpoint.removeprefix('inet:')}"
    return f"socketmap:{endpoint}:{_dollars(name)}"


def main_cf(served: Sequence[Served], queue_directory: str = QUEUE_DIRECTORY) -> Iterator[str]:
    """The lines of a piece of main.cf, comments included. Where main.cf would keep only the last of
    several lines for a parameter, the later ones are comments."""
    written: set[str] = set()
    for one in served:
        listener = one.listener
        names = ", ".join(each.name for each in one.maps)
        yield f"# {listener.protocol} at {listener.endpoint}: {names}"
        for line, note in zip(main_cf_lines(one, queue_directory), _notes(one), strict=True):
            yield from (f"# {text}" for text in note)
            parameter = line.partition(" = ")[0]
            if parameter in written:
                yield f"# {parameter} is above: put the rest of this line into it."
            yield f"#{line}" if parameter in written else line
            written.add(parameter)
        yield ""
    if any(one.listener.protocol != "policy" for one in served):
        yield "# The parameters are guesses, by `search` and by name. proxy: in front of a table shares the"
        yield "# connections of proxymap(8) among Postfix's processes; not for a policy service."
        yield "# Parameters that refuse such maps:"
        for name, why in REFUSING.items():
            yield f"#   {name}: {why}"


def warnings(
    served: Sequence[Served], queue_directory: str = QUEUE_DIRECTORY, chrooted: bool | None = None
) -> Iterator[str]:
    """What is likely wrong with the lines. `chrooted`: whether smtpd(8) is; None when nobody knows."""
    for one in served:
        listener = one.listener
        if listener.protocol == "policy":
            yield from _policy_warnings(one)
        else:
            for each in one.maps:
                yield from _map_warnings(one, each)
        endpoint = listener.endpoint
        if endpoint.kind != "unix":
            continue
        if _below(endpoint.path, queue_directory) is None and chrooted is not False:
            yield (
                f"{endpoint} is not below queue_directory ({queue_directory}): services that are chrooted "
                "in master.cf cannot connect to it"
            )
        if any(character in _NOT_IN_A_NAME for character in endpoint.path):
            yield f"{endpoint} has a character that main.cf cannot carry in a list"


def _guess(one: MapConfig) -> Parameter:
    return guess_parameter(one.name, one.search)


def _map_warnings(served: Served, one: MapConfig) -> Iterator[str]:
    if one.name.lower() in REFUSING and one.name.lower() != "virtual_mailbox_maps":
        yield f"map {one.name}: {REFUSING[one.name.lower()]}"
    meant = find_parameter(one.name.lower()) or _guess(one)
    wrong = misfit(meant, one.search, served.brought.get(one.name, frozenset()))
    if wrong is not None:
        yield f"map {one.name}: {wrong}"
    if served.listener.protocol == "socketmap" and any(sign in _NOT_IN_A_NAME for sign in one.name):
        yield f"map {one.name!r}: main.cf cannot carry such a name in a socketmap: table"


def _policy_warnings(served: Served) -> Iterator[str]:
    listener = served.listener
    if listener.stage in DELAYED:
        yield (
            f"{listener.endpoint}: stage {listener.stage} needs `smtpd_delay_reject = no`; with the default, "
            f"yes, smtpd(8) asks {STAGES[listener.stage]} at RCPT"
        )
    if "recipient_count" in served.attributes and listener.stage not in (None, "DATA", "END-OF-MESSAGE"):
        yield f"{listener.endpoint}: recipient_count is 0 before DATA, so at stage {listener.stage} too"
    if listener.default_action != "close" and _option("default_action", listener.default_action) is None:
        yield f"{listener.endpoint}: main.cf cannot carry its default_action: unbalanced braces"


def _notes(served: Served) -> Iterator[list[str]]:
    """For each line what to know about it."""
    listener = served.listener
    if listener.protocol == "policy":
        yield _policy_notes(served)
        return
    for one in served.maps:
        parameter = _guess(one)
        notes = []
        if parameter.name == "transport_maps":
            notes.append("Postfix also asks transport_maps for *, every 30 s: what it says there is for all.")
        if parameter.restrictions == "smtpd_recipient_restrictions":
            notes.append("After reject_unauth_destination, where smtpd_relay_restrictions has none.")
        if not parameter.shared:
            notes.append("Without proxy: in front, unless proxy_read_maps is told.")
        yield notes


def _policy_notes(served: Served) -> list[str]:
    listener = served.listener
    notes = [
        f"A lookup takes up to {served.deadline:g} s: smtpd_policy_service_timeout (100s) must be longer; "
        "request_limit 0, the default, keeps connections open."
    ]
    if listener.default_action == "close":
        notes.append(
            "When a lookup fails nothing is said, and smtpd_policy_service_default_action counts: 451 by "
            "default, which defers."
        )
    else:
        notes.append("default_action counts when nobody answers; the listener's own is the same.")
    if _restriction_list(served) == "smtpd_recipient_restrictions":
        notes.append("After reject_unauth_destination, where smtpd_relay_restrictions has none.")
    return notes


def _restriction_list(served: Served) -> str:
    stage = served.listener.stage
    if stage is None:  # the number of recipients is known from DATA on
        stage = "DATA" if "recipient_count" in served.attributes else "RCPT"
    return STAGES[stage]


def _service(served: Served, queue_directory: str) -> str:
    endpoint = _asked_at(served.listener.endpoint, queue_directory)
    action = served.listener.default_action
    option = None if action == "close" else _option("default_action", action)
    return f"{{ {endpoint}, {option} }}" if option else endpoint


def _option(name: str, value: str) -> str | None:
    """``name=value`` for a policy service; in braces where the value would be taken apart; None where
    its own braces do not balance."""
    level = 0
    for character in value:
        level += (character == "{") - (character == "}")
        if level < 0:
            return None
    if level:
        return None
    plain = not any(character.isspace() or character in ",{}" for character in value)
    return f"{name}={_dollars(value)}" if plain else f"{{ {name} = {_dollars(value)} }}"


def _asked_at(endpoint: Endpoint, queue_directory: str) -> str:
    """The endpoint as Postfix on this machine names it."""
    if endpoint.kind == "unix":
        return f"unix:{_dollars(_below(endpoint.path, queue_directory) or endpoint.path)}"
    return str(attrs.evolve(endpoint, host=_ANY_ADDRESS.get(endpoint.host, endpoint.host)))


def _below(path: str, directory: str) -> str | None:
    """The path relative to a directory, None when it is not below it."""
    relative = os.path.relpath(os.path.normpath(path), os.path.normpath(directory))
    return None if relative.startswith("..") or relative == "." else relative


def _dollars(text: str) -> str:
    return text.replace("$", "$$")
