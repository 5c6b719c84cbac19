"""Tables that are held: when a table has shrunk, and what is logged."""

from __future__ import annotations

import logging

import pytest

from tcpmapkit.errors import ConfigError
from tcpmapkit.held import HeldTables, has_shrunk


@pytest.mark.parametrize(
    ("old", "new", "share", "expected"),
    [
        (100, 50, 0.5, False),
        (100, 49, 0.5, True),
        (100, 0, 0.5, True),
        (100, 100, 0.0, False),
        (100, 99, 0.0, True),
        (100, 500, 0.0, False),
        # 0.29 * 100 is a little less than 29, and 0.1 * 30 a little more than 3.
        (100, 71, 0.29, False),
        (100, 70, 0.29, True),
        (30, 27, 0.1, False),
        (30, 26, 0.1, True),
        (10_000_000, 5_000_000, 0.5, False),
        (10_000_000, 4_999_999, 0.5, True),
        (100, 0, 1.0, False),
        (100, 0, None, False),
        (20, 1, 0.0, False),
        (20, 0, 0.5, True),
        (1, 0, 0.5, True),
        (1, 0, 1.0, False),
        (1, 0, None, False),
        (21, 0, 0.5, True),
        (0, 0, 0.5, False),
    ],
)
def test_a_table_of_more_than_20_rows_may_lose_its_share_and_a_small_one_all_but_the_last_row(
    old: int, new: int, share: float | None, expected: bool
) -> None:
    assert has_shrunk(old, new, share) is expected


def test_a_table_that_is_held_is_logged_once_and_again_when_the_reason_changes_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tables = HeldTables()
    empty = ConfigError("the file is empty", path=("path",))

    def said(held: dict[tuple[str, str], ConfigError]) -> list[tuple[str, str]]:
        caplog.clear()
        tables.become(held)
        assert tables.reasons == held
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    place = ("aliases", "csv")
    with caplog.at_level(logging.INFO):
        text = "map aliases: step csv: keeps the contents that it has: "
        assert said({place: empty}) == [("ERROR", text + "path: the file is empty")]
        assert said({place: ConfigError("the file is empty", path=("path",))}) == []
        assert said({place: ConfigError("a NUL byte")}) == [("ERROR", text + "a NUL byte")]
        assert said({("routes", "cidr"): empty}) == [
            ("ERROR", "map routes: step cidr: keeps the contents that it has: path: the file is empty"),
            ("WARNING", "map aliases: step csv: is held no more"),
        ]
        assert said({}) == [("WARNING", "map routes: step cidr: is held no more")]
        assert said({}) == []
