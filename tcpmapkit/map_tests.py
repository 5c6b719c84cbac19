"""``[[maps.X.tests]]``: keys and what they must give, asked of the maps as Postfix would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tcpmapkit.build_chain import OFFLINE
from tcpmapkit.errors import ConfigError
from tcpmapkit.query import Found, NotFound

if TYPE_CHECKING:
    from tcpmapkit.site import Site

__all__ = ["MapTestResults", "run_map_tests"]


@attrs.define
class MapTestResults:
    """How many tests gave the right answer, how many were left out (offline), and the others.

    A lookup that `failed` says nothing about the configuration, so it is a warning; a `wrong`
    answer is an error.
    """

    right: int = 0
    left_out: int = 0
    wrong: list[ConfigError] = attrs.Factory(list)
    failed: list[ConfigError] = attrs.Factory(list)


async def run_map_tests(site: Site) -> MapTestResults:
    """Run every test of a started site."""
    results = MapTestResults()
    for config in site.config.maps.values():
        tested = site.maps.maps[config.name]
        for test in config.tests:
            outcome = await tested.lookup(tested.query(test.key))
            if isinstance(outcome, Found | NotFound):
                got = outcome.value if isinstance(outcome, Found) else None
                if got == test.expect:
                    results.right += 1
                else:
                    message = f"{test.key!r} gives {_shown(got)}, not {_shown(test.expect)}"
                    results.wrong.append(ConfigError(message, path=(*test.path, "expect")))
            elif outcome.reason == OFFLINE.reason:  # from the cache it has a TTL
                results.left_out += 1
            else:
                message = f"{test.key!r} could not be looked up: {outcome.reason}"
                results.failed.append(ConfigError(message, path=(*test.path, "key")))
    return results


def _shown(value: str | None) -> str:
    return '"not found"' if value is None else repr(value)
