"""A server for a long time: many millions of lookups while connections come and go and tables change; its
memory and its open files after each part. And what idle connections cost.

    python benchmarks/soak.py [--lookups 20000000] [--parts 80] [--workers 1] [--idle 10000]

Some keys are asked often and most seldom, more than the cache holds, so that entries are evicted all the
time; half of them are not found. Between two parts 500 connections come, ask once and go, and the table is
replaced. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.data import Question, write_questions
from benchmarks.processes import pss, running
from benchmarks.programs import compile_programs
from tcpmapkit.protocols import tcp_table
from tcpmapkit.query import Found, NotFound

TOP = Path(__file__).resolve().parent.parent
MAIN = "from tcpmapkit.cli import main; main()"

SITE = """
[server]
workers = {workers}
max_connections = {connections}
[admin]
endpoint = "unix:admin"
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "cached"
[maps.cached]
cache = {{ ttl = "20s", negative_ttl = "10s", max_size = "4MiB", negative_max_size = "2MiB" }}
[[maps.cached.resolvers]]
type = "csv"
path = "table.csv"
[[maps.cached.resolvers]]
type = "python"
callable = "benchmarks.soak:nothing"
"""

KEYS = 50_000
COMING_AND_GOING = 500
#: Replies to one connection at a time: as many as Postfix processes of a large host.
CONNECTIONS = 64


async def nothing(key: str) -> str | None:
    """A source that waits, knows nothing, and so makes the map one that is cached."""
    return None


def questions() -> list[Question]:
    """Keys that are found and keys that are not, in turn."""
    asked: list[Question] = []
    chance = random.Random(1)
    for _ in range(2 * KEYS):
        number = min(int(chance.paretovariate(0.6)), KEYS - 1)
        key = f"user{number}@example.org"
        outcome = Found(f"box{number}@example.net") if number % 2 else NotFound()
        asked.append((tcp_table.encode_request(key), tcp_table.encode(outcome)))
    return asked


def write_table(place: Path, version: int) -> None:
    """The table once more, with one entry that is another each time."""
    lines = [f"user{number}@example.org,box{number}@example.net\n" for number in range(1, KEYS, 2)]
    new = place / "table.new"
    new.write_text(f"key,value\nversion,{version}\n" + "".join(lines))
    new.replace(place / "table.csv")


def come_and_go(port: int, asked: Iterable[Question]) -> None:
    """One connection for each question."""
    for request, reply in asked:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request)
            if connection.recv(4096) != reply:
                raise RuntimeError("a wrong reply")


def processes(pid: int) -> list[int]:
    """The server's process and its workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def weight(pid: int) -> tuple[int, int]:
    """Bytes of memory and open files, of all processes of the server."""
    of = processes(pid)
    return sum(map(pss, of)), sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in of)


def soak(port: int, pid: int, place: Path, load: Path, lookups: int, parts: int) -> None:
    asked = questions()
    file = write_questions(place / "questions", asked)
    began = time.monotonic()
    print(f"{'lookups':>12} {'MiB':>8} {'files':>6} {'a second':>9}")
    for part in range(parts):
        command: list[str | Path] = [load, str(port), str(CONNECTIONS), "0", str(lookups // parts), "0", file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        come_and_go(port, asked[:COMING_AND_GOING])
        write_table(place, part)
        memory, files = weight(pid)
        told = json.loads(done.stdout)
        rate = told["requests"] / told["seconds"]
        total = (part + 1) * (lookups // parts)
        print(f"{total:>12} {memory / 2**20:>8.1f} {files:>6} {rate:>9.0f}", flush=True)
    print(f"{time.monotonic() - began:.0f} s")


def hold_idle(port: int, pid: int, number: int) -> None:
    """Open so many connections that stay idle, then one more; what each costs the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, number + 1000), hard), hard))
    before, _ = weight(pid)
    request, reply = questions()[1]
    idle: list[socket.socket] = []
    for _ in range(number):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.sendall(request)
        if connection.recv(4096) != reply:
            raise RuntimeError("a wrong reply")
        idle.append(connection)
    after, files = weight(pid)
    print(f"{number} idle connections: {(after - before) / number:.0f} bytes each, {files} open files")
    time.sleep(11)  # that long a connection must have been idle to make room
    come_and_go(port, [(request, reply)])
    print("one more is served; the connection that has been idle longest:", end=" ")
    idle[0].settimeout(5)
    print("closed" if idle[0].recv(1) == b"" else "open")
    for connection in idle:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lookups", type=int, default=20_000_000)
    parser.add_argument("--parts", type=int, default=80)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--idle", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        programs = compile_programs(place)
        write_table(place, 0)
        command = [sys.executable, "-c", MAIN, "run", "-c", str(place / "tcpmapkit.toml")]

        def configure(connections: int) -> None:
            text = SITE.format(workers=options.workers, connections=connections)
            (place / "tcpmapkit.toml").write_text(text)

        if options.idle:
            configure(options.idle)
            with running(command) as server:
                hold_idle(server.ports[0], server.pid, options.idle)
        if options.lookups:
            configure(10_000)
            with running(command) as server:
                soak(server.ports[0], server.pid, place, programs.load, options.lookups, options.parts)


if __name__ == "__main__":
    main()
