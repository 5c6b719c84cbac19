"""The private Postfix itself: that it comes, goes and reloads, and that what is observed of it is so."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.generated_addresses import MAKERS, generate
from tests.postfix_instance import as_root
from tests.postfix_observed import OBSERVERS, Observed, observe
from tests.private_postfix import PrivatePostfix, running_in, running_postfix, wait_until
from tests.smtp_sink import running_sink


def observe_table(mail: PrivatePostfix, parameter: str, text: str, addresses: tuple[str, ...]) -> Observed:
    table = mail.directory / "table"
    table.write_text(text)
    return observe(mail, parameter, f"texthash:{table}", addresses)


# ---- processes


def test_nothing_is_left_of_a_postfix_that_ended_in_a_failure() -> None:
    left: dict[int, Path] = {}

    def fail() -> None:
        with running_postfix() as mail:
            assert mail.process is not None
            left[mail.process.pid] = mail.directory
            assert mail.deliver("", ["user@example.com"])
            assert len(running_in(mail.process.pid)) > 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for group, directory in left.items():
        assert not running_in(group)
        assert not directory.exists()


def test_a_postfix_comes_and_goes_quickly() -> None:
    began = time.monotonic()
    with running_postfix():
        started = time.monotonic()
    assert started - began < 10
    assert time.monotonic() - started < 10


KILLED = """
import os, signal
from tests.private_postfix import running_postfix
with running_postfix() as mail:
    print(mail.process.pid, mail.directory, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_a_postfix_whose_tests_were_killed() -> None:
    if as_root() is None:
        pytest.skip("starting a Postfix needs root, or proot")
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    group, directory = done.stdout.decode().split()
    wait_until(
        lambda: not running_in(int(group)) and not Path(directory).exists(), 10, lambda: f"{directory} stays"
    )


def test_two_postfixes_run_side_by_side() -> None:
    with running_postfix({"virtual_alias_maps": "inline:{a@example.com=b@example.net}"}) as one:
        with running_postfix() as other:
            assert one.port != other.port
            assert [d.recipient for d in one.deliver("", ["a@example.com"])] == ["b@example.net"]
            assert [d.recipient for d in other.deliver("", ["a@example.com"])] == ["a@example.com"]
        assert one.deliver("", ["a@example.com"])


def test_the_systems_own_directories_are_not_used(private_postfix: PrivatePostfix) -> None:
    for name in ("config_directory", "queue_directory", "data_directory", "meta_directory", "maillog_file"):
        place = private_postfix.run("postconf", "-x", "-h", name).stdout.decode().strip()
        assert Path(place).is_relative_to(private_postfix.directory), name
    for name in ("alias_maps", "alias_database", "local_recipient_maps"):
        assert private_postfix.run("postconf", "-x", "-h", name).stdout == b"\n", name


def test_a_reload_is_over_when_configure_returns(private_postfix: PrivatePostfix) -> None:
    for number in range(10):
        private_postfix.configure(virtual_alias_maps=f"inline:{{a@example.com=n{number}@example.net}}")
        (delivery,) = private_postfix.deliver("", ["a@example.com"])
        assert delivery.recipient == f"n{number}@example.net"
    private_postfix.configure(virtual_alias_maps=None)
    assert private_postfix.deliver("", ["a@example.com"])[0].recipient == "a@example.com"


def test_a_chrooted_smtpd_sees_the_queue_directory_as_the_root() -> None:
    with running_postfix(chroot_smtpd=True) as mail, mail.session() as session:
        session.ask("NOOP")

        def roots() -> set[str]:
            found = set()
            for pid in running_in(mail.process.pid if mail.process else 0):
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    if Path(f"/proc/{pid}/comm").read_text() == "smtpd\n":
                        found.add(str(Path(f"/proc/{pid}/root").readlink()))
            return found

        # Another smtpd may be about to start, and is chrooted a moment later.
        wait_until(lambda: roots() == {str(mail.queue_directory.resolve())}, 10, lambda: str(roots()))


def test_a_delivery_is_told_with_its_transport_and_nexthop(private_postfix: PrivatePostfix) -> None:
    routes = "{a@example.com=alpha:[192.0.2.1]:25}, {b@example.com=error:5.1.1 no such user}"
    private_postfix.configure(transport_maps=f"inline:{{{routes}}}")
    told = {
        d.recipient: (d.service, d.relay, d.status, d.reason)
        for d in private_postfix.deliver("", ["a@example.com", "b@example.com", "c@example.com"])
    }
    assert told == {
        "a@example.com": ("alpha", "none", "sent", "[192.0.2.1]:25"),
        "b@example.com": ("error", "none", "bounced", "no such user"),
        "c@example.com": ("discard", "none", "sent", "example.com"),
    }


def test_the_sink_gets_envelope_and_text(private_postfix: PrivatePostfix) -> None:
    with running_sink() as sink:
        private_postfix.configure(default_transport=sink.nexthop)
        text = "Subject: two\n lines\n\n.dot\nend\n"
        (delivery,) = private_postfix.deliver("süd@example.com", ['"a b"@example.net'], text)
    assert (delivery.service, delivery.status) == ("sink", "sent")
    (message,) = sink.received
    assert message.sender == "süd@example.com"
    assert message.header("subject") == ["two lines"]
    assert message.text.endswith("\n\n.dot\nend\n")


# ---- what is observed

ADDRESSES = (
    *(
        "user@example.com",
        "User@Example.com",
        "user+Ext@example.com",
        '"user"@example.com',
        "user+@example.com",
    ),
    *('"a b"@example.com', "üser@example.com", "user@[192.0.2.1]", "user", "user+x@local.example.org"),
    *("owner-user@example.com", "x@sub.example.net", "postmaster@example.org"),
)
REWRITING = "user@example.com new@example.net\nuser local@example.net\n@example.com @example.org\n"
# what becomes of ADDRESSES under REWRITING; the extension is propagated
REWRITTEN = {
    "user@example.com": "new@example.net",
    "User@Example.com": "new@example.net",
    "user+Ext@example.com": "new+Ext@example.net",
    '"user"@example.com': "new@example.net",
    "user+@example.com": "new+@example.net",
    '"a b"@example.com': '"a b"@example.org',
    "üser@example.com": "üser@example.org",
    "user@[192.0.2.1]": "user@[192.0.2.1]",
    "user": "local@example.net",
    "user+x@local.example.org": "local+x@example.net",
    "owner-user@example.com": "owner-user@example.org",
    "x@sub.example.net": "x@sub.example.net",
    "postmaster@example.org": "postmaster@example.org",
}


@pytest.mark.parametrize("parameter", ["virtual_alias_maps", "canonical_maps", "sender_canonical_maps"])
def test_rewritten_addresses_are_observed(private_postfix: PrivatePostfix, parameter: str) -> None:
    assert observe_table(private_postfix, parameter, REWRITING, ADDRESSES) == REWRITTEN


def test_generic_rewriting_drops_the_extension(private_postfix: PrivatePostfix) -> None:
    expected = {
        address: result.replace("+Ext", "").replace("+x", "").replace("+", "")
        for address, result in REWRITTEN.items()
    }
    assert observe_table(private_postfix, "smtp_generic_maps", REWRITING, ADDRESSES) == expected


def test_recipient_rewriting_leaves_the_senders_in_the_header_alone(private_postfix: PrivatePostfix) -> None:
    seen = observe_table(private_postfix, "recipient_canonical_maps", REWRITING, ("user@example.com",))
    assert seen == {"user@example.com": "new@example.net, in the header user@example.com"}


def test_several_aliases_are_observed(private_postfix: PrivatePostfix) -> None:
    table = "user@example.com b@example.net, a@example.net\n"
    seen = observe_table(
        private_postfix, "virtual_alias_maps", table, ("user+x@example.com", "c@example.com")
    )
    assert seen == {
        "user+x@example.com": "a+x@example.net, b+x@example.net",
        "c@example.com": "c@example.com",
    }


OBSERVED: list[tuple[str, str, Observed]] = [
    (
        "transport_maps",
        "user@example.com alpha:[x]:25\nexample.com beta:\n"
        ".example.net gamma:y\nlocal.example.org error:no\n",
        {
            "user@example.com": "alpha:[x]:25",
            '"user"@example.com': "alpha:[x]:25",
            "user+Ext@example.com": "alpha:[x]:25",
            "üser@example.com": "beta:example.com",
            "x@sub.example.net": "gamma:y",
            "user": "discard:mail.example.org",
            "user@[192.0.2.1]": "discard:[192.0.2.1]",
            "user+x@local.example.org": "bounced:no",
        },
    ),
    (
        "relocated_maps",
        "user@example.com new@example.net\nuser elsewhere\n@sub.example.net gone\n",
        {
            "user+Ext@example.com": "550 User has moved to new@example.net",
            "user": "550 User has moved to elsewhere",
            "x@sub.example.net": "550 User has moved to gone",
            '"a b"@example.com': None,
        },
    ),
    (
        "relay_domains",
        "example.net yes\n",
        {"x@sub.example.net": "permitted", "x@example.net": "permitted", "x@example.com": None},
    ),
    (
        "smtpd_sender_login_maps",
        "user@example.com alice, bob\nuser carol\n@sub.example.net dave nobody\nx@example.net nobody\n",
        {
            "user@example.com": "alice, bob",
            "user+Ext@example.com": "alice, bob",
            "user+x@local.example.org": "carol",
            "x@sub.example.net": "dave",
            "x@example.net": "",
            "a@example.com": None,
        },
    ),
    *[
        (
            f"check_{stage}_access",
            "user@example.com REJECT one\nuser@ 450 4.7.1 two\nexample.net OK\ny@ DUNNO\n<> REJECT null\n",
            {
                "user+Ext@example.com": "554 one",
                "user@[192.0.2.1]": "450 two",
                "x@sub.example.net": "permitted",
                "y@example.org": None,
                "z@example.org": None,
            },
        )
        for stage in ("sender", "recipient")
    ],
    ("check_sender_access", "<> REJECT null\n", {"": "554 null", "user@example.com": None}),
    (
        "check_helo_access",
        "example.com REJECT one\nexample.net OK\n",
        {"a.example.com": "554 one", "example.net": "permitted", "a.example.org": None, "[192.0.2.1]": None},
    ),
    (
        "check_client_access",
        "example.com REJECT one\nexample.net OK\n192.0.2 REJECT two\n192.0.2.9 OK\n2001:db8:1 REJECT three\n",
        {
            "a.example.com": "554 one",
            "example.net": "permitted",
            "192.0.2.1": "554 two",
            "192.0.2.9": "permitted",
            "192.0.3.1": None,
            "2001:db8:1::5": "554 three",
            "2001:db8:2::5": None,
        },
    ),
]


@pytest.mark.parametrize(("parameter", "table", "expected"), OBSERVED, ids=[row[0] for row in OBSERVED])
def test_what_a_table_does_is_observed(
    private_postfix: PrivatePostfix, parameter: str, table: str, expected: Observed
) -> None:
    assert observe_table(private_postfix, parameter, table, tuple(expected)) == expected


@pytest.mark.parametrize("parameter", OBSERVERS)
def test_observing_leaves_no_parameter_behind(private_postfix: PrivatePostfix, parameter: str) -> None:
    observe_table(
        private_postfix, parameter, "example.com x\n", ("192.0.2.1" if "client" in parameter else "x",)
    )
    assert private_postfix.parameters == {}


# ---- generated sets


@pytest.mark.parametrize("parameter", OBSERVERS)
def test_a_generated_table_matters_to_most_of_its_addresses(
    private_postfix: PrivatePostfix, parameter: str
) -> None:
    generated = generate(parameter)
    addresses = generated.addresses
    seen = observe_table(private_postfix, parameter, generated.texthash(), addresses)
    unmatched = observe_table(private_postfix, parameter, "nobody@there.invalid x\n", addresses)
    assert seen.keys() == unmatched.keys() == set(addresses)
    changed = [address for address in addresses if seen[address] != unmatched[address]]
    assert len(changed) > len(addresses) / 3
    assert len(changed) < len(addresses)
    assert "warning: unreasonable" not in private_postfix.log()


OTHER_ENTRY = {
    "virtual_alias_maps": ("joe@example.com", "told@there.example.org"),
    "canonical_maps": ("joe@example.com", "told@there.example.org"),
    "sender_canonical_maps": ("joe@example.com", "told@there.example.org"),
    "smtp_generic_maps": ("joe@example.com", "told@there.example.org"),
    "transport_maps": ("joe@example.com", "gamma:told"),
    "relocated_maps": ("joe@example.com", "told"),
    "smtpd_sender_login_maps": ("joe@example.com", "somebody.else"),
    "check_sender_access": ("joe@example.com", "REJECT told"),
    "check_recipient_access": ("joe@example.com", "REJECT told"),
    "check_client_access": ("2001:db8::", "REJECT told"),
}


@pytest.mark.parametrize("parameter", OTHER_ENTRY)
def test_two_tables_are_told_apart_by_a_single_address(
    private_postfix: PrivatePostfix, parameter: str
) -> None:
    one = generate(parameter, seed=3, size=60)
    seen = observe_table(private_postfix, parameter, one.texthash(), one.addresses)
    assert observe_table(private_postfix, parameter, one.texthash(), one.addresses) == seen
    other = one.with_entry(*OTHER_ENTRY[parameter])
    seen_otherwise = observe_table(private_postfix, parameter, other.texthash(), one.addresses)
    changed = {address for address in one.addresses if seen[address] != seen_otherwise[address]}
    assert changed
    assert changed <= {'"joe"@example.com', "joe@example.com.", "2001:db8::"} | {
        address for address in one.addresses if address.lower().startswith("joe")
    }


@pytest.mark.parametrize("parameter", MAKERS)
def test_a_seed_gives_the_same_set_each_time(parameter: str) -> None:
    assert generate(parameter, seed=5) == generate(parameter, seed=5)
    assert generate(parameter, seed=5) != generate(parameter, seed=6)
