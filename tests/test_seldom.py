"""Lines that repeat: once a minute for each subject, with a count of those left out."""

from __future__ import annotations

import logging

import pytest

from tcpmapkit.seldom import Seldom


@pytest.mark.parametrize("start", [0.0, 1000.1, 1e9 / 3])
def test_a_line_about_a_subject_is_written_once_a_minute_with_a_count_of_the_rest(
    start: float, caplog: pytest.LogCaptureFixture
) -> None:
    seldom = Seldom()
    for seconds, subject in ((0, "a"), (1, "a"), (2, "b"), (59, "a"), (61, "a"), (62, "a"), (125, "a")):
        seldom.log(logging.getLogger("test"), logging.WARNING, subject, start + seconds, "%s fails", subject)
    assert caplog.messages == [
        "a fails",
        "b fails",
        "a fails (and 2 more since the last such line)",
        "a fails (and 1 more since the last such line)",
    ]


def test_subjects_without_end_take_no_memory_without_end(caplog: pytest.LogCaptureFixture) -> None:
    seldom = Seldom()
    for number in range(2500):
        seldom.log(logging.getLogger("test"), logging.WARNING, str(number), 0.0, "%d", number)
    assert len(caplog.messages) == 2500
    assert len(seldom._subjects) <= 1000
