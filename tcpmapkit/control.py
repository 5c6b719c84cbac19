"""What whoever runs the server can ask of it and have it do: commands and answers are plain dicts, the same
over HTTP, between the workers, and in a test.

A command that cannot be answered is answered with an ``error`` and its ``kind``: ``"request"`` when the
command is wrong, ``"unknown"`` when it names what there is not, ``"unavailable"``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tcpmapkit.config.mistakes import did_you_mean
from tcpmapkit.control_state import status_of, tables_of
from tcpmapkit.protocols.framing import MAX_KEY
from tcpmapkit.query import Found, NotFound, Outcome, TempFail

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.maps import Map
    from tcpmapkit.serving import Serving

__all__ = ["AskAll", "Command", "Control", "ControlAnswer"]

_log = logging.getLogger(__name__)

Command = dict[str, Any]
ControlAnswer = dict[str, Any]

AskAll = Callable[[Command], Awaitable[list[ControlAnswer]]]
"""Gives a command to every process that serves, and returns what they answer."""


class _Wrong(Exception):
    """A command that cannot be answered."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.answer = {"error": text, "kind": kind}


class Control:
    """Answers for one process; `worker` is its number, from 0."""

    def __init__(self, serving: Serving, worker: int = 0) -> None:
        self._serving = serving
        self._worker = worker
        self._started_at = time.time()
        self._commands: dict[str, Callable[[Command], Awaitable[ControlAnswer]]] = {
            "lookup": self._lookup,
            "metrics": self._metrics,
            "purge": self._purge,
            "ready": self._ready,
            "reload": self._reload,
            "status": self._status,
            "tables": self._tables,
        }

    async def answer(self, command: Command) -> ControlAnswer:
        """The answer to ``{"command": ..., ...}``."""
        do = self._commands.get(command.get("command", ""))
        if do is None:
            return {"error": "there is no such command", "kind": "request"}
        try:
            return await do(command)
        except _Wrong as wrong:
            return wrong.answer

    async def ask_alone(self, command: Command) -> list[ControlAnswer]:
        """An `AskAll` where this process is the only one."""
        return [await self.answer(command)]

    async def _ready(self, command: Command) -> ControlAnswer:
        return {"ready": self._serving.ready}

    async def _status(self, command: Command) -> ControlAnswer:
        return status_of(self._serving, self._worker, self._started_at)

    async def _tables(self, command: Command) -> ControlAnswer:
        # In a thread: it asks the file system, and that may be one of another host.
        return {"tables": await asyncio.to_thread(tables_of, self._serving)}

    async def _metrics(self, command: Command) -> ControlAnswer:
        from tcpmapkit.metrics.snapshot import snapshot

        return {"snapshot": await snapshot(self._serving, self._worker)}

    async def _reload(self, command: Command) -> ControlAnswer:
        if not self._serving.ready:
            return {"error": "the server is starting or stopping", "kind": "unavailable"}
        done = await self._serving.reload(force=bool(command.get("force")))
        return {
            "ok": not done.errors,
            "file": str(self._serving.site.document.path.absolute()),
            "errors": [str(error) for error in done.errors],
            "warnings": [str(warning) for warning in done.warnings],
            "changed": sorted(done.changed),
        }

    async def _purge(self, command: Command) -> ControlAnswer:
        map, key = self._map(command), command.get("key")
        if key is not None:
            _check_key(key)
        forgotten = map.forget(key)
        self._serving.server.forget_ready(map.name)
        what = "everything" if key is None else "one key"
        _log.info("purge: map %s: %s: %d answers forgotten", map.name, what, forgotten)
        return {"map": map.name, "forgotten": forgotten, "referring": self._referring(map.name)}

    def _referring(self, name: str) -> list[str]:
        """The maps that have answers made of this one's."""
        references = self._serving.site.maps.references
        found: set[str] = set()
        ahead = [name]
        while ahead:
            last = ahead.pop()
            new = {other for other, named in references.items() if last in named} - found
            found |= new
            ahead += new
        return sorted(found - {name})

    # Lookups.

    async def _lookup(self, command: Command) -> ControlAnswer:
        if not self._serving.ready:
            return {"error": "the tables are not loaded", "kind": "unavailable"}
        explain = bool(command.get("explain"))
        if "policy" in command:
            answer = await self._lookup_policy(command["policy"], command.get("attributes") or {}, explain)
        else:
            answer = await self._lookup_key(self._map(command), command.get("key"), explain)
        hide = self._serving.site.document.secrets.hide
        if "reason" in answer:
            answer["reason"] = hide(answer["reason"])
        if explain:
            answer["explanation"] = [[hide(field) for field in row] for row in answer["explanation"]]
        return answer

    async def _lookup_key(self, map: Map, key: str | None, explain: bool) -> ControlAnswer:
        if key is None:
            raise _Wrong("request", "key is missing")
        _check_key(key)
        if map.current.attributes != ():
            hint = "it reads the attributes of a policy request: name its listener, and the attributes"
            raise _Wrong("request", f"map {map.name}: {hint}")
        question = map.query(key)
        if explain:
            question.trace = []
        began = map.clock()
        outcome: Outcome = await map.lookup(question)
        elapsed = map.clock() - began
        answer: ControlAnswer = {"map": map.name, "key": key, **_told(outcome), "elapsed": elapsed}
        if explain:
            from tcpmapkit.explain import explanation

            answer["explanation"] = list(explanation(map, question, outcome, elapsed))
        return answer

    async def _lookup_policy(self, endpoint: str, attributes: dict[str, str], explain: bool) -> ControlAnswer:
        from tcpmapkit.policy_question import PolicyQuestions

        listener = self._policy_listener(endpoint)
        assert listener.map is not None
        map = self._serving.site.maps.maps[listener.map]
        came = await PolicyQuestions(listener, map).ask(attributes, trace=explain)
        answer: ControlAnswer = {"map": map.name, "policy": str(listener.endpoint), **_told(came.outcome)}
        answer |= {"action": came.action, "found": came.found, "elapsed": came.elapsed}
        if came.failure is not None:
            answer["reason"] = came.failure
        if explain:
            from tcpmapkit.explain import policy_explanation

            answer["explanation"] = list(policy_explanation(listener, attributes, map, came))
        return answer

    def _policy_listener(self, name: str) -> ListenerConfig:
        listeners = [one for one in self._serving.site.config.listeners if one.protocol == "policy"]
        found = [one for one in listeners if str(one.endpoint) == name]
        found = found or [one for one in listeners if one.map == name]
        if len(found) != 1:
            there = ", ".join(str(one.endpoint) for one in listeners) or "none"
            raise _Wrong("unknown", f"that is not one policy listener; there are: {there}")
        return found[0]

    def _map(self, command: Command) -> Map:
        maps = self._serving.site.maps.maps
        name = command.get("map")
        if name is None:
            raise _Wrong("request", "map is missing")
        if name not in maps:
            hint = did_you_mean(name, maps)
            raise _Wrong("unknown", f"there is no map {name!r}" + (f" ({hint})" if hint else ""))
        return maps[name]


def _check_key(key: str) -> None:
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise _Wrong("request", "the key is not UTF-8") from None
    if length > MAX_KEY:
        raise _Wrong("request", f"the key has more than {MAX_KEY} bytes: for Postfix it does not exist")


def _told(outcome: Outcome) -> ControlAnswer:
    if isinstance(outcome, Found):
        return {"outcome": "found", "value": outcome.value, "ttl": outcome.ttl}
    if isinstance(outcome, NotFound):
        return {"outcome": "not found", "ttl": outcome.ttl}
    kind = "temporary failure" if isinstance(outcome, TempFail) else "permanent failure"
    return {"outcome": kind, "reason": outcome.reason}
