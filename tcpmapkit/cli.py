"""The commands. Values go to standard output, everything else to standard error.

Exit status: 78 (EX_CONFIG) for the configuration and its tables, 75 (EX_TEMPFAIL) for a lookup that
failed, 2 for wrong usage, 1 for "not found" and for a server that cannot start.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tcpmapkit.errors import ConfigError
from tcpmapkit.output import print_line, print_rows

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.maps import Map
    from tcpmapkit.plugins import ResolverType
    from tcpmapkit.site import Site

__all__ = ["main"]

_CONFIG: Final = os.EX_CONFIG
_FAILED: Final = os.EX_TEMPFAIL
_NOT_FOUND: Final = 1

_file_option = click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="Configuration file; default tcpmapkit.toml here, else /etc/tcpmapkit/tcpmapkit.toml.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tcpmapkit")
def main() -> None:
    """A lookup server for Postfix: maps answered by a chain of resolvers behind a cache."""


@contextmanager
def _config_errors() -> Iterator[None]:
    """Tell the operator's mistakes and exit 78."""
    try:
        yield
    except ConfigError as error:
        _tell(str(error))
        sys.exit(_CONFIG)


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _open(file: Path | None) -> Site:
    from tcpmapkit.site import find_configuration, open_site

    site = open_site(find_configuration(file))
    _warn_of_broken_plugins(site)
    return site


def _warn_of_broken_plugins(site: Site) -> None:
    told = {mistake.message for mistake in site.mistakes}
    for plugin in site.plugins.broken:
        if str(plugin) not in told:
            _tell(f"warning: {plugin}")


@main.command()
@_file_option
def run(file: Path | None) -> None:
    """Serve the listeners of the configuration until told to stop."""
    from tcpmapkit.log import set_up_log
    from tcpmapkit.postfix.installed import queue_directory
    from tcpmapkit.postfix.main_cf import ready_line
    from tcpmapkit.postfix.served import find_served
    from tcpmapkit.process import StartError
    from tcpmapkit.serve import loop_factory, serve
    from tcpmapkit.site import located

    with _config_errors():
        site = _open(file)
        if not site.config.listeners:
            raise ConfigError("there is nothing to serve: no [[listeners]]", file=site.document.path)
        log = site.config.log
        served = find_served(site)
        queue = queue_directory(served)

        def ready(listeners: list[ListenerConfig]) -> None:
            for one, listener in zip(served, listeners, strict=True):
                print_line(ready_line(one.at(listener), queue))

        try:
            set_up_log(log.to, log.level, log.format)
            with asyncio.Runner(loop_factory=loop_factory(site.config.server.loop)) as runner:
                runner.run(serve(site, ready))
        except ConfigError as error:
            raise located(site.document, [error]) from None
        except (StartError, ImportError) as error:
            _tell(f"tcpmapkit: {error}")
            sys.exit(1)


