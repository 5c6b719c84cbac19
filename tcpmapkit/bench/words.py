"""The command line of ``tcpmapkit bench``; what it needs is imported when it is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from tcpmapkit.command_line import complete_map, config_errors, file_option, open_configuration

__all__ = ["bench"]


@click.command()
@file_option
@click.option(
    "--keys", "given", type=click.File("rb"), required=True, help="Keys, one a line; - is standard input."
)
@click.option("--expect", is_flag=True, help="Lines are KEY, TAB, VALUE: count other answers as wrong.")
@click.option(
    "--connect", metavar="ENDPOINT", help="Ask a running server: a listener, or as main.cf names its table."
)
@click.option(
    "--connections", type=click.IntRange(1, 1000), default=1, show_default=True, help="Keys asked at once."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 86400, min_open=True),
    default=10.0,
    show_default=True,
    help="Longest time of a pass.",
)
@click.option("--count", type=click.IntRange(1), help="Most lookups of a pass.")
@click.option("--random", "in_random_order", is_flag=True, help="Ask in a random order, always the same.")
@click.option(
    "--slowest", type=click.IntRange(0, 1000), default=10, show_default=True, help="How many keys to name."
)
@click.option(
    "--steps",
    "sampled",
    type=click.IntRange(0, 100_000),
    default=1000,
    show_default=True,
    help="Most keys that are asked once more, past the cache, for the time of each step.",
)
@click.argument("map_name", metavar="[MAP]", required=False, shell_complete=complete_map)
def bench(
    file: Path | None,
    given: BinaryIO,
    expect: bool,
    connect: str | None,
    map_name: str | None,
    connections: int,
    **plan: Any,
) -> None:
    """Ask MAP for keys of your own, and tell how fast the answers come and which are slow.

    In this process, or with --connect over the wire.

    Exit status 0: done, 1: an answer was not the one expected, 75: a lookup failed, 78: the
    configuration.
    """
    import asyncio

    from tcpmapkit.bench.asked import protocol_of, read_keys, server_of_listener, server_of_table
    from tcpmapkit.bench.command import Plan, bench_map, bench_server
    from tcpmapkit.log import warn_on_standard_error
    from tcpmapkit.query_command import map_named
    from tcpmapkit.serve import loop_factory

    warn_on_standard_error()
    with config_errors():
        server = server_of_table(connect, map_name) if connect is not None else None
        if server is None:
            site = open_configuration(file)
            if connect is not None:
                server = server_of_listener(site, connect, map_name)
            elif map_name is None:
                raise click.UsageError("MAP is missing")
            else:
                asked = map_named(site, map_name)
                protocol = protocol_of(site, asked)
        keys, expected = read_keys(given, expect=expect)
        chosen = Plan(at_once=connections, **plan)
        with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
            if server is not None:
                status = runner.run(bench_server(server, keys, expected, chosen))
            else:
                status = runner.run(bench_map(site, asked, protocol, keys, expected, chosen))
        sys.exit(status)
