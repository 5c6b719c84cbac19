"""Postfix's own libraries, asked by ctypes for what its table look-ups do with an address.

``python -m tests.postfix_library DIRECTORY EMPTY`` loads libpostfix-util and libpostfix-global from
DIRECTORY, reads the main.cf that MAIL_CONFIG points to and a JSON list of questions from standard input,
and prints the list of answers. A process of its own, since the libraries end theirs when unhappy.
The keys of a search are those that it logs when it is verbose and the table is empty.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
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


class Token(ctypes.Structure):
    """TOK822 of tok822.h, as far as it is read."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("vstr", ctypes.c_void_p),
        ("prev", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("head", ctypes.c_void_p),
    )


class Library:
    """The two libraries, ready to be asked."""

    def __init__(self, directory: Path, empty: Path) -> None:
        self.util = ctypes.CDLL(str(directory / "libpostfix-util.so"), mode=ctypes.RTLD_GLOBAL)
        self.mail = ctypes.CDLL(str(directory / "libpostfix-global.so"), mode=ctypes.RTLD_GLOBAL)
        self.util.vstring_alloc.restype = self.util.vstring_export.restype = ctypes.c_void_p
        for function in ("maps_create", "mail_addr_find_opt", "tok822_parse_limit", "tok822_grep"):
            getattr(self.mail, function).restype = ctypes.c_void_p
        self.util.match_list_init.restype = ctypes.c_void_p
        self.mail.mail_conf_read()
        self.mail.mail_params_init()
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
    shared = postfix.run("postconf", "-h", "shlib_directory").stdout.decode().strip()
    directory = Path(shared)
    if not (directory / "libpostfix-global.so").exists():
        missing_server(f"this Postfix has no libraries of its own in {directory}")
    empty = postfix.configuration / "empty"
    empty.touch()
    settle(empty)
    done = subprocess.run(
        [sys.executable, "-m", "tests.postfix_library", str(directory), str(empty)],
        input=json.dumps(questions).encode(),
        capture_output=True,
        timeout=60,
        env={**postfix.environment, "MAIL_CONFIG": str(postfix.configuration)},
        cwd=Path(__file__).resolve().parent.parent,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"exit status {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    answers: list[Answer] = json.loads(done.stdout)
    return answers


if __name__ == "__main__":
    library = Library(Path(sys.argv[1]), Path(sys.argv[2]))
    json.dump([getattr(library, name)(*args) for name, *args in json.load(sys.stdin)], sys.stdout)
