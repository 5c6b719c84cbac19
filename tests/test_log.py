"""Log lines: one record a line, whatever a peer puts into it."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tcpmapkit.errors import ConfigError
from tcpmapkit.log import lost_lines, name_worker, set_up_log
from tcpmapkit.log_output import StreamHandler
from tcpmapkit.shown import hide, show_keys, shown_key


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    show_keys("hash")  # a command that some other test ran may have wanted them whole
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
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
    assert lines[-1] == "  ValueError: inner"


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_an_exception_says_cannot_forge_a_line(capsys: pytest.CaptureFixture[str], form: str) -> None:
    set_up_log("stderr", "info", form)
    try:
        raise ValueError("inner\n2026-01-01 00:00:00,000 ERROR tcpmapkit: forged\x1b[31m")
    except ValueError:
        logging.getLogger("tcpmapkit").exception("failed")
    _, *rest = capsys.readouterr().err.splitlines()
    assert all(line.startswith("  ") and line.isprintable() for line in rest)


def test_a_message_without_end_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("stderr", "info", "text")
    logging.getLogger("tcpmapkit").warning("%s", "x" * 100_000)
    line = capsys.readouterr().err
    assert len(line) < 9000
    assert line.endswith("x...\n")


def test_a_json_line_has_the_fields_that_its_record_has(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("stderr", "info", "json")
    fields = {"map": "aliases", "step": "http", "elapsed": 1.5, "outcome": "TempFail", "key": "#1"}
    logging.getLogger("tcpmapkit").warning("slow", extra=fields)
    logging.getLogger("tcpmapkit").warning("plain")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert {name: first[name] for name in fields} == fields
    assert not fields.keys() & second.keys()


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_log("stderr", "debug", "json")
    logging.getLogger("tcpmapkit").debug("a\nb %s", "ü")
    told = json.loads(capsys.readouterr().err)
    assert (told["level"], told["logger"], told["message"]) == ("debug", "tcpmapkit", "a\nb ü")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_says_which_of_several_workers_has_written_it(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    set_up_log("stderr", "info", form)
    name_worker(3)
    logging.getLogger("tcpmapkit").warning("a message")
    line = capsys.readouterr().err
    if form == "json":
        assert json.loads(line).items() >= {"worker": 3, "message": "a message"}.items()
    else:
        assert line.endswith(" WARNING tcpmapkit: worker 3: a message\n")


def test_no_syslog_is_an_error_with_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcpmapkit.log._SYSLOG", "/nowhere/log")
    with pytest.raises(ConfigError) as caught:
        set_up_log("syslog")
    assert caught.value.path == ("log", "to")


# Keys.


@pytest.fixture
def keys_as_before() -> Iterator[None]:
    yield
    show_keys("hash")


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "line",
    [
        "no such user joe.q@example.org",
        "KeyError('Joe.Q@example.org')",
        "https://api.example.net/alias/joe.q%40example.org?x=1",
        "<joe.q@example.org>: bounce+joe.q=example.org@example.net",
        'mail for "joe.q smith"@example.org',
        "joe.q@[192.0.2.1]",
        "joe.q@example.org,joe.q@example.org;joe.q@example.org",
        "joe.q@" + "x" * 5000,
        "joe.q" * 1000 + "@example.org",
    ],
)
def test_an_address_in_whatever_line_is_shown_as_its_hash(
    capsys: pytest.CaptureFixture[str], form: str, line: str
) -> None:
    set_up_log("stderr", "info", form)
    logging.getLogger("somebody.elses").error("%s", line)
    try:
        raise RuntimeError(line)
    except RuntimeError:
        logging.getLogger("tcpmapkit").exception("failed")
    logged = capsys.readouterr().err
    assert "joe" not in logged.lower()
    assert re.search("#[0-9a-f]{12}", logged)


def test_the_keys_of_a_record_are_hidden_in_its_message_and_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_log("stderr", "info", "text")
    try:
        raise KeyError("secret.example.org")
    except KeyError:
        logging.getLogger("tcpmapkit").exception(
            "asked for %s", "SECRET.example.org", extra={"hidden": ("secret.example.org", "*", "")}
        )
    logged = capsys.readouterr().err
    assert "secret" not in logged.lower()
    assert logged.count(shown_key("secret.example.org")) == 3  # a line of the source is one of them


def test_a_key_has_one_hash_whatever_its_case_and_another_in_another_process() -> None:
    assert shown_key("Joe@Example.org") == shown_key("joe@example.org") != shown_key("jo@example.org")
    code = "from tcpmapkit.shown import shown_key; print(shown_key('joe@example.org'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() != shown_key("joe@example.org")


def test_processes_forked_from_one_show_a_key_alike() -> None:
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(there, shown_key("joe@example.org").encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(here, 100).decode() == shown_key("joe@example.org")
    os.close(here)
    os.close(there)


def test_keys_are_shown_whole_when_the_operator_says_so(
    capsys: pytest.CaptureFixture[str], keys_as_before: None
) -> None:
    set_up_log("stderr", "info", "text", "full")
    logging.getLogger("tcpmapkit").warning(
        "for joe@example.org, %s", shown_key("a\nb"), extra={"hidden": ("joe@example.org",)}
    )
    assert capsys.readouterr().err.endswith("for joe@example.org, a\\nb\n")
    assert len(shown_key("x" * 10_000)) < 400


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "x@" * 50_000, '"' * 100_000, "%40" * 30_000, "a@[" * 30_000, '"x' * 50_000 + "@"]
)
def test_hiding_takes_time_in_proportion_to_the_text(text: str) -> None:
    began = time.thread_time()
    hide(text)
    assert time.thread_time() - began < 2.0


# Who reads the log.


def test_syslog_lines_go_to_the_mail_facility_and_to_a_syslog_that_was_restarted(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("s") / "log")
    monkeypatch.setattr("tcpmapkit.log._SYSLOG", path)
    logger = logging.getLogger("tcpmapkit")
    with listening(path) as syslog:
        set_up_log("syslog")
        logger.warning("for the postmaster")
        facility_mail = 2 << 3
        assert syslog.recv(1000) == (
            b"<%d>tcpmapkit[%d]: tcpmapkit: for the postmaster" % (facility_mail | 4, os.getpid())
        )
        for level, severity in ((logging.INFO, 6), (logging.ERROR, 3), (logging.CRITICAL, 2)):
            logger.log(level, "x")
            assert syslog.recv(1000).startswith(b"<%d>" % (facility_mail | severity))
        logger.warning("ü" * 7000)
        assert len(syslog.recv(20000)) <= 8000
        try:
            raise ValueError("inner")
        except ValueError:
            logger.exception("failed")
        assert syslog.recv(1000).endswith(b": failed")
        assert b"\n" not in syslog.recv(1000)
    logger.warning("nobody listens")
    with listening(path) as syslog:
        logger.warning("again")
        assert b"1 log lines before this one are lost" in syslog.recv(1000)
        assert syslog.recv(1000).endswith(b": again")
    assert lost_lines() == 1


def test_a_process_that_is_forked_off_counts_the_lines_that_it_loses_itself() -> None:
    program = """
