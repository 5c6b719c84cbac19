"""Log lines: one record a line, whatever a peer puts into it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from tcpmapkit.errors import ConfigError
from tcpmapkit.log import set_up_log


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_text_lines_say_when_how_bad_and_who(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("stderr", "info", "text")
    logging.getLogger("tcpmapkit.map.aliases").warning("a %s", "message")
    logging.getLogger("tcpmapkit").debug("not shown")
    line = capsys.readouterr().err
    assert line.endswith(" WARNING tcpmapkit.map.aliases: a message\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize("hostile", ["a\nforged line", "\x1b[31mred", "a\r\0b", "\u2028separator"])
def test_what_a_peer_sent_cannot_forge_a_line(capsys: pytest.CaptureFixture[str], hostile: str) -> None:
    set_up_log("stderr", "info", "text")
    logging.getLogger("tcpmapkit").warning("got %s", hostile)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.removesuffix("\n").isprintable()


def test_a_traceback_follows_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("stderr", "info", "text")
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("tcpmapkit").exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("failed")
    assert lines[-1] == "ValueError: inner"


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("stderr", "debug", "json")
    logging.getLogger("tcpmapkit").debug("a\nb %s", "ü")
    told = json.loads(capsys.readouterr().err)
    assert (told["level"], told["logger"], told["message"]) == ("debug", "tcpmapkit", "a\nb ü")


def test_no_syslog_is_an_error_with_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpmapkit.log._SYSLOG", "/nowhere/log")
    with pytest.raises(ConfigError) as caught:
        set_up_log("syslog")
    assert caught.value.path == ("log", "to")


def test_syslog_lines_go_to_the_mail_facility(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import socket

    path = str(tmp_path_factory.mktemp("s") / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(path)
        syslog.settimeout(10)
        monkeypatch.setattr("tcpmapkit.log._SYSLOG", path)
        set_up_log("syslog")
        logging.getLogger("tcpmapkit").warning("for the postmaster")
        line = syslog.recv(1000)
        logging.getLogger().handlers[0].close()
    facility_mail, warning = 2 << 3, 4
    assert line.startswith(b"<%d>tcpmapkit: " % (facility_mail | warning))
    assert b"for the postmaster" in line
