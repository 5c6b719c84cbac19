"""Who gets a connection, how soon the dead are replaced, what is held of a worker: without processes."""

from __future__ import annotations

import json
import random
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.testing import FakeClock
from tcpmapkit.workers.admission import Admission
from tcpmapkit.workers.channel import Channel
from tcpmapkit.workers.dealing import fewest, makes_room
from tcpmapkit.workers.in_force import worker_count
from tcpmapkit.workers.member import LATE, Member
from tcpmapkit.workers.mistakes import as_data, from_data
from tcpmapkit.workers.restarts import LONGEST_WAIT, LONGEST_WAIT_AFTER_SERVING, Restarts
from tcpmapkit.workers.turns import Turns


@pytest.mark.parametrize(
    ("connections", "last", "chosen"),
    [
        ({1: 0, 2: 0, 3: 0}, 0, 1),
        ({1: 0, 2: 0, 3: 0}, 1, 2),
        ({1: 0, 2: 0, 3: 0}, 3, 1),
        ({1: 1, 2: 0, 3: 0}, 3, 2),
        ({1: 5, 2: 4}, 1, 2),
        ({1: 5, 2: 4}, 2, 2),
        ({2: 7}, 2, 2),
        ({2: 1, 4: 1}, 9, 2),
    ],
)
def test_the_one_with_the_fewest_connections_gets_the_next_one_and_of_equals_the_next_in_turn(
    connections: dict[int, int], last: int, chosen: int
) -> None:
    assert fewest(connections, last) == chosen


def test_after_any_burst_workers_are_at_most_one_apart() -> None:
    chance = random.Random(5)
    for workers in range(1, 9):
        have = dict.fromkeys(range(1, workers + 1), 0)
        last = 0
        for _ in range(chance.randrange(200)):
            last = fewest(have, last)
            have[last] += 1
        assert max(have.values()) - min(have.values()) <= 1


def test_those_that_come_and_go_at_once_are_dealt_in_turn() -> None:
    last, dealt = 0, Counter[int]()
    for _ in range(300):
        last = fewest({1: 0, 2: 0, 3: 0}, last)
        dealt[last] += 1
    assert dealt == {1: 100, 2: 100, 3: 100}


@pytest.mark.parametrize(
    ("idle", "chosen"),
    [
        ({0: (False, 12.0), 1: (False, 11.0)}, 1),
        ({0: (False, 11.0), 1: (True, 500.0), 2: (False, 7.0)}, 1),
        ({0: (True, 12.0), 1: (True, 11.0), 2: (False, 9.0)}, 1),
        ({7: (False, 10.0)}, 7),
    ],
)
def test_the_longest_idle_makes_room_and_before_it_one_whose_client_reconnects_unasked(
    idle: dict[int, tuple[bool, float]], chosen: int
) -> None:
    assert makes_room(idle) == chosen


class ACrew:
    """Workers that take so many connections at a time; what they are told."""

    def __init__(self, *members: Member, room: int) -> None:
        self.members = self.ready = list(members)
        self.room = dict.fromkeys((member.number for member in members), room)
        self.told: list[tuple[int, dict[str, Any]]] = []
        self.on: dict[str, Any] = {}
        self.on_ready: list[Any] = []

    @property
    def connections(self) -> int:
        return sum(member.connections for member in self.members)

    @property
    def can_take(self) -> bool:
        return any(self.room.values())

    def next_in_turn(self) -> Member | None:
        return next((member for member in self.members if self.room[member.number]), None)

    def tell(self, member: Member, message: dict[str, Any], connection: Any = None) -> None:
        self.told.append((member.number, message))
        self.room[member.number] -= connection is not None


def test_what_no_worker_could_take_is_dealt_as_soon_as_one_can() -> None:
    """As after a restart, when the connections of before come all at once."""
    member, theirs = new_member()
    crew: Any = ACrew(member, room=3)
    listener: Any = Mock()
    turns = Turns(FakeClock())
    admission = Admission(turns, crew, [listener], None, 100)
    pairs = [socket.socketpair() for _ in range(10)]
    for mine, _ in pairs:
        admission.deal(listener, mine)
    assert (len(crew.told), admission.connections) == (3, 10)
    crew.room[1] = 5
    crew.on["taken"](member, {"taken": 3, "open": 3})
    assert (len(crew.told), admission.connections) == (8, 10)
    crew.room[1] = 5
    crew.on_able()
    assert (len(crew.told), admission.connections) == (10, 10)
    for _, peer in pairs:
        peer.close()
    member.close()
    theirs.close()
    turns.close()


def test_room_is_made_by_the_worker_that_has_the_longest_idle_and_else_by_the_next() -> None:
    channels = [Channel.pair() for _ in range(3)]
    members = [Member(number, 4711, ours, 0.0, ready=True) for number, (ours, _) in enumerate(channels)]
    crew: Any = ACrew(*members, room=3)
    turns = Turns(FakeClock())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener: Any = Mock(sockets=[listening])
        admission = Admission(turns, crew, [listener], None, 3)
        admission.start()
        for member in members:
            member.report({"taken": 0, "open": 1})
        with socket.create_connection(listening.getsockname()):
            turns.turn()
        assert crew.told == [(number, {"idle": True}) for number in range(3)]
        for member, idle in zip(members, (None, [False, 20.0], [False, 30.0]), strict=True):
            crew.on["idle"](member, {"idle": idle})
        assert crew.told[3:] == [(1, {"room": True})]
        crew.on["room"](members[1], {"room": False})  # it has been asked meanwhile
        assert crew.told[4:] == [(2, {"room": True})]
        crew.on["room"](members[2], {"room": True})
        admission.close()
    for ours, theirs in channels:
        ours.close()
        theirs.close()
    turns.close()


