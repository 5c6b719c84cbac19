"""What the real Postfix makes of addresses under a parameter, seen from outside.

`observe(mail, "virtual_alias_maps", "texthash:/...", addresses)` is a dict that is equal for two tables
if, and only if, Postfix does the same with them: it compares no lookups but what becomes of real mail, in
SMTP replies, in the log, and in what another SMTP server gets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from tests.private_postfix import PrivatePostfix, Reply, Session
from tests.smtp_sink import Received, SmtpSink, running_login_server, running_sink

# What the last restriction says, when the table had nothing to say.
NOTHING = "nothing found"
LAST = f"static:{{554 5.7.1 {NOTHING}}}"

# A client address that no generated table has an entry for; host names are asked with it.
ANY_CLIENT = "203.0.113.251"

LOGINS = ("alice", "bob", "carol", "dave", "erin")

Observed = dict[str, str | None]


def observe(mail: PrivatePostfix, parameter: str, table: str, addresses: Iterable[str]) -> Observed:
    """What becomes of each of `addresses` when `parameter` is `table` ("type:place").

    `parameter` is one of `OBSERVERS`; "check_client_access" and its like are restrictions. Addresses are
    as in SMTP, without the brackets. For

    * ``virtual_alias_maps`` the recipients that the mail goes to, sorted, separated by ", ";
    * ``canonical_maps``, ``recipient_canonical_maps`` the recipient, ``sender_canonical_maps`` the sender,
      ``smtp_generic_maps`` the recipient, that the next server gets; and, when it is another, what the
      address has become in the header;
    * ``transport_maps`` "transport:nexthop", or what a bounce says;
    * ``smtpd_sender_login_maps`` those of `LOGINS` that may use the address, None when it has no owner;
    * ``relocated_maps`` the text of the rejection, None when there is none;
    * ``check_*_access`` and ``relay_domains`` "permitted", the code and text of the rejection, or None
      when nothing was found.

    The parameters that the observation needs stay set. Raises `AssertionError` when mail is refused or
    deferred that should go through, with the log.
    """
    addresses = list(dict.fromkeys(addresses))
    return OBSERVERS[parameter](mail, parameter, table, addresses)


# ---- mail that goes through: what the next server gets


@contextmanager
def _next_server(mail: PrivatePostfix, parameter: str, table: str) -> Iterator[SmtpSink]:
    """Everything goes to this sink for as long as the context lasts."""
    with running_sink() as sink:
        transports = dict.fromkeys(("default_transport", "local_transport", "relay_transport"), sink.nexthop)
        needed = {parameter: table, "local_header_rewrite_clients": "static:all", **transports}
        mail.configure(**needed)
        try:
            yield sink
        finally:
            mail.configure(**dict.fromkeys(needed))


def _pass_on(mail: PrivatePostfix, parameter: str, table: str, addresses: Sequence[str]) -> list[Received]:
    """Send mail to all addresses, with all of them in its header."""
    header = "".join(f"Reply-To: <{address}>\n" for address in addresses)
    with _next_server(mail, parameter, table) as sink:
        for delivery in mail.deliver("", addresses, f"{header}\ntest\n"):
            assert delivery.status == "sent", delivery
        return list(sink.received)


def _in_header(message: Received, addresses: Sequence[str]) -> dict[str, str]:
    """What has become of each address in the header."""
    fields = [field.removeprefix("<").removesuffix(">") for field in message.header("Reply-To")]
    return dict(zip(addresses, fields, strict=True))


def _and_header(address: str, in_header: str) -> str:
    return address if address == in_header else f"{address}, in the header {in_header}"


def _recipients(messages: Iterable[Received], addresses: Sequence[str]) -> dict[str, list[str]]:
    """What has become of each recipient: `PrivatePostfix.submit` gave it its number for ORCPT."""
    became: dict[str, list[str]] = {address: [] for address in addresses}
    for message in messages:
        for recipient, original in message.recipients:
            number = re.fullmatch(r"rfc822;(\d+)@example\.net", original)
            assert number, f"{recipient} has the original recipient {original!r}"
            became[addresses[int(number[1])]].append(recipient)
    return became


def _observe_aliases(mail: PrivatePostfix, parameter: str, table: str, addresses: Sequence[str]) -> Observed:
    messages = _pass_on(mail, parameter, table, addresses)
    return {
        address: ", ".join(sorted(became)) or None
        for address, became in _recipients(messages, addresses).items()
    }


def _observe_rewriting(
    mail: PrivatePostfix, parameter: str, table: str, addresses: Sequence[str]
) -> Observed:
    messages = _pass_on(mail, parameter, table, addresses)
    header = _in_header(messages[0], addresses)
    observed: Observed = {}
    for address, became in _recipients(messages, addresses).items():
        (recipient,) = became
        observed[address] = _and_header(recipient, header[address])
    return observed


def _observe_senders(mail: PrivatePostfix, parameter: str, table: str, addresses: Sequence[str]) -> Observed:
    header = _in_header(_pass_on(mail, parameter, table, addresses)[0], addresses)
    with _next_server(mail, parameter, table) as sink:
        # The subject is the sender that was, whatever the order of arrival.
        queued = mail.submit_all(
            (address, ["sink@sink.example.net"], f"Subject: {number}\n\ntest\n")
            for number, address in enumerate(addresses)
        )
        mail.wait_delivered(queued)
        senders = {int(message.header("Subject")[0]): message.sender for message in sink.received}
    return {
        address: _and_header(senders[number], header[address]) for number, address in enumerate(addresses)
    }


# ---- routing: what the log says


def _as_logged(address: str) -> str:
    """The address with its localpart quoted where it has to be only, as Postfix logs it."""
    localpart, at, domain = address.rpartition("@")
    if localpart.startswith('"'):
        plain = re.sub(r"\\(.)", r"\1", localpart[1:-1])
        if re.fullmatch(r"[^\s\x00-\x20()<>\[\]:;@\\,.\"]+(\.[^\s\x00-\x20()<>\[\]:;@\\,.\"]+)*", plain):
            return f"{plain}{at}{domain}"
    return address


def _observe_routes(mail: PrivatePostfix, parameter: str, table: str, addresses: Sequence[str]) -> Observed:
    mail.configure(**{parameter: table})
    try:
        deliveries = mail.deliver("", addresses)
    finally:
        mail.configure(**{parameter: None})
    routes: Observed = {}
    for delivery in deliveries:
        assert delivery.status in ("sent", "bounced"), delivery
        done = "bounced" if delivery.status == "bounced" else delivery.service
        routes[delivery.original] = f"{done}:{delivery.reason}"
    observed = {address: routes.get(_as_logged(address)) for address in addresses}
    lost = [address for address, route in observed.items() if route is None]
    assert not lost, f"the log tells nothing of {lost}"
    return observed


# ---- SMTP replies


def _verdict(reply: Reply) -> str | None:
    """What a restriction has made of the command, None when only the last one had something to say."""
    code, text = reply
    if 200 <= code < 300:
        return "permitted"
    if NOTHING in text:
        return None
    return f"{code} {text.rpartition(' rejected: ')[2]}"


def _clients(session: Session, addresses: Sequence[str]) -> list[Reply]:
    """After a client has been rejected at once there is no XCLIENT, so that RCPT is where it is told."""
    replies = []
    for client in addresses:
        is_address = ":" in client or client.replace(".", "").isdigit()
        greeting = session.become(client) if is_address else session.become(ANY_CLIENT, name=client)
        assert greeting[0] == 220, f"{client}: {greeting}"
        replies += session.ask_all(["MAIL FROM:<>", "RCPT TO:<sink@sink.example.net>", "RSET"])[1:2]
    return replies


def _names(session: Session, addresses: Sequence[str]) -> list[Reply]:
    return session.ask_all(f"HELO {name}" for name in addresses)


def _senders(session: Session, addresses: Sequence[str]) -> list[Reply]:
    commands = (text for address in addresses for text in (f"MAIL FROM:<{address}> SMTPUTF8", "RSET"))
    return session.ask_all(commands)[::2]


def _rcpts(session: Session, addresses: Sequence[str]) -> list[Reply]:
    session.accepted("MAIL FROM:<> SMTPUTF8")
    return session.ask_all(f"RCPT TO:<{address}>" for address in addresses)


ASKING: dict[str, Callable[[Session, Sequence[str]], list[Reply]]] = {
    "client": _clients,
    "helo": _names,
    "sender": _senders,
    "recipient": _rcpts,
}


def _observe_access(mail: PrivatePostfix, parameter: str, table: str, addresses: Sequence[str]) -> Observed:
    stage = parameter.split("_")[1]
    needed = {
        "smtpd_relay_restrictions": "check_recipient_access static:OK, reject",
        "smtpd_delay_reject": "yes" if stage == "client" else "no",
        f"smtpd_{stage}_restrictions": f"{parameter} {table}, {parameter} {LAST}",
    }
    mail.configure(**needed)
    try:
        with mail.session(None if stage in ("client", "helo") else "client.example.net") as session:
            replies = ASKING[stage](session, addresses)
    finally:
        mail.configure(**dict.fromkeys(needed))
    return {address: _verdict(reply) for address, reply in zip(addresses, replies, strict=True)}


def _observe_relocated(
    mail: PrivatePostfix, parameter: str, table: str, addresses: Sequence[str]
) -> Observed:
    mail.configure(**{parameter: table}, smtpd_reject_unlisted_recipient="yes")
    try:
        with mail.session() as session:
            verdicts = [_verdict(reply) for reply in _rcpts(session, addresses)]
    finally:
        mail.configure(**{parameter: None}, smtpd_reject_unlisted_recipient=None)
    return {
        address: None if verdict == "permitted" else verdict
        for address, verdict in zip(addresses, verdicts, strict=True)
    }


def _observe_relaying(mail: PrivatePostfix, parameter: str, table: str, addresses: Sequence[str]) -> Observed:
    mail.configure(**{parameter: table}, smtpd_relay_restrictions="reject_unauth_destination")
    try:
        with mail.session() as session:
            replies = _rcpts(session, addresses)
    finally:
        mail.configure(**{parameter: None}, smtpd_relay_restrictions=None)
    return {
        address: None if "Relay access denied" in reply[1] else _verdict(reply)
        for address, reply in zip(addresses, replies, strict=True)
    }


def _observe_logins(mail: PrivatePostfix, parameter: str, table: str, addresses: Sequence[str]) -> Observed:
    allowed: dict[str, list[str]] = {address: [] for address in addresses}
    owned = set()
    with running_login_server(mail.queue_directory / "auth"):
        mail.configure(
            **{parameter: table},
            smtpd_delay_reject="no",
            smtpd_sasl_auth_enable="yes",
            smtpd_sasl_type="dovecot",
            smtpd_sasl_path="auth",
            smtpd_sender_restrictions="reject_sender_login_mismatch",
        )
        try:
            with mail.session() as session:
                for login in ("", *LOGINS):
                    code, text = session.become("127.0.0.1", login=login)
                    assert code == 220, text
                    session.accepted("EHLO client.example.net")
                    for address, (code, text) in zip(addresses, _senders(session, addresses), strict=True):
                        assert code == 250 or "not logged in" in text or "not owned by" in text, text
                        if code == 250 and login:
                            allowed[address].append(login)
                        elif code != 250 and not login:
                            owned.add(address)
        finally:
            mail.configure(
                **{parameter: None},
                smtpd_delay_reject=None,
                smtpd_sasl_auth_enable=None,
                smtpd_sasl_type=None,
                smtpd_sasl_path=None,
                smtpd_sender_restrictions=None,
            )
    for address, logins in allowed.items():
        assert address in owned or not logins, f"{address} is {logins}'s and nobody's"
    return {address: ", ".join(allowed[address]) if address in owned else None for address in addresses}


OBSERVERS: dict[str, Callable[[PrivatePostfix, str, str, Sequence[str]], Observed]] = {
    "virtual_alias_maps": _observe_aliases,
    "canonical_maps": _observe_rewriting,
    "recipient_canonical_maps": _observe_rewriting,
    "sender_canonical_maps": _observe_senders,
    "smtp_generic_maps": _observe_rewriting,
    "transport_maps": _observe_routes,
    "relocated_maps": _observe_relocated,
    "relay_domains": _observe_relaying,
    "smtpd_sender_login_maps": _observe_logins,
    "check_client_access": _observe_access,
    "check_helo_access": _observe_access,
    "check_sender_access": _observe_access,
    "check_recipient_access": _observe_access,
}
