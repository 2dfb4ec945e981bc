"""The reset machine by itself, with a clock that the test turns."""

from collections.abc import Callable

import pytest

from emuiavf.iavf.budget import Budget
from emuiavf.iavf.reset import HOLD_S, NOTICE_S, Cause, ResetMachine, ResetState

AT_ONCE = 3


class FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None

    def fire(self) -> None:
        assert self.callback is not None
        self.callback()


class Rig:
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.timers: list[tuple[float, FakeTimer]] = []
        self.now = 0.0
        budget = Budget(10.0, AT_ONCE, lambda: self.now)
        self.machine = ResetMachine(self, self._call_later, budget)

    def _call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(callback)
        self.timers.append((seconds, timer))
        return timer

    def show_in_progress(self) -> None:
        self.steps.append("show")

    def stop_vf(self, cause: Cause) -> None:
        self.steps.append(f"stop {cause.name}")

    def clear_registers(self) -> None:
        self.steps.append("clear")

    def activate(self) -> None:
        self.steps.append("activate")


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("cause", Cause)
def test_reset_is_done_in_the_order_of_the_reference(rig: Rig, cause: Cause) -> None:
    rig.machine.perform(cause)
    assert rig.steps == [f"stop {cause.name}", "clear", "activate"]
    assert rig.machine.state is ResetState.ACTIVE


def test_announced_reset_waits_for_the_driver_to_read(rig: Rig) -> None:
    rig.machine.announce(Cause.REQUEST_QUEUES)
    assert rig.machine.state is ResetState.IMPENDING
    assert rig.steps == ["show"]
    rig.machine.notice_read()
    assert rig.timers[0][1].callback is None
    assert rig.steps == ["show", "stop REQUEST_QUEUES", "clear"]


def test_announced_reset_reads_as_in_progress_for_a_while(rig: Rig) -> None:
    rig.machine.announce(Cause.REQUEST_QUEUES)
    rig.machine.notice_read()
    assert rig.machine.state is ResetState.HELD
    seconds, timer = rig.timers[-1]
    assert seconds == HOLD_S >= 0.05
    timer.fire()
    assert rig.steps[-1] == "activate"
    assert rig.machine.state is ResetState.ACTIVE


def test_function_level_reset_ends_the_wait_of_an_announced_one(rig: Rig) -> None:
    rig.machine.announce(Cause.REQUEST_QUEUES)
    rig.machine.notice_read()
    rig.machine.perform(Cause.FLR)
    assert rig.steps[-3:] == ["stop FLR", "clear", "activate"]
    assert rig.timers[-1][1].callback is None


def test_announced_reset_comes_without_the_driver_when_its_time_is_up(rig: Rig) -> None:
    rig.machine.announce(Cause.HOST)
    seconds, timer = rig.timers[0]
    assert seconds == NOTICE_S == 0.020
    timer.fire()
    assert rig.steps == ["show", "stop HOST", "clear"]


def test_second_announcement_joins_the_first(rig: Rig) -> None:
    rig.machine.announce(Cause.REQUEST_QUEUES)
    rig.machine.announce(Cause.HOST)
    assert len(rig.timers) == 1
    rig.machine.notice_read()
    assert rig.steps == ["show", "stop REQUEST_QUEUES", "clear"]


def test_reset_meanwhile_replaces_the_announced_one(rig: Rig) -> None:
    rig.machine.announce(Cause.REQUEST_QUEUES)
    rig.machine.perform(Cause.FLR)
    assert rig.steps == ["show", "stop FLR", "clear", "activate"]
    assert rig.timers[0][1].callback is None
    rig.machine.notice_read()
    assert len(rig.steps) == 4


def test_notice_read_without_a_notice_does_nothing(rig: Rig) -> None:
    rig.machine.notice_read()
    assert rig.steps == []


def test_only_vf_resets_keep_what_the_vf_was_given() -> None:
    assert [c for c in Cause if c.is_function_level] == [Cause.FLR, Cause.CLIENT, Cause.DISCONNECT]


def spend_all(rig: Rig) -> None:
    for _ in range(AT_ONCE):
        rig.machine.perform(Cause.RESET_VF)
    rig.steps.clear()
    assert not rig.timers


def test_reset_beyond_the_budget_stops_at_once_and_ends_later(rig: Rig) -> None:
    spend_all(rig)
    rig.machine.perform(Cause.RESET_VF)
    assert rig.steps == ["stop RESET_VF", "clear"]
    assert rig.machine.state is ResetState.HELD
    seconds, timer = rig.timers[-1]
    assert 0.099 < seconds < 0.101
    rig.now += seconds
    timer.fire()
    assert rig.steps == ["stop RESET_VF", "clear", "activate"]
    assert rig.machine.state is ResetState.ACTIVE


def test_resets_of_a_device_that_is_held_stop_nothing_twice(rig: Rig) -> None:
    spend_all(rig)
    for _ in range(100):
        rig.machine.perform(Cause.RESET_VF)
        rig.machine.perform(Cause.RESET_VF)
    assert rig.steps.count("stop RESET_VF") == 1
    # This one forgets more.
    for _ in range(100):
        rig.machine.perform(Cause.FLR)
    assert rig.steps.count("stop FLR") == 1
    assert "activate" not in rig.steps
    # The earlier timers are cancelled, the last one ends it.
    assert [timer.callback is not None for _, timer in rig.timers].count(True) == 1
    rig.now += 0.11
    rig.timers[-1][1].fire()
    assert rig.steps[-1] == "activate"


def test_a_timer_that_comes_too_early_waits_for_the_rest(rig: Rig) -> None:
    spend_all(rig)
    rig.machine.perform(Cause.CLIENT)
    rig.now += 0.05
    rig.timers[-1][1].fire()
    assert rig.machine.state is ResetState.HELD
    rig.now += rig.timers[-1][0]
    rig.timers[-1][1].fire()
    assert rig.machine.state is ResetState.ACTIVE


def test_budget_is_saved_up_to_its_size(rig: Rig) -> None:
    spend_all(rig)
    rig.now += 1000.0
    spend_all(rig)
    rig.machine.perform(Cause.FLR)
    assert rig.machine.state is ResetState.HELD
