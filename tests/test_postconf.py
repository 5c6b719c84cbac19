"""Reading Postfix's configuration: values beside the real postconf, lists, services, references."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpmapkit.postfix.postconf import DEFAULTS, Service, parse_postconf
from tcpmapkit.postfix.references import Reference, Strange, find_references
from tcpmapkit.postfix.values import NotUnderstood, expand, seconds, split_list, unbrace
from tests.real_postfix import Postfix, settle

PARAMETERS = {
    "aa": "one",
    "bb": "$aa two",
    "cc": "",
    "dd": "${cc?not this}${aa?this}",
    "level": "3.6",
    "n": "10",
}

#: Understood by Postfix and by us alike.
VALUES = [
    "",
    "plain, text",
    "$aa",
    "$(aa)",
    "${aa}",
    "${ aa }",
    "$bb$bb",
    "$dd",
    "$$aa",
    "a$$",
    "$aa.x",
    "${aa?text}",
    "${cc?text}",
    "${cc:text}",
    "${aa:text}",
    "${aa?{yes}:{no}}",
    "${cc?{yes}:{no}}",
    "${cc ? {yes} : {no}}",
    "${aa?{$bb}:{no}}",
    "${aa??foo:{b}ar}",
    "${cc:{${aa}}}",
    "${{$n} == {10} ? {ten} : {other}}",
    "${{$n} < {9} ? {less} : {more}}",
    "${{x$n} < {x9} ? {less} : {more}}",
    "${{$level} <level {3.10} ? {older} : {newer}}",
    "${{$level} >=level {3.6} ? {newer} : {older}}",
    "${{a} != {b} ? {differ}}",
    "${{a} == {b} ? {same}}",
    "${{a} == {b} : {differ}}",
    "{ tcp:127.0.0.1:4242 }, static:{a b}",
]


@pytest.fixture
def private(postfix: Postfix, tmp_path: Path) -> Postfix:
    """The real Postfix with a configuration directory that the test may write in."""
    for file in postfix.configuration.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    return attrs.evolve(postfix, configuration=tmp_path)


def append(postfix: Postfix, *lines: str) -> None:
    main_cf = postfix.configuration / "main.cf"
    with main_cf.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)
    settle(main_cf)


def test_values_expand_as_the_real_postconf_expands_them(private: Postfix) -> None:
    asked = {**PARAMETERS, **{f"v{index}": value for index, value in enumerate(VALUES)}}
    append(private, *(f"{name} = {value}" for name, value in asked.items()))
    append(private, f"smtpd_restriction_classes = {' '.join(asked)}")  # postconf knows names that are used
    done = private.run("postconf", "-x", *asked)
    expanded = parse_postconf(done.stdout.decode()).values
    assert set(expanded) == set(asked)
    for index, value in enumerate(VALUES):
        assert (value, expand(value, PARAMETERS.get)) == (value, expanded[f"v{index}"])


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("${aa", "unbalanced"),
        ("$(aa", "unbalanced"),
        ("$", "no name"),
        ("$.", "no name"),
        ("${}", "no name"),
        ("${aa!}", r"\? or : expected"),
        ("${aa?{x}y}", ": expected"),
        ("${aa:{x}y}", "unexpected"),
        ("${{a} ~ {b} ? {c}}", "operator"),
        ("${{a} == b ? {c}}", "braces expected"),
        ("${{a} == {b}}", r"without \? or :"),
        ("${{a} <level {3} ? {c}}", "compatibility level"),
        ("${{a} <colour {b} ? {c}}", "suffix"),
        ("${domain_to_ascii{$aa}}", "expected"),
        ("$loop", "circle"),
        ("$bomb0", "too long"),
    ],
)
def test_what_is_not_understood_is_said(value: str, why: str) -> None:
    parameters = {**PARAMETERS, "loop": "${loop}", "bomb30": "x" * 50}
    parameters |= {f"bomb{at}": f"$bomb{at + 1}$bomb{at + 1}" for at in range(30)}
    with pytest.raises(NotUnderstood, match=why):
        expand(value, parameters.get)


@given(st.text("$(){}?:=<a b_", max_size=40))
def test_any_text_is_expanded_or_refused(value: str) -> None:
    with contextlib.suppress(NotUnderstood):
        expand(value, {"a": "$b", "b": "x"}.get)


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", []),
        (" , ", []),
        ("a, b\tc,,d", ["a", "b", "c", "d"]),
        ("a {b c, {d}} e", ["a", "{b c, {d}}", "e"]),
        ("pipemap:{a, b} c", ["pipemap:{a, b}", "c"]),
        ("a} b", ["a}", "b"]),
        ("{a b", ["{a b"]),
    ],
)
def test_a_list_is_cut_outside_of_braces(text: str, members: list[str]) -> None:
    assert list(split_list(text)) == members


def test_braces_are_taken_off_when_they_hold_all_of_it() -> None:
    assert unbrace("{ a {b} }") == " a {b} "
    for text in ("{a} b", "{a", "a", ""):
        with pytest.raises(NotUnderstood):
            unbrace(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100s", 100), ("3", 3), ("5m", 300), ("1 h", 3600), ("2d", 172800), ("1w", 604800)],
)
def test_a_time_is_in_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "s", "-1s", "1.5s", "10x", "${stress?1}"])
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(NotUnderstood):
        seconds(text)


# The text.


def test_all_that_the_real_postconf_prints_is_understood(private: Postfix) -> None:
    (private.configuration / "master.cf").write_text(
        "smtp inet n - y - - smtpd\n"
        "submission inet n - n - - smtpd\n"
        "  -o smtpd_client_restrictions=$mua\n"
        "  -o { mua = check_client_access tcp:127.0.0.1:4242 }\n"
        "my-pipe unix - n - - 10 pipe\n  user=nobody argv=/bin/true ${recipient}\n"
    )
    settle(private.configuration / "master.cf")
    append(private, "virtual_alias_maps = tcp:127.0.0.1:4242,", "  # a comment", "  static:x")
    said = [private.run("postconf", *args).stdout.decode() for args in ((), ("-M",), ("-P",))]
    postconf = parse_postconf("".join(said))
    assert not postconf.strange
    assert postconf.value("virtual_alias_maps") == "tcp:127.0.0.1:4242, static:x"
    assert postconf.value("smtpd_client_restrictions", "submission/inet") == (
        "check_client_access tcp:127.0.0.1:4242"
    )
    assert postconf.value("smtpd_client_restrictions") == ""
    assert postconf.services == (
        Service("smtp/inet", "smtpd", True),
        Service("submission/inet", "smtpd", False),
        Service("my-pipe/unix", "pipe", None),
    )
    assert postconf.chrooted("smtpd")
    assert postconf.chrooted("pipe") is False  # at compatibility level 3.6
    assert postconf.chrooted("cleanup") is None


def test_the_defaults_are_those_of_the_real_postfix(private: Postfix) -> None:
    real = parse_postconf(private.run("postconf", "-d").stdout.decode()).values
    for name, value in DEFAULTS.items():
        if name != "inet_protocols":  # set when it is built
            assert (name, real[name].replace(", ", ",")) == (name, value.replace(", ", ","))


def test_main_cf_itself_is_read() -> None:
    postconf = parse_postconf("# a = 1\nb = 2\n  three\n\n   # no\n  four\nc=\nb2 = x\nb2 = y\n")
    assert postconf.values == {"b": "2  three  four", "c": "", "b2": "y"}
    assert not postconf.strange


def test_lines_that_are_none_of_postconfs_are_told() -> None:
    postconf = parse_postconf("  a = 1\nwhat is this\npostconf: warning: x: unused parameter: y=z\n")
    assert [number for number, _ in postconf.strange] == [1, 2]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("myhostname = mail.example.org", "mydomain", "example.org"),
        ("myhostname = mail", "mydomain", "localdomain"),
        (
            "myhostname = mail.example.org",
            "mydestination",
            "mail.example.org, localhost.example.org, localhost",
        ),
        ("", "smtpd_policy_service_timeout", "100s"),
    ],
)
def test_what_the_text_leaves_out_is_postfixs_default(text: str, name: str, value: str) -> None:
    assert parse_postconf(text).value(name) == value


def test_a_default_that_is_the_machines_own_is_not_guessed() -> None:
    with pytest.raises(NotUnderstood, match=r"\$myhostname is not in the text"):
        parse_postconf("").value("mydestination")


def test_before_compatibility_level_1_a_service_is_chrooted_by_default() -> None:
    line = "smtp inet n - - - - smtpd\n"
    assert parse_postconf(line).chrooted("smtpd") is True
    assert parse_postconf(f"{line}compatibility_level = 2\n").chrooted("smtpd") is False


# References.


def found(value: str, parameter: str = "virtual_alias_maps", **classes: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in find_references(parameter, value, classes):
        if isinstance(one, Strange):
            rows.append(("strange", one.place, one.text))
            continue
        marks = [mark for mark in ("shared", "later") if getattr(one, mark)]
        rows.append((one.place, one.parameter, one.kind, str(one.endpoint), one.map, *marks))
    return rows


VAM = "virtual_alias_maps"
TABLE = (VAM, VAM, "tcp_table", "inet:127.0.0.1:4242", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        ("hash:/etc/aliases, static:{tcp:x}, inline:{a=b}, ldap:/tcp", []),
        ("tcp:127.0.0.1:4242", [TABLE]),
        ("!tcp:127.0.0.1:4242", [TABLE]),
        ("tcp:[::1]:4242", [(VAM, VAM, "tcp_table", "inet:[::1]:4242", "")]),
        ("tcp:::1:4242", [(VAM, VAM, "tcp_table", "inet:[::1]:4242", "")]),
        ("tcp:LocalHost:4242", [(VAM, VAM, "tcp_table", "inet:localhost:4242", "")]),
        ("tcp:4242", [(VAM, VAM, "tcp_table", "inet:localhost:4242", "")]),
        ("proxy:tcp:127.0.0.1:4242", [(*TABLE, "shared")]),
        ("proxy:unionmap:{tcp:127.0.0.1:4242}", [(*TABLE, "shared")]),
        ("{ tcp:127.0.0.1:4242 }", [TABLE]),
        (
            "pipemap:{tcp:127.0.0.1:4242, unionmap:{static:x tcp:127.0.0.1:4242}}",
            [TABLE, (*TABLE, "later")],
        ),
        ("unionmap:{tcp:127.0.0.1:4242,tcp:127.0.0.1:4242}", [TABLE, TABLE]),
        ("socketmap:inet:127.0.0.1:4242:a", [(VAM, VAM, "socketmap", "inet:127.0.0.1:4242", "a")]),
        ("socketmap:unix:private/x:a", [(VAM, VAM, "socketmap", "unix:private/x", "a")]),
        ("tcp:127.0.0.1:smtp", [("strange", VAM, "tcp:127.0.0.1:smtp")]),
        ("socketmap:unix:x", [("strange", VAM, "socketmap:unix:x")]),
        ("socketmap:127.0.0.1:4242:a", [("strange", VAM, "socketmap:127.0.0.1:4242:a")]),
        ("pipemap:{tcp:127.0.0.1:4242", [("strange", VAM, "pipemap:{tcp:127.0.0.1:4242")]),
        ("pipemap:{hash:x", []),
    ],
)
def test_tables_are_found_wherever_they_stand(value: str, expected: list[tuple[str, ...]]) -> None:
    assert found(value) == expected


def test_restrictions_and_classes_are_followed_and_a_circle_ends() -> None:
    value = "Check_Client_Access { tcp:127.0.0.1:4242, search_order=x } permit, greylist"
    classes = {"greylist": "check_policy_service unix:private/policy, other", "other": "greylist permit"}
    assert found(value, "smtpd_client_restrictions", **classes) == [
        ("smtpd_client_restrictions", "check_client_access", "tcp_table", "inet:127.0.0.1:4242", ""),
        ("smtpd_client_restrictions > greylist", "check_policy_service", "policy", "unix:private/policy", ""),
    ]


def test_the_options_of_a_policy_service_are_read() -> None:
    value = "check_policy_service { inet:[::1]:4243, timeout=10s { default_action = 450 4.7.1 later } }"
    [one] = find_references("smtpd_data_restrictions", value)
    assert isinstance(one, Reference)
    assert str(one.endpoint) == "inet:[::1]:4243"
    assert one.options == {"timeout": "10s", "default_action": "450 4.7.1 later"}


@pytest.mark.parametrize("service", ["inet:x", "4243", "{ inet:localhost:1 timeout }", "{", "{}", "unix:"])
def test_a_policy_service_that_cannot_be_read_is_said(service: str) -> None:
    [one] = find_references("smtpd_data_restrictions", f"check_policy_service {service}")
    assert isinstance(one, Strange)
