"""What a running server tells of itself and is told to do, without the way by which it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tcpmapkit.control import Control
from tcpmapkit.merging import merged
from tcpmapkit.serving import Serving
from tcpmapkit.site import open_site
from tests.endpoints import connected

#: How often the source of `counted` was asked for each key.
ASKED: dict[str, int] = {}


def counted(key: str) -> str | None:
    """A source whose answer is another each time; it does not know keys with "nobody"."""
    ASKED[key] = ASKED.get(key, 0) + 1
    if "broken" in key:
        raise RuntimeError(key)
    return None if "nobody" in key else f"{key} {ASKED[key]}"


COUNTED = """
[[maps.{name}.resolvers]]
type = "python"
callable = "tests.test_control:counted"
inline = true
"""

SITE = (
    """
[[listeners]]
protocol = "tcp_table"
endpoint = "inet:127.0.0.1:0"
map = "users"

[maps.users]
"""
    + COUNTED.format(name="users")
    + """
[maps.table]
[[maps.table.resolvers]]
type = "csv"
path = "table.csv"

[maps.above]
[[maps.above.resolvers]]
type = "map"
map = "users"

[maps.top]
[[maps.top.resolvers]]
type = "map"
map = "above"
"""
)

POLICY = """
[[listeners]]
protocol = "policy"
endpoint = "unix:policy"
map = "clients"
key = "{client_address}"
default_action = "DEFER_IF_PERMIT later"