def test_a_worker_that_ran_for_long_is_replaced_at_once() -> None:
    restarts = Restarts(early=5)
    assert restarts.wait(10.0, served=True, last=False) == 0.0
    assert (restarts.early, restarts.count) == (0, 1)


@pytest.mark.parametrize(
    ("served", "last", "waits"),
    [
        (False, False, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_WAIT, LONGEST_WAIT]),
        (False, True, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_WAIT, LONGEST_WAIT]),
        (True, False, [0.1, 0.2, 0.4, 0.8, LONGEST_WAIT_AFTER_SERVING, LONGEST_WAIT_AFTER_SERVING]),
        (True, True, [0.1, 0.1, 0.1, 0.1]),
    ],
    ids=["never served", "never served, no other does", "served", "served, no other does"],
)
def test_one_that_dies_soon_is_replaced_ever_later_but_mail_does_not_wait(
    served: bool, last: bool, waits: list[float]
) -> None:
    restarts = Restarts()
    assert [restarts.wait(0.5, served=served, last=last) for _ in waits] == pytest.approx(waits)


def test_a_crash_loop_of_days_overflows_nothing() -> None:
    restarts = Restarts()
    assert {restarts.wait(0.0, served=False, last=True) for _ in range(5000)} >= {LONGEST_WAIT}


def test_auto_is_one_worker_for_each_processor_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert (worker_count("auto"), worker_count(7)) == (3, 7)


def test_a_mistake_that_a_worker_finds_is_told_as_it_is() -> None:
    one = ConfigError(
        "bad", path=("maps", "aliases", 0), file=Path("t"), line=2, column=3, hint="h", source="s"
    )
    other = ConfigError("worse")
    told = from_data(json.loads(json.dumps(as_data(ConfigErrors([one, other])))))
    assert [str(error) for error in told] == [str(one), str(other)]


# A member.


def new_member() -> tuple[Member, Channel]:
    ours, theirs = Channel.pair()
    return Member(1, 4711, ours, 0.0, ready=True), theirs


def test_a_connection_is_held_until_the_worker_says_that_it_has_it() -> None:
    member, theirs = new_member()
    listener: Any = object()
    sockets = [socket.socketpair() for _ in range(3)]
    for mine, _ in sockets:
        member.hold(listener, mine, 0.0)
    assert member.connections == 3
    member.report({"taken": 2, "open": 1})
    assert member.connections == 2
    assert [mine.fileno() for mine, _ in sockets][:2] == [-1, -1]
    assert member.give_back() == [(listener, sockets[2][0])]
    for each in sockets:
        each[0].close()
        each[1].close()
    member.close()
    theirs.close()


def test_a_worker_is_late_when_a_connection_or_pings_wait_for_it() -> None:
    member, theirs = new_member()
    mine, peer = socket.socketpair()
    assert not member.is_late(100.0)
    member.hold(object(), mine, 100.0)  # type: ignore[arg-type]
    assert not member.is_late(100.0 + LATE)
    assert member.is_late(100.1 + LATE)
    member.report({"taken": 1, "open": 1})
    assert not member.is_late(200.0)
    member.unanswered = 2
    assert member.is_late(200.0)
    member.close()
    theirs.close()
    peer.close()


# The loop.


def test_timers_run_in_the_order_of_their_time_and_not_when_cancelled() -> None:
    clock = FakeClock()
    turns = Turns(clock)
    done = []
    turns.later(2, lambda: done.append("second"))
    turns.later(1, lambda: done.append("first"))
    turns.later(0, lambda: done.append("never")).cancel()
    turns.later(10, lambda: done.append("not yet"))
    clock.advance(5)
    turns.turn()
    turns.close()
    assert done == ["first", "second"]


def test_a_bug_in_one_thing_does_not_end_the_others_unless_there_is_no_end_to_it() -> None:
    clock = FakeClock()
    turns = Turns(clock)
    done = []

    def bug() -> None:
        turns.later(0, bug)
        raise RuntimeError

    turns.later(0, bug)
    turns.later(0, lambda: done.append("the other"))
    with pytest.raises(RuntimeError):
        turns.run()
    turns.close()
    assert done == ["the other"]


def test_a_signal_whose_turn_raises_loses_none_that_came_with_it(caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns()
    came = []

    def signalled(number: int) -> None:
        came.append(number)
        if number == signal.SIGUSR1:
            raise RuntimeError("a bug")

    turns.on_signals((signal.SIGUSR1, signal.SIGUSR2), signalled)
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR2)
    turns.turn()
    turns.close()
    assert came == [signal.SIGUSR1, signal.SIGUSR2]
    assert "a bug" in caplog.text


def test_however_many_signals_come_in_one_turn_none_of_a_kind_is_lost() -> None:
    turns = Turns()
    came = Counter[int]()
    turns.on_signals((signal.SIGUSR1, signal.SIGUSR2), lambda number: came.update([number]))
    for _ in range(2000):
        signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR2)
    turns.turn()
    turns.close()
    assert came[signal.SIGUSR1] > 0
    assert came[signal.SIGUSR2] == 1


def test_what_is_unwatched_in_a_turn_is_not_called_in_it() -> None:
    turns = Turns()
    pairs = [socket.socketpair() for _ in range(2)]
    called = []

    def readable(number: int) -> None:
        called.append(number)
        turns.unwatch(pairs[1 - number][0])

    turns.watch(pairs[0][0], lambda: readable(0))
    turns.watch(pairs[1][0], lambda: readable(1))
    for _, peer in pairs:
        peer.send(b"x")
    turns.turn()
    turns.close()
    assert len(called) == 1
    for one, other in pairs:
        one.close()
        other.close()
