"""Postfix's own libraries, asked by ctypes how they read a policy reply, write a request, quote xtext.

``python -m tests.postfix_attributes DIRECTORY`` loads the libraries from DIRECTORY, reads a JSON list of
questions from standard input, and prints the list of answers; bytes are in hexadecimal. A process of its
own, since Postfix's library ends the process when it is unhappy.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.real_postfix import Postfix, missing_server

# attr.h
END, STRING = 0, 2
FLAG_MISSING = 1


class Library:
    """The functions by their names in a question."""

    def __init__(self, directory: Path) -> None:
        self._util = ctypes.CDLL(str(directory / "libpostfix-util.so"), mode=ctypes.RTLD_GLOBAL)
        self._mail = ctypes.CDLL(str(directory / "libpostfix-global.so"))
        for function in ("vstring_alloc", "vstring_export", "vstream_fdopen"):
            getattr(self._util, function).restype = ctypes.c_void_p
        self._mail.xtext_unquote.restype = ctypes.c_void_p

    def action(self, reply: str) -> str | None:
        """The action that the policy client reads from a reply, None when it takes its default."""
        action = self._text()
        with tempfile.TemporaryFile() as file:
            file.write(bytes.fromhex(reply))
            file.seek(0)
            stream = ctypes.c_void_p(self._util.vstream_fdopen(file.fileno(), 0))
            name = ctypes.c_char_p(b"action")
            count = self._util.attr_scan_plain(stream, FLAG_MISSING, STRING, name, action, END)
        return self._bytes(action) if count == 1 else None

    def request(self, attributes: list[tuple[str, str]]) -> str:
        """The request that it sends for these names and values."""
        args = [
            arg
            for name, value in attributes
            for arg in (
                STRING,
                ctypes.c_char_p(bytes.fromhex(name)),
                ctypes.c_char_p(bytes.fromhex(value)),
            )
        ]
        with tempfile.TemporaryFile() as file:
            stream = ctypes.c_void_p(self._util.vstream_fdopen(file.fileno(), 1))
            self._util.attr_print_plain(stream, 0, *args, END)
            self._util.vstream_fflush(stream)
            file.seek(0)
            return file.read().hex()

    def quote(self, value: str) -> str:
        """The value of a ccert_ attribute as it is sent."""
        quoted = self._text()
        self._mail.xtext_quote(quoted, ctypes.c_char_p(bytes.fromhex(value)), ctypes.c_char_p(b""))
        return self._bytes(quoted)

    def unquote(self, quoted: str) -> str | None:
        """What is behind xtext, None when it is none."""
        value = self._text()
        done = self._mail.xtext_unquote(value, ctypes.c_char_p(bytes.fromhex(quoted)))
        return self._bytes(value) if done else None

    def _text(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._util.vstring_alloc(100))

    def _bytes(self, text: ctypes.c_void_p) -> str:
        return ctypes.string_at(self._util.vstring_export(text)).hex()


def ask(postfix: Postfix, function: str, questions: list[Any]) -> list[str | None]:
    """The answers of a `Library` function; skips the test where the libraries cannot be asked."""
    shared = postfix.run("postconf", "-h", "shlib_directory").stdout.decode().strip()
    if not (Path(shared) / "libpostfix-global.so").exists():
        missing_server(f"this Postfix has no libraries of its own in {shared}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.postfix_attributes", shared],
        input=json.dumps([[function, question] for question in questions]).encode(),
        capture_output=True,
        timeout=60,
        env=dict(postfix.environment),
        cwd=Path(__file__).resolve().parent.parent,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"exit status {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    answers: list[str | None] = json.loads(done.stdout)
    return answers


if __name__ == "__main__":
    library = Library(Path(sys.argv[1]))
    answers = [getattr(library, name)(question) for name, question in json.load(sys.stdin)]
    sys.stdout.write(json.dumps(answers))
