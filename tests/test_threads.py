"""The few threads of a blocking step."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tcpmapkit.threads import SmallPool, TooBusy


async def test_a_thread_is_reused_while_it_is_free() -> None:
    pool = SmallPool("pool")
    names = [await pool.run(lambda _: threading.current_thread().name, None) for _ in range(5)]
    assert set(names) == {"pool-1"}
    pool.close()


async def test_as_many_threads_are_started_as_there_are_calls_up_to_the_size() -> None:
    pool = SmallPool("pool", size=3)
    all_here = threading.Barrier(3, timeout=10)
    calls = [pool.run(lambda _: all_here.wait() >= 0, None) for _ in range(3)]
    assert await asyncio.gather(*calls) == [True] * 3
    pool.close()


async def test_a_pool_that_is_full_refuses_at_once_and_takes_calls_again_when_one_is_done() -> None:
    pool, release = SmallPool("pool", size=1), threading.Event()
    first = asyncio.ensure_future(pool.run(lambda _: release.wait(10), None))
    await asyncio.sleep(0)
    with pytest.raises(TooBusy):
        await pool.run(str, 1)
    release.set()
    assert await first
    assert await pool.run(str, 1) == "1"
    pool.close()


async def test_a_call_that_nobody_waits_for_any_more_holds_its_thread_until_it_returns() -> None:
    pool, release = SmallPool("pool", size=1), threading.Event()
    first = asyncio.ensure_future(pool.run(lambda _: release.wait(10), None))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    with pytest.raises(TooBusy):
        await pool.run(str, 1)
    release.set()
    for _ in range(10_000):
        try:
            assert await pool.run(str, 1) == "1"
        except TooBusy:
            await asyncio.sleep(0)
        else:
            break
    else:
        pytest.fail("the thread was never free again")
    pool.close()


@pytest.mark.parametrize(
    ("error", "arrives_as"),
    [
        (ValueError("x"), ValueError),
        (StopIteration("x"), RuntimeError),
        (SystemExit(3), RuntimeError),
        (KeyboardInterrupt(), RuntimeError),
    ],
)
async def test_what_a_call_raises_arrives_and_never_ends_the_thread(
    error: BaseException, arrives_as: type[Exception]
) -> None:
    def raises(_: Any) -> None:
        raise error

    pool = SmallPool("pool", size=1)
    with pytest.raises(arrives_as):
        await pool.run(raises, None)
    assert await pool.run(str, 1) == "1"
    pool.close()


async def test_a_system_without_a_thread_to_give_fails_the_call_and_no_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = SmallPool("pool", size=1)

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError):
            await pool.run(str, 1)
    assert await pool.run(str, 1) == "1"
    pool.close()


async def test_threads_do_not_hold_up_the_end_of_the_process() -> None:
    pool = SmallPool("pool")
    assert await pool.run(lambda _: threading.current_thread().daemon, None) is True
    pool.close()


async def test_threads_end_when_the_pool_is_closed() -> None:
    pool = SmallPool("ending")
    thread = await pool.run(lambda _: threading.current_thread(), None)
    pool.close()
    thread.join(10)
    assert not thread.is_alive()
