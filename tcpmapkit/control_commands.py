"""The commands that ask a running server: ``reload``, ``status``, ``purge``, ``query --server``.

They find it by ``[admin]`` of the configuration, of which they read no more: nothing is built or loaded, and
the rest of the file may be wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tcpmapkit.command_line import complete_map, config_errors, file_option
from tcpmapkit.output import print_line, print_rows, tell

if TYPE_CHECKING:
    from tcpmapkit.admin.client import AdminClient

__all__ = ["CONTROL_COMMANDS", "query_server"]

#: Seconds between two looks of ``status --watch``.
_INTERVAL: Final = 1.0

_FAILED: Final = os.EX_TEMPFAIL


@contextmanager
def _server(file: Path | None) -> Iterator[AdminClient]:
    """Who asks the server of a configuration. Tells why there is no answer, and exits 75, or 78."""
    from tcpmapkit.admin.client import AdminClient, Unreachable, find_admin
    from tcpmapkit.site import find_configuration

    with config_errors():
        try:
            yield AdminClient(find_admin(find_configuration(file)))
        except Unreachable as error:
            tell(str(error))
            sys.exit(_FAILED)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, if it is none that tells of an error. Raises `click.UsageError` when what was named does
    not exist, else exits 75."""
    if "error" not in answer:
        for worker in answer.get("missing", ()):
            tell(f"warning: worker {worker['number']} (pid {worker['pid']}) has not answered")
        return answer
    if answer.get("kind") in ("unknown", "request"):
        raise click.UsageError(answer["error"])
    tell(str(answer["error"]))
    sys.exit(_FAILED)


@click.command("reload")
@file_option
@click.option("--force", is_flag=True, help="Take tables as their files are, also those that have shrunk.")
def _reload(file: Path | None, force: bool) -> None:
    """Have the running server read its configuration and its tables anew.

    Exit status 0: it has, 78: something is wrong in them, and the server goes on with what it had, 75: it
    cannot be asked.
    """
    from tcpmapkit.site import find_configuration

    with _server(file) as server:
        done = _checked(server.ask("reload", patient=True, force=force))
        ours = find_configuration(file)
    if not _is_same(ours, done["file"]):
        tell(f"hint: the server was started with {done['file']}")
    for warning in done["warnings"]:
        tell(f"warning: {warning}")
    for error in done["errors"]:
        tell(error)
    if not done["ok"]:
        tell("nothing is changed: the server goes on with what it had")
        sys.exit(os.EX_CONFIG)
    changed = ", ".join(done["changed"])
    tell(f"the configuration is taken; {f'new maps: {changed}' if changed else 'no map is new'}")


def _is_same(ours: Path, theirs: str) -> bool:
    try:
        return ours.samefile(theirs)
    except OSError:  # one is not there any more, or was never for us to see
        return False


@click.command("purge")
@file_option
@click.argument("map", shell_complete=complete_map)
@click.argument("key", required=False)
def _purge(file: Path | None, map: str, key: str | None) -> None:
    """Have the running server forget the cached answers of MAP, or what it knows of KEY.

    Exit status 0: it has, 75: it cannot be asked.
    """
    parameters: dict[str, Any] = {"map": map} if key is None else {"map": map, "key": key}
    with _server(file) as server:
        done = _checked(server.ask("purge", **parameters))
    answers = "answer" if done["forgotten"] == 1 else "answers"
    tell(f"map {map}: {done['forgotten']} cached {answers} forgotten")
    for other in done["referring"]:
        tell(f"hint: map {other} refers to it, and may have cached answers made of it")


@click.command("status")
@file_option
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object.")
@click.option("--watch", is_flag=True, help="Show it on the terminal, renewed each second, until Ctrl-C.")
@click.option("--ready", is_flag=True, help="Print nothing: exit 0 if lookups are answered, whatever else.")
def _status(file: Path | None, as_json: bool, watch: bool, ready: bool) -> None:
    """Show what the running server serves, and what it has done.

    Exit status 0: all is well, 1: it is not ready, or a table's files went wrong, 75: it cannot be asked.
    """
    from tcpmapkit.status_output import status_rows

    if as_json + watch + ready > 1 or (watch and not sys.stdout.isatty()):
        raise click.UsageError("--watch needs a terminal; it, --json and --ready exclude one another")
    with _server(file) as server:
        if watch:
            _watch(server)
            return
        if ready:
            sys.exit(0 if _checked(server.ask("status"))["ready"] else 1)
        status = _asked(server)
    if as_json:
        import json

        print_line(json.dumps(status, indent=2))
    else:
        print_rows(status_rows(status))
    sys.exit(0 if status["ready"] and not status["held"] else 1)


def _asked(server: AdminClient) -> dict[str, Any]:
    return {**_checked(server.ask("status")), **_checked(server.ask("tables"))}


def _watch(server: AdminClient) -> None:
    import time

    from rich.live import Live
    from rich.text import Text

    from tcpmapkit.admin.client import Unreachable
    from tcpmapkit.status_output import StatusTable

    table = StatusTable()
    with Live(auto_refresh=False, screen=True) as live:
        try:
            while True:
                try:
                    shown = table.renewed(_asked(server), time.monotonic())
                except Unreachable as error:  # as while it is restarted
                    shown = Text(str(error))
                live.update(shown, refresh=True)
                time.sleep(_INTERVAL)
        except KeyboardInterrupt:
            pass


CONTROL_COMMANDS: Final = (_reload, _status, _purge)
"""For the group of commands."""


# query --server


def query_server(file: Path | None, policy: str | None, words: tuple[str, ...], explain: bool) -> int:
    """As ``query`` without ``--server``: a map and a key, or attributes for the policy listener that is
    spelled so in the file, or alone serves the map of that name. The exit status."""
    from tcpmapkit.query_command import can_exist, request_of, summary

    if policy is not None:
        if words == ("-",):
            raise click.UsageError("with --server the request is written as NAME=VALUE...")
        request = request_of(words)
        with _server(file) as server:
            return _ask_policy(server, policy, request, explain)
    map, key = words
    with _server(file) as server:
        if key != "-":
            return _ask_key(server, map, key, explain, prefix=False) if can_exist(key) else 1
        statuses = set()
        for line in sys.stdin.buffer:
            one = line.rstrip(b"\n").removesuffix(b"\r")
            key = one.decode(errors="surrogateescape")
            statuses.add(_ask_key(server, map, key, explain, prefix=True) if can_exist(key) else 1)
        return summary(statuses)


def _ask_key(server: AdminClient, map: str, key: str, explain: bool, *, prefix: bool) -> int:
    answer = _checked(server.ask("lookup", map=map, key=key, explain=explain))
    if explain:
        print_rows(answer["explanation"])
    elif "value" in answer:
        print_line(f"{key}\t{answer['value']}" if prefix else answer["value"])
    if "reason" in answer:
        tell(f"{key}: {answer['reason']}" if prefix else answer["reason"])
        return _FAILED
    return 0 if "value" in answer else 1


def _ask_policy(server: AdminClient, policy: str, request: Mapping[str, str], explain: bool) -> int:
    asked = server.ask("lookup", policy=policy, attributes=dict(request), explain=explain)
    answer = _checked(asked)
    if explain:
        print_rows(answer["explanation"])
    if "reason" in answer:
        tell(answer["reason"])
        return _FAILED
    if not explain:
        print_line(answer["action"] or "")
    return 0 if answer["found"] else 1
