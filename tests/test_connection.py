"""A connection: in order, one reply each, whatever the answers cost; back-pressure; the end."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmapkit.config import Endpoint, ListenerConfig
from tcpmapkit.connection import MAX_HELD, MAX_PER_TURN, Connection
from tcpmapkit.listener_service import new_service
from tcpmapkit.protocols.tcp_table import REPLY_TOO_LONG, decode
from tcpmapkit.query import Found, NotFound, PermFail, TempFail
from tcpmapkit.testing import FakeClock
from tests.chains import a_map, inline
from tests.serving import HeldMap, Replies, Transport, make_service


class Line:
    """A connection with both its ends in memory."""

    def __init__(self, map: HeldMap | None = None, replies: Replies | None = None) -> None:
        self.clock = FakeClock()
        self.map = map or HeldMap(
            k=Found("v"), f=TempFail("down"), p=PermFail("wrong"), long=Found("x" * 5000)
        )
        self.service, self.replies, self.open = make_service(self.map, self.clock)
        self.transport = Transport()
        self.connection = self.transport.connection = Connection(self.service)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    def send(self, data: bytes) -> bytes:
        """What has been written once `data` has arrived."""
        self.connection.data_received(data)
        return self.transport.bytes


async def turns(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_each_outcome_is_replied_to_and_counted() -> None:
    line = Line()
    written = line.send(b"get k\nget no\nget f\nget p\nget\nget long\n")
    replies = written.splitlines(keepends=True)
    assert [type(decode(reply)) for reply in replies] == [
        Found,
        NotFound,
        TempFail,
        TempFail,
        TempFail,
        TempFail,
    ]
    assert replies[-1] == REPLY_TOO_LONG
    counters = line.service.counters
    assert (counters.found, counters.not_found, counters.temporary, counters.permanent) == (2, 1, 1, 1)
    assert (counters.refused, counters.too_long, counters.ready) == (1, 1, 0)
    assert counters.requests == 6


async def test_all_that_is_answered_at_once_is_one_write() -> None:
    line = Line()
    line.send(b"get k\n" * 100)
    assert line.transport.written == [b"200 v\n" * 100]


async def test_replies_come_in_the_order_of_the_requests_while_the_first_is_slow() -> None:
    line = Line()
    assert line.send(b"get slow\nget k\nget no\nget\n") == b""
    assert line.send(b"get k\n") == b""
    assert line.map.asked == ["slow"]
    line.map.answer("slow")
    await turns()
    assert [reply[:3] for reply in line.transport.bytes.splitlines()] == [
        b"200",
        b"200",
        b"500",
        b"400",
        b"200",
    ]
    assert line.transport.bytes.startswith(b"200 SLOW\n200 v\n500 ")


async def test_several_slow_lookups_are_asked_one_after_the_other() -> None:
    line = Line()
    line.send(b"get slow1\nget slow2\nget slow1\n")
    for key in ("slow1", "slow2", "slow1"):
        assert list(line.map.held) == [key]
        line.map.answer(key)
        await turns()
    assert line.transport.bytes == b"200 SLOW1\n200 SLOW2\n200 SLOW1\n"


async def test_a_ready_reply_does_not_overtake_a_slow_lookup() -> None:
    line = Line()
    line.replies.kept[b"get k\n"] = b"200 ready\n"
    line.send(b"get slow\n")
    line.send(b"get k\n")
    assert line.transport.bytes == b""
    line.map.answer("slow")
    await turns()
    assert line.transport.bytes == b"200 SLOW\n200 ready\n"
    assert line.send(b"get k\n").endswith(b"200 ready\n200 ready\n")
    assert line.service.counters.ready == 2


async def test_the_end_of_a_long_line_is_not_taken_for_a_ready_request() -> None:
    line = Line()
    line.replies.kept[b"get k\n"] = b"200 ready\n"
    for head in (b"get x", b"get " + b"x" * 50_000):
        line.transport.written.clear()
        line.send(head)
        assert line.send(b"get k\n")[:4] in (b"400 ", b"500 ")
        assert len(line.transport.bytes.splitlines()) == 1


async def test_an_answer_that_may_be_kept_is_given_to_the_ready_replies() -> None:
    line = Line()
    line.map.expires = 2000.0
    line.send(b"get k\nget no\nget f\nget p\nget long\nget\n")
    line.send(b"get slow\n")
    line.map.answer("slow")
    assert set(line.replies.kept) == {b"get k\n", b"get no\n", b"get slow\n"}
    asked = len(line.map.asked)
    line.send(b"get k\nget k\nget slow\n")
    assert len(line.map.asked) == asked


async def test_a_lookup_that_raises_is_answered_and_the_connection_lives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = Line()
    assert line.send(b"get bug\nget k\n" * 3) == b"400 internal%20error\n200 v\n" * 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.records[0].exc_info
    assert line.service.counters.errors == 3
    line.clock.now += 61
    line.send(b"get bug\n")
    assert "and 2 more since" in caplog.records[-1].getMessage()


async def test_an_answer_that_is_no_outcome_is_answered_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = Line(HeldMap(rubbish="value"))  # type: ignore[arg-type]
    assert line.send(b"get rubbish\nget slow\n") == b"400 internal%20error\n"
    line.map.answer("slow", b"rubbish")  # type: ignore[arg-type]
    assert line.transport.bytes == b"400 internal%20error\n" * 2
    assert not line.transport.closing
    assert len(caplog.records) == 1


async def test_keys_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "tcpmapkit"):
        line = Line(HeldMap(secret=Found("x" * 5000)))
        line.send(b"get secret\nget secret secret\nsecret\n" + b"secret" * 200_000)
        line.connection.connection_lost(None)
    assert caplog.records
    assert "secret" not in caplog.text


async def test_input_without_an_end_is_one_line_of_log_and_a_close(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tcpmapkit"):
        line = Line()
        line.send(b"get k\n" + b"x" * (1 << 20))
    assert line.transport.bytes == b"200 v\n"
    assert line.transport.closing
    [record] = caplog.records
    assert (record.levelno, "192.0.2.1" in record.getMessage()) == (logging.INFO, True)


async def test_a_hang_up_in_the_midst_of_a_lookup_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tcpmapkit"):
        line = Line()
        line.send(b"get slow\nget k\n")
        line.connection.connection_lost(ConnectionResetError())
        line.map.answer("slow")
        await turns()
    assert (line.transport.written, line.open, caplog.records) == ([], [], [])


async def test_a_hang_up_before_its_turn_comes_is_quiet() -> None:
    line = Line()
    line.send(b"get k\n" * (MAX_PER_TURN + 1))
    line.connection.connection_lost(None)
    written = list(line.transport.written)
    await turns()
    assert line.transport.written == written


async def test_a_second_answer_to_the_same_lookup_is_not_written() -> None:
    line = Line()
    line.send(b"get slow\n")
    [answered] = line.map.held["slow"]
    line.map.answer("slow")
    line.send(b"get slow2\n")
    line.map.held["slow"] = [answered]
    line.map.answer("slow", Found("of another"))
    assert line.transport.bytes == b"200 SLOW\n"
    line.map.answer("slow2")
    assert line.transport.bytes == b"200 SLOW\n200 SLOW2\n"


async def test_what_was_asked_before_the_end_of_input_is_answered_before_the_close() -> None:
    line = Line()
    line.send(b"get slow\nget k\nget part")
    assert line.connection.eof_received() is True
    assert not line.transport.closing
    line.map.answer("slow")
    await turns()
    assert line.transport.bytes == b"200 SLOW\n200 v\n"
    assert line.transport.closing


@pytest.mark.parametrize("end", ["eof_received", "finish"])
async def test_a_lookup_that_was_the_last_is_followed_by_the_close(end: str) -> None:
    line = Line()
    line.send(b"get slow\n")
    getattr(line.connection, end)()
    line.map.answer("slow")
    await turns()
    assert line.transport.bytes == b"200 SLOW\n"
    assert line.transport.closing


async def test_the_end_of_input_with_nothing_asked_closes_at_once() -> None:
    line = Line()
    line.send(b"get k\nget part")
    assert line.connection.eof_received() is False


async def test_one_connection_leaves_the_loop_to_others_after_so_many_requests() -> None:
    line = Line()
    line.send(b"get k\n" * (3 * MAX_PER_TURN + 10))
    assert len(line.map.asked) == MAX_PER_TURN
    line.send(b"get no\n")
    assert len(line.map.asked) == MAX_PER_TURN
    await turns()
    assert line.transport.bytes == b"200 v\n" * (3 * MAX_PER_TURN + 10) + b"500 not%20found\n"


async def test_reading_pauses_while_much_is_held_back_and_goes_on_after() -> None:
    line = Line()
    line.send(b"get slow\n")
    line.send(b"get k\n" * (MAX_HELD // 6))
    assert line.transport.reading
    line.send(b"get k\n" * 100)
    assert not line.transport.reading
    line.map.answer("slow")
    await turns(2 * MAX_HELD // 6 // MAX_PER_TURN)
    assert line.transport.reading
    assert line.transport.bytes == b"200 SLOW\n" + b"200 v\n" * (MAX_HELD // 6 + 100)


async def test_a_line_that_is_too_long_behind_a_slow_lookup_is_bounded_too() -> None:
    line = Line()
    line.send(b"get slow\n")
    chunks = 0
    while line.transport.reading:
        line.send(b"x" * 1000)
        chunks += 1
        assert chunks < 100
    line.map.answer("slow")
    await turns()
    assert line.transport.reading
    line.send(b"\nget k\n")
    assert line.transport.bytes == b"200 SLOW\n500 key%20too%20long\n200 v\n"


async def test_a_peer_that_reads_nothing_is_neither_answered_nor_read() -> None:
    line = Line()
    line.transport.takes = False
    line.send(b"get k\n")
    assert not line.transport.reading
    line.send(b"get k\nget slow\nget k\n")  # was on its way already
    assert line.transport.bytes == b"200 v\n"
    assert line.map.asked == ["k"]
    line.transport.takes = True
    line.connection.resume_writing()
    assert line.transport.bytes == b"200 v\n200 v\n"
    assert line.transport.reading
    line.map.answer("slow")
    await turns()
    assert line.transport.bytes == b"200 v\n200 v\n200 SLOW\n200 v\n"


async def test_replies_that_nobody_reads_do_not_gather() -> None:
    line = Line(HeldMap(k=Found("v" * 4000)))
    line.transport.takes = False
    line.send(b"get k\n" * 1000)
    await turns()
    assert len(line.transport.bytes) < MAX_HELD + 4096
    for _ in range(100):
        line.connection.resume_writing()
        await turns(2)
    assert len(line.transport.bytes) == 4005 * 1000


async def test_a_slow_answer_to_a_peer_that_reads_nothing_waits_no_less() -> None:
    line = Line()
    line.send(b"get slow\nget k\n")
    line.transport.takes = False
    line.map.answer("slow")
    await turns()
    assert line.transport.bytes == b"200 SLOW\n"
    line.connection.resume_writing()
    await turns()
    assert line.transport.bytes == b"200 SLOW\n200 v\n"


async def test_the_end_while_the_peer_reads_nothing_waits_for_it() -> None:
    line = Line()
    line.transport.takes = False
    line.send(b"get k\nget no\n")
    line.send(b"get k\n")
    line.connection.finish()
    assert not line.transport.closing
    line.transport.takes = True
    line.connection.resume_writing()
    assert line.transport.bytes == b"200 v\n500 not%20found\n200 v\n"
    assert line.transport.closing


async def test_finishing_answers_what_has_been_received() -> None:
    line = Line()
    line.send(b"get slow\nget k\nget part")
    line.connection.finish()
    assert (line.transport.reading, line.transport.closing) == (False, False)
    line.map.answer("slow")
    await turns()
    assert line.transport.bytes == b"200 SLOW\n200 v\n"
    assert (line.transport.reading, line.transport.closing) == (False, True)


async def test_finishing_an_idle_connection_closes_it() -> None:
    line = Line()
    line.send(b"get k\nget part")
    line.connection.finish()
    line.connection.finish()
    assert line.transport.closing
    line.connection.connection_lost(None)
    for call in (
        line.connection.finish,
        line.connection.abort,
        line.connection.close_idle,
        line.connection.resume_writing,
    ):
        call()
    assert not line.transport.aborted


async def test_only_replies_count_as_activity() -> None:
    line = Line()
    made = line.connection.last_active
    line.clock.now += 5
    line.send(b"get ")
    assert line.connection.last_active == made
    line.send(b"k\n")
    assert line.connection.last_active == line.clock.now
    line.replies.kept[b"get k\n"] = b"200 ready\n"
    line.clock.now += 5
    line.send(b"get k\n")
    assert line.connection.last_active == line.clock.now


@pytest.mark.parametrize("key", ["f", "bug", "%", "x" * 20_000, "slow"])
async def test_every_kind_of_reply_counts_as_activity(key: str) -> None:
    line = Line()
    line.clock.now += 5
    line.send(b"get %s\n" % key.encode())
    if key == "slow":
        line.clock.now += 5
        line.map.answer(key)
    assert line.transport.written
    assert line.connection.last_active == line.clock.now


async def test_the_clock_is_read_once_for_a_request_twice_for_its_step_and_once_for_the_reply() -> None:
    class CountedClock(FakeClock):
        reads = 0

        def __call__(self) -> float:
            self.reads += 1
            return super().__call__()

    clock = CountedClock()
    map = a_map(inline(Found("v")), clock=clock)
    listener = ListenerConfig("tcp_table", Endpoint("inet", "127.0.0.1", 0), map.name)
    connection = Connection(new_service(listener, [map], clock, lambda _: None, lambda _: None))
    transport = Transport()
    connection.connection_made(transport)  # type: ignore[arg-type]
    clock.reads = 0
    connection.data_received(b"get k\n")
    assert transport.bytes == b"200 v\n"
    assert clock.reads == 4


PARTS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"get k\n", b"get no\n", b"get slow\n", b"get slow2\n", b"get bug\n", b"get\n", b"put a b\n"]
    ),
    st.sampled_from([b"get %zz\n", b"get " + b"x" * 31_000, b"get k\n" * 300, b"\n", b"get %FF\n"]),
)


@given(st.lists(PARTS, max_size=12).map(b"".join), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_any_bytes_however_cut_have_one_reply_a_line_in_order(data: bytes, chance: random.Random) -> None:
    async def talk(cuts: list[int], ready: bool) -> bytes:
        line = Line()
        line.map.expires = 9999.0 if ready else 0.0
        rest = data
        for cut in cuts:
            if line.transport.reading:
                line.send(rest[:cut])
                rest = rest[cut:]
            if chance.random() < 0.5:
                await turns(1)
            if chance.random() < 0.2:
                line.transport.takes = not line.transport.takes
                if line.transport.takes:
                    line.connection.resume_writing()
            if chance.random() < 0.5:
                for key in list(line.map.held):
                    line.map.answer(key)
        line.transport.takes = True
        for _ in range(len(data)):
            if not (rest or line.map.held or line.connection.in_flight):
                break
            line.connection.resume_writing()
            await turns(2)
            for key in list(line.map.held):
                line.map.answer(key)
            if line.transport.reading:
                line.send(rest)
                rest = b""
        assert line.transport.reading
        return line.transport.bytes

    cuts = [chance.choice((1, 3, 50, 40_000)) for _ in range(chance.randrange(60))]
    with asyncio.Runner() as runner:
        logging.disable(logging.ERROR)
        try:
            replies = runner.run(talk(cuts, chance.random() < 0.5))
            assert replies == runner.run(talk([], ready=False))
        finally:
            logging.disable(logging.NOTSET)
    assert replies.count(b"\n") == data.count(b"\n")
    for reply in replies.splitlines(keepends=True):
        decode(reply)


@pytest.mark.parametrize("end", [b"", b"get k", b"get k\n"], ids=["whole", "with a part", "with another"])
async def test_a_request_alone_in_its_chunk_is_answered_as_any_other(end: bytes) -> None:
    for request in (b"get k\n", b"get no\n", b"get long\n", b"get\n", b"get %\n", b"put k v\n", b"\n"):
        apart, together = Line(), Line()
        for byte in request + end:
            apart.send(bytes((byte,)))
        assert together.send(request + end) == apart.transport.bytes
        assert together.service.counters.requests == apart.service.counters.requests