import logging, os
from tcpmapkit.log import lost_lines, set_up_log
set_up_log()
logging.getLogger().handlers[0].total_lost = 2
child = os.fork()
if child == 0:
    os._exit(lost_lines())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lost_lines())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("0 2\n", "")


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """A syslogd for the time of the context."""
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(path)
        syslog.settimeout(10)
        yield syslog


def test_a_syslog_of_the_stream_kind_is_served_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("s") / "log")
    monkeypatch.setattr("tcpmapkit.log._SYSLOG", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as syslog:
        syslog.bind(path)
        syslog.listen()
        syslog.settimeout(10)
        set_up_log("syslog")
        logging.getLogger("tcpmapkit").warning("one")
        logging.getLogger("tcpmapkit").warning("two")
        peer, _ = syslog.accept()
        with peer, peer.makefile() as lines:
            assert [lines.readline().split()[-1] for _ in range(2)] == ["one", "two"]


def pipe_ends() -> tuple[int, int]:
    return os.pipe()


def socket_ends() -> tuple[int, int]:
    one, other = socket.socketpair()  # what journald gives a unit
    return one.detach(), other.detach()


@pytest.mark.parametrize("ends", [pipe_ends, socket_ends])
@pytest.mark.parametrize("may_open", [True, False])
def test_a_log_that_nobody_reads_loses_lines_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, ends: Callable[[], tuple[int, int]], may_open: bool
) -> None:
    if not may_open:
        monkeypatch.setattr(StreamHandler, "_open_again", lambda self: False)
    reader, writer = ends()
    handler = StreamHandler(writer)
    logger = logging.Logger("stuck")
    logger.addHandler(handler)
    for number in range(20_000):  # an ordinary write would never come back
        logger.warning("line %d of the log, and some more text to make it long", number)
    assert handler.lost > 1000
    lost = handler.total_lost
    os.set_blocking(reader, False)
    before = read_all(reader)
    logger.warning("read again")
    after = read_all(reader)
    whole = (before + after).decode().splitlines()
    kept = [
        f"line {number} of the log, and some more text to make it long" for number in range(20_000 - lost)
    ]
    assert whole == [
        *kept,
        f"{lost} log lines before this one are lost: they could not be written",
        "read again",
    ]
    assert handler.lost == 0
    handler.close()
    os.close(reader)
    os.close(writer)


def read_all(reader: int) -> bytes:
    got = b""
    try:
        while piece := os.read(reader, 1 << 20):
            got += piece
    except BlockingIOError:
        pass
    return got


def test_a_long_line_to_a_slow_reader_is_finished_by_the_next() -> None:
    reader, writer = os.pipe()
    handler = StreamHandler(writer)
    logger = logging.Logger("slow")
    logger.addHandler(handler)
    logger.warning("%s", "x" * 150_000)
    os.set_blocking(reader, False)
    first = read_all(reader)
    logger.warning("next")
    second = read_all(reader)
    logger.warning("last")
    assert (first + second + read_all(reader)).decode().splitlines()[-1] == "last"
    assert handler.total_lost <= 1
    handler.close()
    os.close(reader)
    os.close(writer)


def test_the_descriptor_of_standard_error_goes_on_blocking_for_those_who_share_it() -> None:
    reader, writer = os.pipe()
    handler = StreamHandler(writer)
    assert os.get_blocking(writer)
    handler.close()
    os.write(writer, b"still open")
    os.close(reader)
    os.close(writer)


def test_a_log_whose_reader_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    handler = StreamHandler(writer)
    os.close(reader)
    logging.Logger("gone").addHandler(handler)
    handler.handle(logging.LogRecord("gone", logging.WARNING, __file__, 1, "x", None, None))
    assert handler.total_lost == 1
    handler.close()
    os.close(writer)
