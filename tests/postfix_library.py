"""Postfix's own libraries, asked by ctypes for what its table look-ups do with an address.

``python -m tests.postfix_library LIBRARIES DAEMONS EMPTY`` loads libpostfix-util and libpostfix-global,
reads the main.cf that MAIL_CONFIG points to and a JSON list of questions from standard input, and prints
the list of answers. A process of its own, since the libraries end theirs when unhappy.
The keys of a search are those that it logs when it is verbose and the table is empty.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.real_postfix import Postfix, missing_server, settle

# mail_addr_form.h
INTERNAL, EXTERNAL, EXTERNAL_FIRST = 1, 2, 3
# mail_addr_find.h
FULL, NOEXT, LOCALPART_IF_LOCAL, AT_DOMAIN, DOMAIN, PDMS, PDDMDS, LOCALPART_AT = 1, 2, 4, 16, 32, 64, 128, 256
# dict.h
FOLD_FIX, UTF8_REQUEST, LOCK = 1 << 14, 1 << 19, 1 << 6
# match_list.h
MATCH_PARENT, MATCH_RETURN = 1, 2
# tok822.h
ADDRESS, WIPE_AND_TERMINATE = 260, 3

Answer = list[str] | str

HERE = Path(__file__).resolve().parent.parent


class Token(ctypes.Structure):
    """TOK822 of tok822.h, as far as it is read."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("vstr", ctypes.c_void_p),
        ("prev", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("head", ctypes.c_void_p),
    )


class Vector(ctypes.Structure):
    """ARGV of argv.h."""

    _fields_ = (
        ("len", ctypes.c_ssize_t),
        ("argc", ctypes.c_ssize_t),
        ("argv", ctypes.POINTER(ctypes.c_char_p)),
    )


def serve_rewriting(listener: socket.socket, daemons: Path) -> None:
    """Answer as trivial-rewrite(8) does, by running it for each new question.

    A question is a list of names and values, each with a NUL behind it, and a NUL behind the last.
    """
    client, _ = listener.accept()
    client.sendall(b"protocol\0trivial_rewrite_protocol\0\0")
    answers: dict[bytes, bytes] = {}
    question = b""
    while more := client.recv(65536):
        question += more
        if not question.endswith(b"\0\0"):
            continue
        if question not in answers:
            ours, theirs = socket.socketpair()
            command = [daemons / "trivial-rewrite", "-S", "-n", "rewrite"]
            with ours, subprocess.Popen(command, stdin=theirs, stdout=theirs):
                theirs.close()
                ours.sendall(question)
                with ours.makefile("rb") as answer:
                    answers[question] = answer.read()
        client.sendall(answers[question])
        question = b""


