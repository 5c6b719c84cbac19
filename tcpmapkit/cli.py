"""The commands. Values go to standard output, everything else to standard error.

Exit status: 78 (EX_CONFIG) for the configuration and its tables, 75 (EX_TEMPFAIL) for a lookup that
failed, 2 for wrong usage, 1 for "not found" and for a server that cannot start.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tcpmapkit.bench.words import bench
from tcpmapkit.command_line import (
    complete_map,
    config_errors,
    file_option,
    open_configuration,
    run_async,
    warn_of_broken_plugins,
)
from tcpmapkit.control_commands import CONTROL_COMMANDS
from tcpmapkit.errors import ConfigError
from tcpmapkit.output import print_line, print_rows, print_while_read, tell

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.plugins import ResolverType

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tcpmapkit")
def main() -> None:
    """A lookup server for Postfix: maps answered by a chain of resolvers behind a cache."""


for command in (bench, *CONTROL_COMMANDS):
    main.add_command(command)


@main.command()
@file_option
@click.option(
    "--stdio",
    metavar="LISTENER",
    help="Serve one connection, on standard input and output, as this listener would (spawn(8)).",
)
def run(file: Path | None, stdio: str | None) -> None:
    """Serve the listeners of the configuration until told to stop."""
    if stdio is not None:
        from tcpmapkit.stdio import run_on_stdio

        sys.exit(run_on_stdio(file, stdio))
    import asyncio

    from tcpmapkit.log import set_up_log
    from tcpmapkit.postfix.installed import queue_directory
    from tcpmapkit.postfix.main_cf import ready_line
    from tcpmapkit.postfix.served import find_served
    from tcpmapkit.process import StartError
    from tcpmapkit.progress import show_progress
    from tcpmapkit.serve import loop_factory, serve
    from tcpmapkit.site import located
    from tcpmapkit.workers.in_force import worker_count

    with config_errors():
        site = open_configuration(file)
        if not site.config.listeners:
            raise ConfigError("there is nothing to serve: no [[listeners]]", file=site.document.path)
        log = site.config.log
        served = find_served(site)
        queue = queue_directory(served)

        def ready(listeners: list[ListenerConfig]) -> None:
            each = zip(served, listeners, strict=True)
            print_while_read(ready_line(one.at(listener), queue) for one, listener in each)

        try:
            set_up_log(log.to, log.level, log.format, log.log_keys)
            if worker_count(site.config.server.workers) > 1:
                from tcpmapkit.workers.parent import serve_with_workers

                serve_with_workers(site, ready)
                return
            show_progress(site.maps, logged=True)
            with asyncio.Runner(loop_factory=loop_factory(site.config.server.loop)) as runner:
                runner.run(serve(site, ready))
        except ConfigError as error:
            raise located(site.document, [error]) from None
        except (StartError, ImportError) as error:
            tell(f"tcpmapkit: {error}")
            sys.exit(1)


@main.command()
@file_option
@click.option("--offline", is_flag=True, help="Leave out what needs a network.")
def check(file: Path | None, offline: bool) -> None:
    """Validate the configuration, load every table, run the tests."""
    from tcpmapkit.admin.token import token_mistakes
    from tcpmapkit.log import warn_on_standard_error
    from tcpmapkit.process import identity_mistakes
    from tcpmapkit.progress import show_progress
    from tcpmapkit.site import examine_site, find_configuration, located
    from tcpmapkit.site_tests import TestResults, run_site_tests

    warn_on_standard_error()
    with config_errors():
        site = examine_site(find_configuration(file), offline=offline)
        warn_of_broken_plugins(site)
        show_progress(site.maps, logged=False)
        mistakes: list[ConfigError] = [*site.mistakes]
        mistakes += [] if offline else token_mistakes(site.config.admin)
        unknown = identity_mistakes(site.config)  # this need not be the machine that will serve
        for mistake in located(site.document, unknown).errors:
            tell(f"warning: {mistake}")

        async def load_and_test() -> TestResults:
            try:
                await site.start()
                return TestResults() if mistakes else await run_site_tests(site)
            except ConfigError as error:
                mistakes.append(error)
                return TestResults()
            finally:
                await site.maps.stop()

        results = run_async(load_and_test())
        if mistakes:
            raise located(site.document, mistakes)
        for failed in located(site.document, results.failed).errors:
            tell(f"warning: {failed}")
        if results.wrong:
            raise located(site.document, results.wrong)
        for step in site.maps.steps:
            for note in getattr(step.resolver, "notes", ()):
                tell(f"note: map {step.place[0]}: {note}")
    left_out = f", {results.left_out} left out (offline)" if results.left_out else ""
    failed_too = f", {len(results.failed)} could not be run" if results.failed else ""
    tell(
        f"{site.document.path}: {_counted(len(site.maps.maps), 'map')}, "
        f"{_counted(results.right, 'test')} passed{left_out}{failed_too}"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@main.command()
@file_option
@click.option("--explain", is_flag=True, help="Show every step, the reply and what Postfix does with it.")
@click.option("--policy", metavar="ENDPOINT", help="Ask this policy listener about a request instead.")
@click.argument(
    "words", nargs=-1, metavar="MAP KEY | --policy ENDPOINT NAME=VALUE...", shell_complete=complete_map
)
@click.option("--server", is_flag=True, help="Ask the running server, by [admin] of the configuration.")
def query(file: Path | None, explain: bool, policy: str | None, words: tuple[str, ...], server: bool) -> None:
    """Look KEY up in MAP as `postmap -q` does; KEY - reads keys from standard input.

    With --policy: the action for a request with these attributes; - reads requests as Postfix sends
    them from standard input.

    Exit status 0: found, 1: not found, 75: the lookup failed, 78: the configuration.
    """
    from tcpmapkit import control_commands, query_command
    from tcpmapkit.log import warn_on_standard_error

    if policy is None and len(words) != 2:
        raise click.UsageError("MAP and KEY are needed, or --policy ENDPOINT and NAME=VALUE...")
    if policy is not None and not words:
        raise click.UsageError("the request is missing: NAME=VALUE..., or - for standard input")
    if server:
        sys.exit(control_commands.query_server(file, policy, words, explain))
    warn_on_standard_error()
    with config_errors():
        if policy is None:
            site = open_configuration(file)
            asked = query_command.map_named(site, words[0])
            sys.exit(run_async(query_command.query_map(site, asked, words[1], explain)))
        request = None if words == ("-",) else query_command.request_of(words)
        site = open_configuration(file)
        listener = query_command.policy_listener_named(site, policy)
        sys.exit(run_async(query_command.query_policy(site, listener, request, explain)))


@main.command()
@file_option
def plugins(file: Path | None) -> None:
    """List the resolver types: distribution, version, source, properties; and the broken plugins."""
    from tcpmapkit.config import plugins_config, read_document
    from tcpmapkit.plugins import load_plugins
    from tcpmapkit.site import find_configuration

    with config_errors():
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
@file_option
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
    from tcpmapkit.postfix.comparison import compare
    from tcpmapkit.postfix.main_cf import main_cf, warnings
    from tcpmapkit.postfix.postconf import parse_postconf
    from tcpmapkit.postfix.served import find_served

    with config_errors():
        served = find_served(open_configuration(file))
        if settings is not None:
            print_rows(compare(parse_postconf(installed.read_settings(settings)), served))
            return
        queue = installed.queue_directory(served)
        for warning in warnings(served, queue, installed.smtpd_chrooted(served)):
            tell(f"warning: {warning}")
        for line in main_cf(served, queue):
            print_line(line)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    import json

    from tcpmapkit.config.schema import config_schema
    from tcpmapkit.plugins import load_plugins

    print_line(json.dumps(config_schema(load_plugins().types), indent=2, ensure_ascii=False))
