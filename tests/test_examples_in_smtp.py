"""examples/ behind a real, running Postfix: the lines of their main.cf, mail, and sources that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.examples import Example, served
from tests.postfix_observed import running_login_server
from tests.private_postfix import Delivery, PrivatePostfix, Reply, running_postfix
from tests.real_postfix import Postfix
from tests.test_examples import SOURCES

one_loop = pytest.mark.asyncio(loop_factories=["asyncio"])

#: For clients that are not in mynetworks.
ANYBODY = {"smtpd_relay_restrictions": "check_recipient_access static:OK, reject"}


@pytest.fixture(scope="module")
def mail() -> Iterator[PrivatePostfix]:
    with running_postfix() as mail:
        yield mail


Use = Callable[..., AbstractAsyncContextManager[Example]]


@pytest.fixture
def using(mail: PrivatePostfix, postfix: Postfix, tmp_path: Path) -> Use:
    """Serve an example by name, and let Postfix ask it as its main.cf says."""

    @asynccontextmanager
    async def use(name: str, **parameters: str) -> AsyncIterator[Example]:
        async with served(name, tmp_path, SOURCES[name](), postfix) as example:
            wanted = {**parameters, **example.parameters}
            before = {one: mail.parameters.get(one) for one in wanted}
            await asyncio.to_thread(mail.configure, **wanted)
            try:
                yield example
            finally:
                await asyncio.to_thread(mail.configure, **before)

    return use


async def offer(
    mail: PrivatePostfix,
    client: str = "127.0.0.1",
    *,
    helo: str = "client.example.net",
    login: str = "",
    sender: str = "",
    recipient: str = "joe@local.example.org",
) -> Reply:
    """What smtpd says to a recipient."""

    def talk() -> Reply:
        with mail.session() as session:
            code, text = session.become(client, login=login, helo=helo)
            assert code == 220, text
            session.accepted(f"EHLO {helo}")
            return session.ask_all([f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "RSET"])[1]

    return await asyncio.to_thread(talk)


async def delivered(mail: PrivatePostfix, *recipients: str) -> list[tuple[str, str, str]]:
    """Where mail has gone: for whom it was, the address, and transport and next hop."""
    deliveries: list[Delivery] = await asyncio.to_thread(mail.deliver, "", recipients)
    assert {one.status for one in deliveries} == {"sent"}
    return sorted((one.original, one.recipient, f"{one.service}:{one.reason}") for one in deliveries)


@one_loop
async def test_a_listed_client_is_rejected_and_an_outage_of_the_lists_or_of_ours_rejects_nobody(
    mail: PrivatePostfix, using: Use
) -> None:
    async with using("dnsbl-policy", **ANYBODY) as example:
        code, text = await offer(mail, "203.0.113.9")
        assert (code, "203.0.113.9 is listed at dnsbl.example.net" in text) == (554, True)
        code, text = await offer(mail, "198.51.100.7", helo="mail.example.org")
        assert (code, "That name is ours" in text) == (554, True)
        assert (await offer(mail, "203.0.113.9", login="ann"))[0] == 250
        assert (await offer(mail, "192.0.2.7"))[0] == 250
        example.sources.down = True
        assert (await offer(mail, "127.0.0.2"))[0] == 250
        await example.stop_serving()
        assert (await offer(mail, "203.0.113.9"))[0] == 250


@one_loop
async def test_a_sender_is_who_may_be_and_while_the_api_is_down_everybody_waits(
    mail: PrivatePostfix, using: Use
) -> None:
    sasl = {"smtpd_sasl_auth_enable": "yes", "smtpd_sasl_type": "dovecot", "smtpd_sasl_path": "auth"}
    with running_login_server(mail.queue_directory / "auth"):
        async with using("sender-logins", **sasl) as example:
            for login, sender, code in [
                ("ann", "info@example.org", 250),
                ("bob", "info+jobs@example.org", 250),
                ("bob", "ann@example.org", 553),
                ("", "ann@example.org", 553),
                ("dave", "carol@example.org", 250),
                ("ann", "new@example.com", 553),
                ("", "joe@example.com", 250),
            ]:
                reply = await offer(mail, login=login, sender=sender)
                assert reply[0] == code, (login, sender, reply)
            example.sources.down = True
            assert (await offer(mail, login="carol", sender="board@example.org"))[0] == 451
            assert (await offer(mail, sender="jim@example.com"))[0] == 250


@one_loop
async def test_mail_goes_where_the_aliases_say(mail: PrivatePostfix, using: Use) -> None:
    discarded = "discard:mail.example.org"
    async with using("virtual-aliases"):
        assert await delivered(mail, "Joe+News@example.org", "x@example.net", "info+a@example.org") == [
            ("Joe+News@example.org", "joe+News@mail.example.org", discarded),
            ("info+a@example.org", "ann+a@mail.example.org", discarded),
            ("info+a@example.org", "bob+a@mail.example.org", discarded),
            ("x@example.net", "ann@mail.example.org", discarded),
            ("x@example.net", "bob@mail.example.org", discarded),
        ]


@one_loop
async def test_mail_goes_where_the_transports_say(mail: PrivatePostfix, using: Use) -> None:
    addresses = ("a@b.example.net", "ann+x@example.org", "joe@example.org")
    async with using("transport-api"):
        assert await delivered(mail, *addresses) == [
            (addresses[0], addresses[0], "smtp:[gateway.example.net]"),
            (addresses[1], addresses[1], "smtp:[store2.example.com]:2525"),
            (addresses[2], addresses[2], "smtp:[store1.example.com]"),
        ]


@one_loop
async def test_domains_are_relayed_for_or_not(mail: PrivatePostfix, using: Use) -> None:
    async with using("sqlite-domains", smtpd_relay_restrictions="reject_unauth_destination") as example:
        for recipient, code in [
            ("joe@example.org", 250),
            ("joe@shop.example.com", 250),
            ("joe@example.net", 554),
            ("joe@shop.example.org", 554),
        ]:
            assert (await offer(mail, recipient=recipient))[0] == code, recipient
        (example.directory / "domains.sqlite").unlink()
        assert (await offer(mail, recipient="joe@other.example.com"))[0] == 451