class Library:
    """The two libraries, ready to be asked."""

    def __init__(self, directory: Path, daemons: Path, empty: Path) -> None:
        self.util = ctypes.CDLL(str(directory / "libpostfix-util.so"), mode=ctypes.RTLD_GLOBAL)
        self.mail = ctypes.CDLL(str(directory / "libpostfix-global.so"), mode=ctypes.RTLD_GLOBAL)
        self.util.vstring_alloc.restype = self.util.vstring_export.restype = ctypes.c_void_p
        for function in (
            "maps_create",
            "mail_addr_find_opt",
            "mail_addr_map_opt",
            "tok822_parse_limit",
            "tok822_grep",
        ):
            getattr(self.mail, function).restype = ctypes.c_void_p
        self.util.match_list_init.restype = ctypes.c_void_p
        self.mail.mail_conf_read()
        self.mail.mail_params_init()
        os.chdir(empty.parent)
        # Before anybody asks: a client that cannot connect sleeps for ten seconds.
        listener = socket.socket(socket.AF_UNIX)
        Path("private").mkdir(exist_ok=True)
        Path("private/rewrite").unlink(missing_ok=True)
        listener.bind("private/rewrite")
        listener.listen()
        threading.Thread(target=serve_rewriting, args=[listener, daemons], daemon=True).start()
        self.logged: list[str] = []
        listener = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)
        self._listener = listener(lambda level, text: self.logged.append((text or b"").decode()))
        self.util.msg_output(self._listener)
        self.table = f"texthash:{empty}".encode()
        flags = FOLD_FIX | UTF8_REQUEST | LOCK
        self.maps = ctypes.c_void_p(self.mail.maps_create(b"T", self.table, flags))
        self.lists = {
            style: ctypes.c_void_p(
                self.util.match_list_init(b"L", MATCH_RETURN | style, self.table, 1, self.util.match_hostname)
            )
            for style in (0, MATCH_PARENT)
        }

    def verbosely(self, level: int, call: Any, *args: Any) -> list[str]:
        """What is logged during a call."""
        self.logged.clear()
        verbose = ctypes.c_int.in_dll(self.util, "msg_verbose")
        verbose.value = level
        call(*args)
        verbose.value = 0
        return list(self.logged)

    def find(self, address: str, in_form: int, query_form: int, strategy: int) -> list[str]:
        """The keys that mail_addr_find_opt() asks for."""
        logged = self.verbosely(
            1,
            self.mail.mail_addr_find_opt,
            *(self.maps, address.encode(), None, in_form, query_form, EXTERNAL, strategy),
        )
        before, after = "maps_find: T: ", ": not found"
        return [line[len(before) : -len(after)] for line in logged if line.startswith(before)]

    def map(self, table: str, address: str, propagate: int) -> list[str]:
        """The addresses, quoted, that mail_addr_map_opt() makes of one with a table."""
        maps = ctypes.c_void_p(self.mail.maps_create(b"M", f"texthash:{table}".encode(), UTF8_REQUEST | LOCK))
        found = self.mail.mail_addr_map_opt(maps, address.encode(), propagate, INTERNAL, EXTERNAL, EXTERNAL)
        vector = Vector.from_address(found) if found else Vector()
        return [(vector.argv[at] or b"").decode() for at in range(vector.argc)]

    def match_list(self, name: str, style: int) -> list[str]:
        """The keys that a list of domains with one table asks for."""
        logged = self.verbosely(2, self.util.match_list_match, self.lists[style], name.encode())
        before, after = f"match_hostname: L: lookup {self.table.decode()} ", ": notfound"
        return [line[len(before) : -len(after)] for line in logged if line.startswith(before)]

    def quote(self, address: str, flags: int) -> str:
        """quote_822_local_flags()."""
        text = ctypes.c_void_p(self.util.vstring_alloc(100))
        self.mail.quote_822_local_flags(text, address.encode(), flags)
        return self._text(text)

    def parse(self, value: str) -> list[str]:
        """The addresses that tok822_parse() finds, unquoted."""
        tree = ctypes.c_void_p(self.mail.tok822_parse_limit(value.encode(), 0))
        if not tree:
            return []
        found = ctypes.cast(self.mail.tok822_grep(tree, ADDRESS), ctypes.POINTER(ctypes.c_void_p))
        addresses = []
        for at in range(len(value) + 1):
            if not found[at]:
                break
            text = ctypes.c_void_p(self.util.vstring_alloc(100))
            head = ctypes.c_void_p(Token.from_address(found[at]).head)
            self.mail.tok822_internalize(text, head, WIPE_AND_TERMINATE)
            addresses.append(self._text(text))
        return addresses

    def _text(self, text: ctypes.c_void_p) -> str:
        return ctypes.string_at(self.util.vstring_export(text)).decode()


def ask(postfix: Postfix, questions: list[list[Any]]) -> list[Answer]:
    """The answers to ``[function, argument, ...]``; skips the test where the libraries cannot be asked."""
    shown = postfix.run("postconf", "-h", "shlib_directory", "daemon_directory").stdout.decode()
    directory, daemons = map(Path, shown.splitlines())
    if not (directory / "libpostfix-global.so").exists():
        missing_server(f"this Postfix has no libraries of its own in {directory}")
    empty = postfix.configuration / "empty"
    empty.touch()
    settle(empty)
    done = subprocess.run(
        [sys.executable, "-m", "tests.postfix_library", directory, daemons, empty],
        input=json.dumps(questions).encode(),
        capture_output=True,
        timeout=30,
        env={**postfix.environment, "MAIL_CONFIG": str(postfix.configuration), "PYTHONPATH": str(HERE)},
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"exit status {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    answers: list[Answer] = json.loads(done.stdout)
    return answers


if __name__ == "__main__":
    library = Library(*map(Path, sys.argv[1:]))
    json.dump([getattr(library, name)(*args) for name, *args in json.load(sys.stdin)], sys.stdout)
