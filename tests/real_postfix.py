"""The real Postfix, asked by `postmap -q` with a configuration directory of its own.

`./dev test` sees to it that there is one: the system's, or packages unpacked below ``.tools/root`` where
nothing may be installed. Nothing here starts a daemon or touches the system's ``/etc/postfix``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import attrs
import pytest

UNPACKED = Path(__file__).resolve().parent.parent / ".tools" / "root"

# postmap reads these whatever it is asked: without names of our own it looks up the machine's, and below
# compatibility level 1 it does not know UTF-8.
MAIN_CF = """\
compatibility_level = 3.6
myhostname = mail.example.org
mydomain = example.org
inet_protocols = ipv4
queue_directory = {directory}
data_directory = {directory}
"""
# mail_owner and setgid_group must exist and be nobody else's (mail_params.c); packages that are only
# unpacked have not made their own.
UNPACKED_MAIN_CF = """\
mail_owner = daemon
setgid_group = mail
shlib_directory = {root}/usr/lib/postfix
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
meta_directory = {directory}
"""
UNPACKED_DYNAMICMAPS_CF = "pcre postfix-pcre.so dict_pcre_open\n"


def missing_server(reason: str) -> NoReturn:
    """Skip the test, or fail it where the servers have been promised."""
    if os.environ.get("TCPMAPKIT_TESTS_NEED_SERVERS") == "1":
        pytest.fail(f"{reason} (TCPMAPKIT_TESTS_NEED_SERVERS=1)", pytrace=False)
    pytest.skip(reason)


def find_program(name: str) -> Path | None:
    """Where the program is: unpacked in ``.tools/root``, on PATH, or in the places for administrators."""
    for directory in ("usr/sbin", "usr/bin", "sbin", "bin"):
        if (UNPACKED / directory / name).exists():
            return UNPACKED / directory / name
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def environment_for(program: Path) -> dict[str, str]:
    """The environment that `program` needs: unpacked ones find their libraries beside them."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
    if program.is_relative_to(UNPACKED):
        lib = UNPACKED / "usr" / "lib"
        directories = {file.parent for top in (lib, UNPACKED / "lib") for file in top.rglob("*.so*")}
        environment["LD_LIBRARY_PATH"] = ":".join(map(str, sorted(directories)))
    return environment


def settle(file: Path) -> None:
    """Date a file that was written just now a little back, when it is one.

    Postfix waits up to two seconds for a main.cf or texthash: file that may still be being written
    (dict_load_file_xt, dict_thash_open), in every run anew.
    """
    if file.is_file() and time.time() - file.stat().st_mtime < 5:
        earlier = time.time() - 10
        os.utime(file, (earlier, earlier))


def write_wrappers(directory: Path, programs: Path, proot: Path) -> Path:
    """Programs that take our files for root's: Postfix loads libraries for no other dynamicmaps.cf."""
    place = directory / "bin"
    place.mkdir()
    for program in ("postconf", "postmap"):
        (place / program).write_text(f'#!/bin/sh\nexec "{proot}" -0 "{programs / program}" "$@"\n')
        (place / program).chmod(0o755)
    return place


@attrs.frozen
class Postfix:
    """The Postfix programs of one installation, behind one private configuration directory.

    ``programs/postmap -c configuration`` in `environment` is what `postmap` runs.
    """

    programs: Path
    configuration: Path
    environment: dict[str, str]
    map_types: frozenset[str] = frozenset()

    @classmethod
    def prepare(cls, postmap: Path, configuration: Path) -> Postfix:
        """Write a main.cf into `configuration` and find out the map types there are."""
        main_cf = MAIN_CF
        programs = postmap.parent
        environment = environment_for(postmap)
        if postmap.is_relative_to(UNPACKED):
            main_cf += UNPACKED_MAIN_CF
            (configuration / "dynamicmaps.cf").write_text(UNPACKED_DYNAMICMAPS_CF)
            proot = find_program("proot")
            if os.geteuid() and proot:
                programs = write_wrappers(configuration, postmap.parent, proot)
                environment["PROOT_NO_SECCOMP"] = "1"
        (configuration / "main.cf").write_text(main_cf.format(directory=configuration, root=UNPACKED))
        settle(configuration / "main.cf")
        postfix = cls(programs, configuration, environment)
        types = postfix.run("postconf", "-m").stdout.decode().split()
        return attrs.evolve(postfix, map_types=frozenset(types))

    def run(
        self, program: str, *args: str | bytes | Path, input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one of Postfix's programs with the private configuration; `timeout` in seconds."""
        command = [self.programs / program, "-c", self.configuration, *args]
        for arg in args:
            kind, _, place = str(arg).partition(":") if isinstance(arg, str) else ("", "", "")
            if kind == "pcre" and self.map_types and kind not in self.map_types:
                missing_server("this Postfix has no pcre: tables")
            if place.startswith("/"):
                settle(Path(place))
        silent = subprocess.DEVNULL if input is None else None
        return subprocess.run(
            command,
            input=input,
            stdin=silent,
            capture_output=True,
            timeout=timeout,
            env=self.environment,
            cwd=self.configuration,
            check=False,
        )

    def postmap(
        self, *args: str | bytes | Path, input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """`postmap ARGS`: exit status 1 is a miss when nothing is on standard error, else a failure."""
        return self.run("postmap", *args, input=input, timeout=timeout)

    async def apostmap(
        self, *args: str | bytes | Path, input: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """`postmap ARGS` while the test's own loop goes on, for a server that runs in it."""
        return await asyncio.to_thread(self.postmap, *args, input=input, timeout=timeout)

    def ask(self, table: str | Path, keys: Iterable[str], timeout: float = 60) -> dict[str, str | None]:
        """What `table` ("type:place") has for each of `keys`, None where it has nothing; one run of postmap.

        Keys and values are UTF-8, other bytes are surrogates (`surrogateescape`). Raises `ValueError`
        for a key that cannot be told to ``postmap -q -`` or read back (newline, TAB, NUL), and
        `AssertionError` when the table cannot be read or a lookup fails.
        """
        keys = list(keys)
        for key in keys:
            if set(key) & set("\n\t\0"):
                raise ValueError(f"postmap -q - cannot be asked {key!r}")
        asked = "".join(f"{key}\n" for key in keys).encode(errors="surrogateescape")
        done = self.postmap("-q", "-", str(table), input=asked, timeout=timeout)
        if done.returncode not in (0, 1) or b"fatal:" in done.stderr:
            raise AssertionError(f"postmap -q - {table}: {done.stderr.decode(errors='replace')}")
        answers: dict[str, str | None] = dict.fromkeys(keys)
        for line in done.stdout.decode(errors="surrogateescape").removesuffix("\n").split("\n"):
            key, tab, value = line.partition("\t")
            if tab:
                answers[key] = value
        unasked = answers.keys() - set(keys)
        if unasked:
            raise AssertionError(f"postmap -q - {table} answered {unasked}, which nobody asked")
        return answers

    async def aask(
        self, table: str | Path, keys: Iterable[str], timeout: float = 60
    ) -> dict[str, str | None]:
        """`ask` while the test's own loop goes on."""
        return await asyncio.to_thread(self.ask, table, keys, timeout)
