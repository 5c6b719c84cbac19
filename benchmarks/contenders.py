"""The servers that are measured, each with what it is asked."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from benchmarks.data import (
    address_questions,
    mta_sts_questions,
    rows,
    socketmap_questions,
    tcp_questions,
    twisted_questions,
    write_questions,
)
from benchmarks.processes import Process, running
from benchmarks.programs import Programs
from benchmarks.scraper import scrape
from tcpmapkit.protocols import tcp_table

__all__ = [
    "CACHED",
    "CACHED_SOCKETMAP",
    "CACHED_WATCHED",
    "CHAIN",
    "CHAIN_WATCHED",
    "REFERENCE",
    "TWISTED",
    "Contender",
    "Contenders",
    "all_contenders",
    "tcpmapkit_command",
]

REFERENCE = "C reference"
CACHED = "tcpmapkit, cached, tcp_table"
CACHED_SOCKETMAP = "tcpmapkit, cached, socketmap"
CHAIN = "tcpmapkit, uncached chain of three"
TWISTED = "Twisted PostfixTCPMapServer"

CACHED_WATCHED = "tcpmapkit, log and metrics on, cached"
CHAIN_WATCHED = "tcpmapkit, log and metrics on, chain"

_QUIET = """\
[log]
level = "error"
"""

#: All that an operator may switch on.
_TALKATIVE = """\
[log]
level = "info"
format = "json"

[admin]
endpoint = "unix:{directory}/admin"
"""

_CONFIGURATION = """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "cached"

[[listeners]]
protocol = "socketmap"
endpoint = "inet:127.0.0.1:0"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "chain"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "waits"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "api"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "names"

[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "hangs"

# As shipped: cached with a TTL, from a source that cannot be told to be in memory.
[[maps.cached.resolvers]]
type = "python"
callable = "benchmarks.sources:value"
inline = true

# Nothing is kept, not even ready replies: the codec, the chain and its three steps each time.
[maps.chain]
cache = false
resolvers = [
    {{ type = "static", entries = {{ "postmaster@example.org" = "root@example.net" }} }},
    {{ type = "csv", path = "{directory}/none.csv" }},
    {{ type = "file", path = "{directory}/table" }},
]

[maps.waits]
cache = false
resolvers = [{{ type = "python", callable = "benchmarks.sources:waits" }}]

[maps.api]
cache = false
resolvers = [{{ type = "http", url = "http://127.0.0.1:{api}/{{key}}" }}]

[maps.names]
cache = false
resolvers = [{{ type = "dns", query = "{{user}}.{{domain}}", nameservers = ["127.0.0.1:{names}"] }}]

[maps.hangs]
cache = false
deadline = "90s"
resolvers = [{{ type = "python", callable = "benchmarks.sources:hangs" }}]
"""


@attrs.frozen
class Contender:
    """A server and what it is asked; `questions` is a file as load.c reads it."""

    name: str
    process: Process
    port: int
    questions: Path


@attrs.frozen
class Contenders:
    """Those that answer at once, the reference first; our maps that wait, the one that hangs last; and who
    is missing, with the reason."""

    at_once: tuple[Contender, ...]
    waiting: tuple[Contender, ...]
    missing: dict[str, str]


def tcpmapkit_command(configuration: Path) -> list[str]:
    """The command that serves this configuration."""
    code = "from tcpmapkit.cli import main; main()"
    return [sys.executable, "-c", code, "run", "-c", str(configuration)]


@contextmanager
def all_contenders(programs: Programs, directory: Path, core: int | None) -> Iterator[Contenders]:
    """Start every server there is."""
    table = directory / "wire"
    table.write_bytes(
        b"".join(tcp_table.quote(key) + b" " + tcp_table.quote(value) + b"\n" for key, value in rows())
    )
    (directory / "table").write_text("".join(f"{key} {value}\n" for key, value in rows()))
    (directory / "none.csv").write_text("key,value\nabuse@example.org,root@example.net\n")
    configuration = directory / "tcpmapkit.toml"
    tcp = write_questions(directory / "tcp", tcp_questions())
    socketmap = write_questions(directory / "socketmap", socketmap_questions("cached"))
    missing: dict[str, str] = {}
    with ExitStack() as servers:

        def start(*command: str | Path, ports: int = 1) -> Process:
            return servers.enter_context(running(command, ports, core))

        reference = start(programs.reference, "0", table)
        # The slow sources are not what is measured: they run elsewhere.
        slow = servers.enter_context(running([sys.executable, "-m", "benchmarks.sources"], 2))
        api, names = slow.ports

        def serve(settings: str) -> Process:
            text = (settings + _CONFIGURATION).format(directory=directory, api=api, names=names)
            configuration.write_text(text)
            return start(*tcpmapkit_command(configuration), ports=7)

        ours, watched = serve(_QUIET), serve(_TALKATIVE)
        # As Prometheus does, which runs elsewhere too.
        scrape(f"{directory}/admin")
        scraper = [sys.executable, "-m", "benchmarks.scraper", f"{directory}/admin"]
        servers.enter_context(running(scraper, 0))
        addresses = write_questions(directory / "addresses", address_questions())
        found = [
            Contender(REFERENCE, reference, reference.ports[0], tcp),
            Contender(CACHED, ours, ours.ports[0], tcp),
            Contender(CACHED_SOCKETMAP, ours, ours.ports[1], socketmap),
            Contender(CHAIN, ours, ours.ports[2], tcp),
            Contender(CACHED_WATCHED, watched, watched.ports[0], tcp),
            Contender(CHAIN_WATCHED, watched, watched.ports[2], tcp),
        ]
        waiting = [
            Contender("a coroutine", ours, ours.ports[3], tcp),
            Contender("http", ours, ours.ports[4], tcp),
            Contender("dns", ours, ours.ports[5], addresses),
            Contender("hangs", ours, ours.ports[6], tcp),
        ]
        if importlib.util.find_spec("twisted"):
            twisted = start(sys.executable, "-m", "benchmarks.twisted_server")
            asked = write_questions(directory / "twisted", twisted_questions())
            found.append(Contender(TWISTED, twisted, twisted.ports[0], asked))
        else:
            missing[TWISTED] = "not installed"
        if importlib.util.find_spec("postfix_mta_sts_resolver"):
            mta_sts = start(sys.executable, "-m", "benchmarks.mta_sts_server")
            asked = write_questions(directory / "mta_sts", mta_sts_questions())
            found.append(Contender("postfix-mta-sts-resolver", mta_sts, mta_sts.ports[0], asked))
        else:
            missing["postfix-mta-sts-resolver"] = "not installed (requirements/bench.txt)"
        yield Contenders(tuple(found), tuple(waiting), missing)
