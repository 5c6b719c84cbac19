"""What one worker asks of all: put together by the parent, whoever dies meanwhile. Without processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from tcpmapkit.testing import FakeClock
from tcpmapkit.workers.asking import ANSWERED_WITHIN, Asking
from tcpmapkit.workers.channel import Channel
from tcpmapkit.workers.crew import Crew
from tcpmapkit.workers.member import Member
from tcpmapkit.workers.restarts import Restarts
from tcpmapkit.workers.turns import Turns


class Asked:
    """A parent of two workers, of which the first one asks."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.turns = Turns(self.clock)
        self.crew = Crew(self.turns, Mock())
        self.ends: list[Channel] = []
        for number in range(2):
            ours, theirs = Channel.pair()
            self.ends.append(theirs)
            self.crew.restarts[number] = Restarts(count=number)
            self.crew.members.append(Member(number, 4711 + number, ours, 0.0, ready=True))
        admission, reloading = Mock(limit=77), Mock(results={"good": 3, "bad": 2})
        Asking(self.turns, self.crew, admission, reloading)

    def ask(self, command: str) -> None:
        self.crew.on["ask"](self.crew.members[0], {"ask": {"command": command}, "id": 5})

    def answer(self, worker: int, answer: dict[str, Any]) -> None:
        self.crew.on["answer"](self.crew.members[worker], {"answer": answer, "id": 1})

    def lose(self, worker: int) -> None:
        member = self.crew.members.pop(worker)
        member.close()
        for call in self.crew.on_gone:
            call(member)

    def answers(self) -> list[dict[str, Any]] | None:
        """What the first worker is told in the end."""
        for message, _ in self.ends[0].receive():
            if "answers" in message:
                assert message["id"] == 5
                answers: list[dict[str, Any]] = message["answers"]
                return answers
        return None

    def close(self) -> None:
        for member in self.crew.members:
            member.close()
        for end in self.ends:
            end.close()
        self.turns.close()


@pytest.fixture
def asked() -> Iterator[Asked]:
    one = Asked()
    yield one
    one.close()


def lookups(number: int) -> dict[str, Any]:
    return {"snapshot": {"tcpmapkit_connections_total": [[["inet:127.0.0.1:1"], number]]}}


def total(answers: list[dict[str, Any]] | None) -> int:
    assert answers is not None
    name = "tcpmapkit_connections_total"
    return sum(value for one in answers for _, value in one["snapshot"].get(name, ()))


def test_metrics_of_a_worker_that_dies_before_the_others_have_answered_are_counted_once(asked: Asked) -> None:
    asked.ask("metrics")
    asked.answer(1, lookups(10))
    asked.lose(1)
    asked.answer(0, lookups(1))
    assert total(asked.answers()) == 11


def test_metrics_of_a_worker_that_died_are_there_as_it_told_them_last(asked: Asked) -> None:
    asked.ask("metrics")
    asked.answer(1, lookups(10))
    asked.answer(0, lookups(1))
    assert total(asked.answers()) == 11
    asked.lose(1)
    asked.crew.on["ask"](asked.crew.members[0], {"ask": {"command": "metrics"}, "id": 5})
    asked.crew.on["answer"](asked.crew.members[0], {"answer": lookups(2), "id": 2})
    assert total(asked.answers()) == 12


def test_the_status_of_a_worker_that_has_died_since_is_told(asked: Asked) -> None:
    asked.ask("status")
    asked.answer(1, {"ready": True})
    asked.lose(1)
    asked.answer(0, {"ready": True})
    answers = asked.answers()
    assert answers is not None
    assert [one["process"]["number"] for one in answers] == [0, 1]


def test_status_has_of_the_parent_what_no_worker_knows(asked: Asked) -> None:
    asked.ask("status")
    for number in range(2):
        worker = {"worker": number}
        of_the_worker = {"started_at": 9e9, "reloads": {"good": 0, "bad": 0}, "max_connections": 10_000}
        asked.answer(number, {**of_the_worker, "workers": [worker]})
    answers = asked.answers()
    assert answers is not None
    for number, answer in enumerate(answers):
        assert answer["pid"] == os.getpid()
        assert answer["reloads"] == {"good": 3, "bad": 2}
        assert answer["max_connections"] == 77
        assert 0 < answer["started_at"] < 9e9
        assert answer["workers"] == [{"worker": number, "restarts": number}]


def test_who_does_not_answer_in_time_is_named(asked: Asked) -> None:
    asked.ask("ready")
    asked.answer(0, {"ready": True})
    assert asked.answers() is None
    asked.clock.advance(ANSWERED_WITHIN)
    asked.turns.turn()
    answers = asked.answers()
    assert answers is not None
    assert answers[0]["missing"] == [{"number": 1, "pid": 4712, "restarts": 1}]
