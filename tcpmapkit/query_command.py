"""``tcpmapkit query``: a map or a policy listener asked without a server, as Postfix would ask."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import click

from tcpmapkit.command_line import listener_named
from tcpmapkit.output import print_line, print_rows, tell
from tcpmapkit.progress import show_progress
from tcpmapkit.query import Found, NotFound
from tcpmapkit.step_failures import in_full

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.maps import Map
    from tcpmapkit.policy_question import PolicyAnswer, PolicyQuestions
    from tcpmapkit.site import Site

__all__ = [
    "can_exist",
    "map_named",
    "policy_listener_named",
    "query_map",
    "query_policy",
    "request_of",
    "summary",
]

_FAILED: Final = os.EX_TEMPFAIL
_NOT_FOUND: Final = 1


def summary(statuses: set[int]) -> int:
    """The status for several questions: failed if any did, else found if any was."""
    return _FAILED if _FAILED in statuses else 0 if 0 in statuses else _NOT_FOUND


# A map.


def can_exist(key: str) -> bool:
    """Whether there can be such a key for Postfix: UTF-8, of no more bytes than a request may have."""
    from tcpmapkit.protocols.framing import MAX_KEY

    try:
        return len(key.encode()) <= MAX_KEY
    except UnicodeEncodeError:
        return False


def map_named(site: Site, name: str) -> Map:
    """The map of this name. Raises `click.UsageError`, with what may have been meant."""
    from tcpmapkit.config.mistakes import did_you_mean

    if name not in site.maps.maps:
        hint = did_you_mean(name, site.maps.maps)
        raise click.UsageError(f"there is no map {name!r}" + (f" ({hint})" if hint else ""))
    return site.maps.maps[name]


async def query_map(site: Site, asked: Map, key: str, explain: bool) -> int:
    """Ask a map for a key, or for those on standard input, and print; the exit status."""
    try:
        show_progress(site.maps, logged=False)
        await site.start([asked.name])
        if key != "-":
            return await _ask_one(asked, key, explain, prefix=False)
        statuses = set()
        for line in sys.stdin.buffer:
            one = line.rstrip(b"\n").removesuffix(b"\r")
            try:
                statuses.add(await _ask_one(asked, one.decode(), explain, prefix=True))
            except UnicodeDecodeError:
                statuses.add(_NOT_FOUND)  # for Postfix an invalid key does not exist
        return summary(statuses)
    finally:
        await site.maps.stop()


async def _ask_one(asked: Map, key: str, explain: bool, *, prefix: bool) -> int:
    if not can_exist(key):
        return _NOT_FOUND
    question = asked.query(key)
    if explain:
        question.trace = []
    began = asked.clock()
    outcome = await asked.lookup(question)
    elapsed = asked.clock() - began
    if explain:
        from tcpmapkit.explain import explanation

        print_rows(explanation(asked, question, outcome, elapsed))
    elif isinstance(outcome, Found):
        print_line(f"{key}\t{outcome.value}" if prefix else outcome.value)
    if isinstance(outcome, Found):
        return 0
    if isinstance(outcome, NotFound):
        return _NOT_FOUND
    reason = in_full(outcome)
    tell(f"{key}: {reason}" if prefix else reason)
    return _FAILED


# A policy listener.


def policy_listener_named(site: Site, name: str) -> ListenerConfig:
    """As `listener_named`, for one that takes policy requests."""
    from tcpmapkit.protocols import PROTOCOLS

    listener = listener_named(site, name)
    if not PROTOCOLS[listener.protocol].has_attributes:
        raise click.UsageError(f"{listener.endpoint} speaks {listener.protocol}, not policy")
    return listener


def request_of(words: Iterable[str]) -> Mapping[str, str]:
    """The attributes of a request written as NAME=VALUE; its ``request`` need not be.

    Values are as templates and rules see them: ``ccert_subject`` is not in xtext. Raises
    `click.UsageError` for what no request can hold.
    """
    from tcpmapkit.protocols.framing import ProtocolError
    from tcpmapkit.protocols.policy import encode_request

    attributes = {}
    for word in words:
        # What is not UTF-8 becomes what it becomes in a request.
        name, equals, value = word.encode(errors="surrogateescape").decode(errors="replace").partition("=")
        if not equals:
            raise click.UsageError(f"{word!r} is not NAME=VALUE")
        attributes[name] = value
    try:
        return _parsed(encode_request(attributes))
    except (ValueError, ProtocolError) as error:
        raise click.UsageError(str(error)) from None


def _parsed(request: bytes) -> Mapping[str, str]:
    """The attributes of one whole request, as the server reads it. Raises `ProtocolError`."""
    from tcpmapkit.protocols.framing import Lookup, ProtocolError
    from tcpmapkit.protocols.policy import PolicyCodec

    codec = PolicyCodec()
    codec.receive_data(request)
    read = codec.next_request()
    if not isinstance(read, Lookup):
        raise ProtocolError("a request ends with an empty line")
    return read.attributes


async def query_policy(
    site: Site, listener: ListenerConfig, request: Mapping[str, str] | None, explain: bool
) -> int:
    """Ask a policy listener, or for the requests on standard input (None), and print; the exit status."""
    from tcpmapkit.policy_question import PolicyQuestions
    from tcpmapkit.protocols.framing import ProtocolError

    assert listener.map is not None
    asked = site.maps.maps[listener.map]
    questions = PolicyQuestions(listener, asked)
    try:
        show_progress(site.maps, logged=False)
        await site.start([asked.name])
        if request is not None:
            return await _ask_policy(listener, asked, questions, request, explain)
        statuses = set()
        for number, each in enumerate(_requests(sys.stdin.buffer), 1):
            which = f"request {number}: "
            try:
                attributes = _parsed(each)
            except ProtocolError as error:
                tell(f"{which}{error} ({_closed()})")
                statuses.add(_FAILED)
                continue
            statuses.add(await _ask_policy(listener, asked, questions, attributes, explain, which))
        return summary(statuses)
    finally:
        await site.maps.stop()


def _requests(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Requests as Postfix sends them; the last one may end with the input."""
    request = b""
    for line in lines:
        if line.rstrip(b"\r\n"):
            request += line if line.endswith(b"\n") else line + b"\n"
        elif request:
            yield request + line
            request = b""
    if request:
        yield request + b"\n"


