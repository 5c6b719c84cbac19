"""The tests of a configuration: keys asked of its maps, requests of its policy listeners."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tcpmapkit.build_chain import OFFLINE
from tcpmapkit.errors import ConfigError
from tcpmapkit.policy_question import PolicyQuestions
from tcpmapkit.protocols.actions import NO_ACTION, is_none
from tcpmapkit.query import Found, NotFound, Outcome, PermFail, TempFail
from tcpmapkit.step_failures import in_full

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.maps import Map
    from tcpmapkit.site import Site

__all__ = ["TestResults", "run_site_tests"]

_Path = tuple[str | int, ...]


@attrs.define
class TestResults:
    """How many tests gave the right answer, how many were left out (offline), and the others.

    A lookup that `failed` says nothing about the configuration, so it is a warning; a `wrong`
    answer is an error.
    """

    __test__ = False  # for pytest

    right: int = 0
    left_out: int = 0
    wrong: list[ConfigError] = attrs.Factory(list)
    failed: list[ConfigError] = attrs.Factory(list)

    def judge(self, right: bool, message: str, path: _Path) -> None:
        """Count an answer; `path` is the test's, `message` what is wrong with it if it is."""
        if right:
            self.right += 1
        else:
            self.wrong.append(ConfigError(message, path=(*path, "expect")))

    def note_failure(self, outcome: Outcome, message: str, path: _Path) -> None:
        """Count a lookup that failed; `path` is that of what was asked, for the warning."""
        if getattr(outcome, "reason", "") == OFFLINE.reason:  # from the cache it has a TTL
            self.left_out += 1
        else:
            reason = in_full(outcome) if isinstance(outcome, TempFail | PermFail) else ""
            self.failed.append(ConfigError(f"{message}: {reason}", path=path))


async def run_site_tests(site: Site) -> TestResults:
    """Run every test of a started site: those of its maps, then those of its listeners."""
    results = TestResults()
    maps = site.maps.maps
    for config in site.config.maps.values():
        tested = maps[config.name]
        for test in config.tests:
            outcome = await tested.lookup(tested.query(test.key), inner=True)
            if isinstance(outcome, Found | NotFound):
                got = outcome.value if isinstance(outcome, Found) else None
                message = f"{test.key!r} gives {_shown(got)}, not {_shown(test.expect)}"
                results.judge(got == test.expect, message, test.path)
            else:
                message = f"{test.key!r} could not be looked up"
                results.note_failure(outcome, message, (*test.path, "key"))
    for listener in site.config.listeners:
        if listener.tests and listener.map is not None:
            await _run_of_listener(listener, maps[listener.map], results)
    return results


async def _run_of_listener(listener: ListenerConfig, map: Map, results: TestResults) -> None:
    questions = PolicyQuestions(listener, map)
    for index, test in enumerate(listener.tests):
        path = (*listener.path, "tests", index)
        answer = await questions.ask(test.attributes)
        outcome = answer.outcome
        if not isinstance(outcome, Found | NotFound):
            # Whatever Postfix would be told instead: that is not what the map answers.
            results.note_failure(outcome, "the request could not be answered", (*path, "attributes"))
        elif answer.action is None:
            results.judge(False, f"the request gives no reply: {answer.failure}", path)
        else:
            message = f"the request gives {answer.action!r}, not {test.expect or NO_ACTION!r}"
            results.judge(_same(answer.action, test.expect), message, path)


def _same(action: str, expected: str | None) -> bool:
    """Whether they are the same to Postfix, for which ``DUNNO`` and no action are."""
    return is_none(action) if expected is None or is_none(expected) else action == expected


def _shown(value: str | None) -> str:
    return '"not found"' if value is None else repr(value)