[maps.clients]
[[maps.clients.resolvers]]
type = "static"
entries = { "192.0.2.1" = "REJECT spam", "192.0.2.2" = "DUNNO" }
"""


@attrs.define(eq=False)
class Controlled:
    """A server and who controls it."""

    control: Control
    serving: Serving
    file: Path

    async def ask(self, command: str, **parameters: Any) -> dict[str, Any]:
        answer = await self.control.answer({"command": command, **parameters})
        return dict(json.loads(json.dumps(answer)))

    def write(self, text: str) -> None:
        self.file.write_text(text)

    async def over_tcp(self, key: str) -> str:
        async with connected(self.serving.server) as peer:
            peer.send(f"get {key}\n".encode())
            return (await peer.reader.readline()).decode().rstrip("\n")


@asynccontextmanager
async def controlled(directory: Path, text: str = SITE) -> AsyncIterator[Controlled]:
    ASKED.clear()
    file = directory / "tcpmapkit.toml"
    file.write_text(text)
    (directory / "table.csv").write_text("key,value\na@example.org,b@example.org\n")
    serving = Serving(open_site(file))
    serving.server.bind()
    await serving.site.start()
    await serving.start()
    try:
        yield Controlled(Control(serving), serving, file)
    finally:
        await serving.stop()


async def test_a_command_that_there_is_not_is_told_so(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        assert (await server.ask("explode"))["kind"] == "request"
        assert (await server.control.answer({}))["kind"] == "request"


async def test_it_is_ready_from_its_start_to_its_stop(tmp_path: Path) -> None:
    file = tmp_path / "tcpmapkit.toml"
    (tmp_path / "table.csv").write_text("key,value\n")
    file.write_text(SITE)
    serving = Serving(open_site(file))
    control = Control(serving)
    serving.server.bind()
    assert await control.answer({"command": "ready"}) == {"ready": False}
    for command in ({"command": "lookup", "map": "users", "key": "a"}, {"command": "reload"}):
        assert (await control.answer(command))["kind"] == "unavailable"
    await serving.site.start()
    await serving.start()
    assert await control.answer({"command": "ready"}) == {"ready": True}
    await serving.stop()
    assert await control.answer({"command": "ready"}) == {"ready": False}


# status and tables


async def test_status_tells_what_is_served_and_what_became_of_it(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        for key in ("a", "a", "nobody", "broken"):
            await server.over_tcp(key)
        status = await server.ask("status")
    [listener] = status["listeners"]
    assert (listener["protocol"], listener["maps"]) == ("tcp_table", ["users"])
    assert listener["requests"] == {
        "found": 2,
        "not_found": 1,
        "temporary": 1,
        "permanent": 0,
        "refused": 0,
    }
    assert listener["ready"] == 1
    assert (listener["connections_total"], status["ready"], status["held"]) == (4, True, [])
    assert status["reloads"] == {"good": 0, "bad": 0}
    assert status["file"] == str(tmp_path / "tcpmapkit.toml")
    users = next(one for one in status["maps"] if one["name"] == "users")
    assert users["entries"] == {"found": 1, "not_found": 2}  # a failure is remembered for a moment
    assert users["bytes"]["found"] > 0
    [worker] = status["workers"]
    assert (worker["worker"], worker["requests"]) == (0, 4)


async def test_tables_tells_of_each_file_whether_it_is_as_it_was_loaded(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        [before] = (await server.ask("tables"))["tables"]
        (tmp_path / "table.csv").write_text("key,value\n" + "x,y\n" * 3)
        [after] = (await server.ask("tables"))["tables"]
    assert (before["map"], before["step"], before["rows"]) == ("table", "csv", 1)
    assert before["files"] == [str(tmp_path / "table.csv")]
    assert (before["current"], before["held"]) == (True, None)
    assert (after["current"], after["rows"]) == (False, 1)


async def test_a_table_that_is_held_is_told_in_both(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        (tmp_path / "table.csv").write_bytes(b"\xff")
        await server.serving.reload_tables()
        [table] = (await server.ask("tables"))["tables"]
        [held] = (await server.ask("status"))["held"]
    assert (held["map"], held["step"]) == ("table", "csv")
    assert table["held"] == held["reason"]
    assert "table.csv" in held["reason"]


# lookup


async def test_a_lookup_is_one_of_the_servers_own_with_its_cache(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        first = await server.ask("lookup", map="users", key="A@example.org")
        second = await server.ask("lookup", map="users", key="a@example.org")
        missing = await server.ask("lookup", map="users", key="nobody")
    assert (first["outcome"], first["value"]) == ("found", "a@example.org 1")
    assert second["value"] == first["value"]
    assert missing["outcome"] == "not found"
    assert "value" not in missing


async def test_a_failure_is_told_with_its_reason(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        answer = await server.ask("lookup", map="users", key="broken")
    assert answer["outcome"] == "temporary failure"
    assert answer["reason"]
    assert "RuntimeError" not in str(answer)


async def test_a_lookup_is_explained_as_query_does(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        answer = await server.ask("lookup", map="table", key="a@example.org", explain=True)
    rows = {row[0]: row[1:] for row in answer["explanation"]}
    assert rows["key"] == ["'a@example.org'"]
    assert rows["step 1"][:3] == ["csv", "asked 'a@example.org'", "found 'b@example.org'"]
    assert rows["Postfix"] == ["uses the value"]


@pytest.mark.parametrize(
    ("parameters", "kind", "words"),
    [
        ({"key": "a"}, "request", "map is missing"),
        ({"map": "users"}, "request", "key is missing"),
        ({"map": "usrs", "key": "a"}, "unknown", "did you mean 'users'"),
        ({"map": "users", "key": "x" * 10_001}, "request", "10000 bytes"),
        ({"map": "users", "key": "\ud800"}, "request", "not UTF-8"),
        ({"policy": "users"}, "unknown", "policy listener"),
    ],
)
async def test_a_lookup_that_cannot_be_asked_is_told_why(
    parameters: dict[str, Any], kind: str, words: str, tmp_path: Path
) -> None:
    async with controlled(tmp_path) as server:
        answer = await server.ask("lookup", **parameters)
    assert answer["kind"] == kind
    assert words in answer["error"]
    assert ASKED == {}


@pytest.mark.parametrize("named", ["unix:{}/policy", "clients"])
async def test_a_policy_listener_is_asked_with_attributes(named: str, tmp_path: Path) -> None:
    async with controlled(tmp_path, SITE + POLICY) as server:
        policy = named.format(tmp_path)

        async def ask(address: str, explain: bool = False) -> dict[str, Any]:
            attributes = {"client_address": address}
            return await server.ask("lookup", policy=policy, attributes=attributes, explain=explain)

        rejected, none, unknown = [await ask(f"192.0.2.{last}") for last in (1, 2, 3)]
        explained = await ask("192.0.2.1", explain=True)
    assert (rejected["action"], rejected["found"]) == ("REJECT spam", True)
    assert (none["action"], none["found"]) == ("DUNNO", False)
    assert (unknown["action"], unknown["found"], unknown["outcome"]) == ("DUNNO", False, "not found")
    assert ["attribute", "client_address", "'192.0.2.1'"] in explained["explanation"]


# purge


async def test_a_purged_key_is_asked_again_whatever_was_ready_and_others_are_not(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        for key in ("a", "a", "A", "b", "nobody"):
            await server.over_tcp(key)
        assert ASKED == {"a": 1, "b": 1, "nobody": 1}
        assert (await server.ask("purge", map="users", key="A"))["forgotten"] == 1
        assert await server.over_tcp("a") == "200 a%202"
        assert await server.over_tcp("A") == "200 a%202"
        await server.over_tcp("b")
        assert (await server.ask("purge", map="users", key="nobody"))["forgotten"] == 1
        await server.over_tcp("nobody")
        assert ASKED == {"a": 2, "b": 1, "nobody": 2}
        assert (await server.ask("purge", map="users", key="never-asked"))["forgotten"] == 0


async def test_purging_a_map_leaves_ready_what_listeners_of_other_maps_have(tmp_path: Path) -> None:
    other = SITE.partition("[maps.users]")[0].replace('"users"', '"table"')
    async with controlled(tmp_path, other + SITE) as server:
        table, users = server.serving.server.services
        for listener, key in enumerate((b"a@example.org", b"a")):
            async with connected(server.serving.server, listener) as peer:
                peer.send(b"get %s\n" % key)
                await peer.reader.readline()
        ready = [service.ready for service in (table, users)]
        assert [len(one) for one in ready] == [1, 1]  # type: ignore[arg-type]
        await server.ask("purge", map="users", key="a")
        assert [len(one) for one in ready] == [1, 0]  # type: ignore[arg-type]


async def test_a_map_forgets_everything_and_no_other_map_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with controlled(tmp_path) as server:
        for key in ("a", "b", "nobody"):
            await server.over_tcp(key)
        await server.ask("lookup", map="above", key="a")
        answer = await server.ask("purge", map="users")
        assert (answer["forgotten"], answer["referring"]) == (3, ["above", "top"])
        for key in ("a", "b", "nobody"):
            await server.over_tcp(key)
        assert ASKED == {"a": 2, "b": 2, "nobody": 2}
        assert (await server.ask("lookup", map="above", key="a"))["value"] == "a 1"
        assert (await server.ask("purge", map="table"))["forgotten"] == 0
    assert "purge: map users: everything: 3 answers forgotten" in caplog.text


# reload


async def test_a_reload_tells_what_is_new_and_what_needs_a_restart(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        server.write(
            '[server]\nloop = "asyncio"\n'
            + SITE
            + '[maps.more]\nresolvers = [{ type = "static", value = "x" }]\n'
        )
        done = await server.ask("reload")
        assert (done["ok"], done["changed"], done["errors"]) == (True, ["more"], [])
        assert "server.loop" in done["warnings"][0]
        assert (await server.ask("lookup", map="more", key="a"))["value"] == "x"
        assert (await server.ask("status"))["reloads"] == {"good": 1, "bad": 0}


async def test_an_admin_endpoint_that_changed_needs_a_restart(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        server.write('[admin]\nendpoint = "unix:admin"\n' + SITE)
        done = await server.ask("reload")
    assert done["ok"]
    assert "admin: this is read at the start only" in done["warnings"][0]


async def test_a_reload_that_is_refused_tells_every_mistake_with_its_place(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        server.write(SITE + "[maps.bad]\nresolvers = []\n[maps.worse]\nserch = 'virtual'\n")
        done = await server.ask("reload")
        assert (done["ok"], done["changed"]) == (False, [])
        assert any("maps.bad.resolvers" in error for error in done["errors"])
        assert any("maps.worse.serch" in error for error in done["errors"])
        assert (await server.ask("status"))["reloads"] == {"good": 0, "bad": 1}
        assert (await server.ask("lookup", map="users", key="a"))["value"] == "a 1"


async def test_a_table_that_shrank_is_taken_when_that_is_meant(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        rows = [f"{number}@example.org,x" for number in range(100)]
        (tmp_path / "table.csv").write_text("\n".join(["key,value", *rows]))
        await server.ask("reload")
        (tmp_path / "table.csv").write_text("\n".join(["key,value", *rows[:10]]))
        refused = await server.ask("reload")
        assert "the table has 10 rows now and had 100" in refused["errors"][0]
        taken = await server.ask("reload", force=True)
    assert (taken["ok"], taken["changed"]) == (True, ["table"])


# Several workers.


def test_no_answer_at_all_is_an_error() -> None:
    assert merged({"command": "status"}, [])["kind"] == "unavailable"


def test_an_error_of_one_worker_is_the_answer() -> None:
    error = {"error": "no", "kind": "unknown"}
    assert merged({"command": "purge"}, [{"map": "a", "forgotten": 1, "referring": []}, error]) == error


async def test_the_answers_of_several_workers_are_one(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        await server.over_tcp("a")
        one = await server.ask("status")
        await server.over_tcp("b")
        other = await server.ask("status")
        other["workers"][0]["worker"] = 1
        other["held"] = [{"map": "table", "step": "csv", "reason": "broken"}]
        status = merged({"command": "status"}, [one, other])
    assert status.keys() == one.keys()
    [listener] = status["listeners"]
    assert listener["requests"]["found"] == 3
    assert listener["maps"] == ["users"]
    assert next(each for each in status["maps"] if each["name"] == "users")["entries"]["found"] == 3
    assert [worker["worker"] for worker in status["workers"]] == [0, 1]
    assert status["held"] == other["held"]


@pytest.mark.parametrize(
    ("command", "answers", "expected"),
    [
        ("ready", [{"ready": True}, {"ready": False}], {"ready": False}),
        ("ready", [{"ready": True}, {"ready": True}], {"ready": True}),
        (
            "purge",
            [
                {"map": "a", "forgotten": 1, "referring": ["b"]},
                {"map": "a", "forgotten": 2, "referring": ["b"]},
            ],
            {"map": "a", "forgotten": 3, "referring": ["b"]},
        ),
        (
            "reload",
            [
                {"ok": True, "file": "f", "errors": [], "warnings": ["w"], "changed": ["a"]},
                {"ok": False, "file": "f", "errors": ["e"], "warnings": ["w", "v"], "changed": []},
            ],
            {"ok": False, "file": "f", "errors": ["e"], "warnings": ["w", "v"], "changed": ["a"]},
        ),
        (
            "tables",
            [
                {"tables": [{"map": "a", "step": "s", "current": True, "held": None}]},
                {"tables": [{"map": "a", "step": "s", "current": False, "held": None}]},
                {"tables": [{"map": "a", "step": "s", "current": True, "held": "why"}]},
            ],
            {"tables": [{"map": "a", "step": "s", "current": True, "held": "why"}]},
        ),
    ],
)
def test_each_command_has_its_way_of_being_one(
    command: str, answers: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    assert merged({"command": command}, answers) == expected


async def test_no_answer_waits_for_the_file_system_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    here = threading.current_thread()
    seen = []
    async with controlled(tmp_path) as server:
        step = next(one for one in server.serving.site.maps.steps if one.place == ("table", "csv"))
        monkeypatch.setattr(
            type(step.resolver), "is_current", lambda self: seen.append(threading.current_thread()) or True
        )
        await server.ask("tables")
    assert seen
    assert here not in seen


async def test_two_reloads_at_once_are_one_after_the_other(tmp_path: Path) -> None:
    async with controlled(tmp_path) as server:
        done = await asyncio.gather(*(server.ask("reload") for _ in range(5)))
        assert [one["ok"] for one in done] == [True] * 5
        assert (await server.ask("status"))["reloads"]["good"] == 5