async def _ask_policy(
    listener: ListenerConfig,
    asked: Map,
    questions: PolicyQuestions,
    attributes: Mapping[str, str],
    explain: bool,
    which: str = "",
) -> int:
    _hint_at(listener, attributes, which)
    answer = await questions.ask(attributes, trace=explain)
    if explain:
        from tcpmapkit.explain import policy_explanation

        print_rows(policy_explanation(listener, attributes, asked, answer))
    if answer.failure is not None:
        tell(f"{which}{answer.failure} ({_told(answer)})")
        return _FAILED
    if not explain:
        print_line(answer.action or "")
    return 0 if answer.found else _NOT_FOUND


def _told(answer: PolicyAnswer) -> str:
    return _closed() if answer.action is None else f"Postfix is told {answer.action}"


def _closed() -> str:
    from tcpmapkit.explain import OWN_DEFAULT

    return f"the connection is closed, and Postfix takes {OWN_DEFAULT}"


def _hint_at(listener: ListenerConfig, attributes: Mapping[str, str], which: str) -> None:
    """Tell of attributes that Postfix does not send, and of another stage than the listener's."""
    from tcpmapkit.config.mistakes import closest
    from tcpmapkit.protocols.policy import ATTRIBUTES

    for name in attributes:
        if name not in ATTRIBUTES:
            hint = closest(name, ATTRIBUTES)
            tell(f"hint: {which}Postfix sends no attribute {name!r}" + (f" ({hint})" if hint else ""))
    stage = attributes.get("protocol_state")
    if None not in (stage, listener.stage) and stage != listener.stage:
        tell(f"hint: {which}{listener.endpoint} is meant to be asked at stage {listener.stage}, not {stage}")
