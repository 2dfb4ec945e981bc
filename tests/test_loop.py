"""The control loop: readiness, timers and the wake-up from elsewhere."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emuiavf.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


def fill(sock: socket.socket) -> None:
    """Write until there is no more room."""
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))


def test_reader_is_called_while_there_is_something_to_read(loop: Loop, pair: Pair) -> None:
    calls: list[str] = []
    loop.add_reader(pair[0].fileno(), lambda: calls.append("read"))
    loop.run_once(0)
    pair[1].send(b"x")
    loop.run_once(1)
    loop.run_once(1)
    assert calls == ["read", "read"]


def test_reader_learns_that_the_peer_has_gone(loop: Loop, pair: Pair) -> None:
    calls: list[bytes] = []
    loop.add_reader(pair[0].fileno(), lambda: calls.append(pair[0].recv(1)))
    pair[1].close()
    loop.run_once(1)
    assert calls == [b""]


def test_writer_is_called_when_there_is_room(loop: Loop, pair: Pair) -> None:
    calls: list[str] = []
    loop.add_writer(pair[0].fileno(), lambda: calls.append("write"))
    loop.run_once(1)
    assert calls == ["write"]


def test_writer_alone_learns_that_the_peer_has_gone(loop: Loop, pair: Pair) -> None:
    pair[0].setblocking(False)
    fill(pair[0])
    calls: list[str] = []
    loop.add_writer(pair[0].fileno(), lambda: calls.append("gone"))
    loop.run_once(0)
    assert calls == []
    pair[1].close()
    loop.run_once(1)
    assert calls == ["gone"]


def test_reader_and_writer_come_and_go_independently(loop: Loop, pair: Pair) -> None:
    calls: list[str] = []
    fd = pair[0].fileno()
    pair[1].send(b"x")
    loop.add_reader(fd, lambda: calls.append("read"))
    loop.add_writer(fd, lambda: calls.append("write"))
    loop.run_once(1)
    loop.remove_reader(fd)
    loop.run_once(1)
    loop.add_reader(fd, lambda: calls.append("again"))
    loop.remove_writer(fd)
    loop.run_once(1)
    assert calls == ["read", "write", "write", "again"]


def test_callback_removed_by_an_earlier_one_is_not_called(loop: Loop, pair: Pair) -> None:
    calls: list[str] = []

    def take(name: str, other: socket.socket) -> None:
        calls.append(name)
        loop.remove(other.fileno())

    loop.add_reader(pair[0].fileno(), lambda: take("first", pair[1]))
    loop.add_reader(pair[1].fileno(), lambda: take("second", pair[0]))
    pair[0].send(b"x")
    pair[1].send(b"x")
    loop.run_once(1)
    assert len(calls) == 1


def test_remove_twice_is_harmless_and_the_number_may_be_used_again(loop: Loop, pair: Pair) -> None:
    fd = pair[0].fileno()
    for _ in range(2):
        loop.add_reader(fd, lambda: None)
        loop.remove(fd)
        loop.remove(fd)
        loop.remove_reader(fd)
        loop.remove_writer(fd)


def test_timers_fire_in_order_and_once(loop: Loop) -> None:
    calls: list[str] = []
    loop.call_later(0.004, lambda: calls.append("late"))
    loop.call_later(0.001, lambda: calls.append("early"))
    start = loop.now()
    while len(calls) < 2:
        loop.run_once(1)
    loop.run_once(0)
    assert calls == ["early", "late"]
    assert loop.now() - start >= 0.004


def test_timer_bounds_a_wait_without_end(loop: Loop) -> None:
    calls: list[str] = []
    loop.call_later(0.001, lambda: calls.append("due"))
    loop.run_once(None)
    assert calls == ["due"]


def test_cancelled_timer_does_not_fire(loop: Loop) -> None:
    calls: list[str] = []
    timer = loop.call_later(0, lambda: calls.append("no"))
    timer.cancel()
    timer.cancel()
    loop.call_later(0, lambda: calls.append("yes"))
    while not calls:
        loop.run_once(1)
    assert calls == ["yes"]


def test_timer_that_fired_may_be_cancelled(loop: Loop) -> None:
    timer = loop.call_later(0, loop.stop)
    loop.run()
    timer.cancel()


def test_many_cancelled_timers_leave_the_loop(loop: Loop) -> None:
    calls: list[str] = []
    loop.call_later(0, lambda: calls.append("kept"))
    for _ in range(1000):
        loop.call_later(3600, lambda: None).cancel()
    assert len(loop._timers) < 200
    loop.run_once(None)
    assert calls == ["kept"]


def test_timer_set_by_a_timer_waits_for_the_next_turn(loop: Loop) -> None:
    calls: list[int] = []

    def again() -> None:
        calls.append(1)
        loop.call_later(0, again)

    again()
    loop.run_once(1)
    assert len(calls) == 2


def test_call_from_another_thread_wakes_the_loop(loop: Loop) -> None:
    threads: list[int] = []

    def wake() -> None:
        threads.append(threading.get_ident())
        loop.stop()

    other = threading.Thread(target=loop.call_soon_threadsafe, args=(wake,))
    other.start()
    loop.run()
    other.join()
    assert threads == [threading.get_ident()]


def test_call_soon_that_calls_soon_does_not_starve_the_rest(loop: Loop, pair: Pair) -> None:
    calls: list[str] = []

    def again() -> None:
        calls.append("soon")
        loop.call_soon_threadsafe(again)

    loop.add_writer(pair[0].fileno(), lambda: calls.append("write"))
    again()
    loop.run_once(1)
    loop.run_once(1)
    assert calls.count("write") == 2
    assert calls.count("soon") == 3


def test_stop_before_run_ends_it_at_once_and_only_once(loop: Loop) -> None:
    loop.stop()
    loop.run()
    loop.call_later(0.001, loop.stop)
    loop.run()


def test_stop_from_a_signal_handler_wakes_the_loop(loop: Loop) -> None:
    previous = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
    try:
        loop.call_later(0, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_stop_from_the_handler_of_a_signal_in_another_thread_wakes_the_loop(loop: Loop) -> None:
    main = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
    late: list[bool] = []

    def strike() -> None:
        while main.read_text().rpartition(")")[2].split()[0] != "S":
            pass
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    def give_up() -> None:
        late.append(True)
        loop.stop()

    previous = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
    other = threading.Thread(target=strike)
    timer = loop.call_later(10, give_up)
    loop.call_later(0, other.start)
    try:
        loop.run()
    finally:
        other.join()
        timer.cancel()
        signal.signal(signal.SIGUSR1, previous)
    assert not late


def test_run_leaves_the_wake_up_of_signals_as_it_was(loop: Loop, pair: Pair) -> None:
    pair[0].setblocking(False)
    fds = set(os.listdir("/proc/self/fd"))
    signal.set_wakeup_fd(pair[0].fileno())
    try:
        loop.call_later(0, loop.stop)
        loop.run()
    finally:
        assert signal.set_wakeup_fd(-1) == pair[0].fileno()
    assert set(os.listdir("/proc/self/fd")) == fds


def test_close_releases_its_descriptors_and_may_be_repeated() -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = Loop()
    made.close()
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