@main.command()
@_file_option
@click.option("--offline", is_flag=True, help="Leave out what needs a network.")
def check(file: Path | None, offline: bool) -> None:
    """Validate the configuration, load every table, run the tests."""
    from tcpmapkit.log import warn_on_standard_error
    from tcpmapkit.map_tests import MapTestResults, run_map_tests
    from tcpmapkit.process import identity_mistakes
    from tcpmapkit.site import examine_site, find_configuration, located

    warn_on_standard_error()
    with _config_errors():
        site = examine_site(find_configuration(file), offline=offline)
        _warn_of_broken_plugins(site)
        mistakes: list[ConfigError] = [*site.mistakes]
        unknown = identity_mistakes(site.config)  # this need not be the machine that will serve
        for mistake in located(site.document, unknown).errors:
            _tell(f"warning: {mistake}")

        async def load_and_test() -> MapTestResults:
            try:
                await site.start()
                return MapTestResults() if mistakes else await run_map_tests(site)
            except ConfigError as error:
                mistakes.append(error)
                return MapTestResults()
            finally:
                await site.maps.stop()

        results = asyncio.run(load_and_test())
        if mistakes:
            raise located(site.document, mistakes)
        for failed in located(site.document, results.failed).errors:
            _tell(f"warning: {failed}")
        if results.wrong:
            raise located(site.document, results.wrong)
    left_out = f", {results.left_out} left out (offline)" if results.left_out else ""
    failed_too = f", {len(results.failed)} could not be run" if results.failed else ""
    _tell(
        f"{site.document.path}: {_counted(len(site.maps.maps), 'map')}, "
        f"{_counted(results.right, 'test')} passed{left_out}{failed_too}"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@main.command()
@_file_option
@click.option("--explain", is_flag=True, help="Show every step, the reply and what Postfix does with it.")
@click.argument("map_name", metavar="MAP")
@click.argument("key")
def query(file: Path | None, explain: bool, map_name: str, key: str) -> None:
    """Look KEY up in MAP as `postmap -q` does; KEY - reads keys from standard input.

    Exit status 0: found, 1: not found, 75: the lookup failed, 78: the configuration.
    """
    from tcpmapkit.config.mistakes import did_you_mean
    from tcpmapkit.log import warn_on_standard_error

    warn_on_standard_error()
    with _config_errors():
        site = _open(file)
        if map_name not in site.maps.maps:
            hint = did_you_mean(map_name, site.maps.maps)
            raise click.UsageError(f"there is no map {map_name!r}" + (f" ({hint})" if hint else ""))
        sys.exit(asyncio.run(_query(site, map_name, key, explain)))


async def _query(site: Site, map_name: str, key: str, explain: bool) -> int:
    """Ask and print; the exit status."""
    asked = site.maps.maps[map_name]
    try:
        await site.start([map_name])
        if key != "-":
            return await _ask_one(asked, key, explain, prefix=False)
        statuses = set()
        for line in sys.stdin.buffer:
            one = line.rstrip(b"\n").removesuffix(b"\r")
            try:
                statuses.add(await _ask_one(asked, one.decode(), explain, prefix=True))
            except UnicodeDecodeError:
                statuses.add(_NOT_FOUND)  # for Postfix an invalid key does not exist
        return _FAILED if _FAILED in statuses else 0 if 0 in statuses else _NOT_FOUND
    finally:
        await site.maps.stop()


async def _ask_one(asked: Map, key: str, explain: bool, *, prefix: bool) -> int:
    from tcpmapkit.query import Found, NotFound

    question = asked.query(key)
    if explain:
        question.trace = []
    began = asked.clock()
    outcome = await asked.lookup(question)
    elapsed = asked.clock() - began
    if explain:
        from tcpmapkit.explain import explanation

        print_rows(explanation(asked, question, outcome, elapsed))
    elif isinstance(outcome, Found):
        print_line(f"{key}\t{outcome.value}" if prefix else outcome.value)
    if isinstance(outcome, Found):
        return 0
    if isinstance(outcome, NotFound):
        return _NOT_FOUND
    _tell(f"{key}: {outcome.reason}" if prefix else outcome.reason)
    return _FAILED


@main.command()
@_file_option
def plugins(file: Path | None) -> None:
    """List the resolver types: distribution, version, source, properties; and the broken plugins."""
    from tcpmapkit.config import plugins_config, read_document
    from tcpmapkit.plugins import load_plugins
    from tcpmapkit.site import find_configuration

    with _config_errors():
        try:
            path: Path | None = find_configuration(file)
        except ConfigError:
            path = None  # no configuration: what is installed
        wanted = plugins_config(read_document(path)) if path is not None else None
        loaded = load_plugins(wanted.directory, wanted.disable) if wanted is not None else load_plugins()
    rows = [_described(one) for one in sorted(loaded.types.values(), key=lambda one: one.name)]
    rows += [(one.name, one.distribution, one.version or "-", "broken", one.reason) for one in loaded.broken]
    print_rows(rows, ("type", "distribution", "version", "source", "properties"))


def _described(one: ResolverType) -> tuple[str, ...]:
    flags = ("folded", "partial_keys", "special_keys", "in_memory")
    properties = [name for name in flags if getattr(one, name)]
    properties += [f"attributes={','.join(sorted(one.attributes))}"] if one.attributes else []
    return one.name, one.distribution, one.version or "-", one.source, " ".join(properties)


@main.command("postfix-config")
@_file_option
@click.option(
    "--postconf",
    "settings",
    metavar="[FILE]",
    is_flag=False,
    flag_value="",
    help="Compare with this machine's Postfix, or with the output of postconf in FILE (-: standard input).",
)
def postfix_config_command(file: Path | None, settings: str | None) -> None:
    """Print the main.cf lines for each listener, or compare with what Postfix has."""
    from tcpmapkit.postfix import installed
    from tcpmapkit.postfix.check import compare
    from tcpmapkit.postfix.main_cf import main_cf, warnings
    from tcpmapkit.postfix.postconf import parse_postconf
    from tcpmapkit.postfix.served import find_served

    with _config_errors():
        served = find_served(_open(file))
        if settings is not None:
            print_rows(compare(parse_postconf(installed.read_settings(settings)), served))
            return
        queue = installed.queue_directory(served)
        for warning in warnings(served, queue, installed.smtpd_chrooted(served)):
            _tell(f"warning: {warning}")
        for line in main_cf(served, queue):
            print_line(line)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from tcpmapkit.config.schema import config_schema
    from tcpmapkit.plugins import load_plugins

    print_line(json.dumps(config_schema(load_plugins().types), indent=2, ensure_ascii=False))
