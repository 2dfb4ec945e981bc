"""The mailbox: order of answers and events, resets that messages ask for, bounded turns."""

import logging
from collections import deque
from collections.abc import Callable

import pytest

from emuiavf.iavf import regs
from emuiavf.iavf.adminq import AdminQueue
from emuiavf.iavf.budget import Budget
from emuiavf.iavf.channel import TURN, Channel
from emuiavf.iavf.guestlog import LINES, WINDOW_S, GuestLog
from emuiavf.iavf.reset import Cause, ResetMachine, ResetState
from emuiavf.pci.regs import RegisterFile
from emuiavf.virtchnl.ops import Op, Status
from emuiavf.virtchnl.session import Reply, ResetRequest
from tests.fakes.vf_driver import FREEBSD, IPXE, CallbackBar, GuestMemory, Habit, VfDriver


class FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeSession:
    """Answers each opcode with what stands in `answers`, else with a plain success."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.answers: dict[int, list[Reply | ResetRequest]] = {}
        self.active = True

    def handle(self, opcode: int, body: bytes) -> list[Reply | ResetRequest]:
        self.seen.append(opcode)
        return self.answers.get(opcode, [Reply(opcode)])

    def reset_impending(self) -> list[Reply]:
        return [Reply(Op.EVENT, body=bytes(16))] if self.active else []


class Rig:
    def __init__(self, habit: Habit) -> None:
        self.memory = GuestMemory((0x10_0000, 0x30_0000))
        self.file = RegisterFile(regs.BAR0_SIZE, regs.REGISTERS.values())
        self.adminq = AdminQueue(self.memory, self.file)
        self.adminq.bus_master = True
        self.session = FakeSession()
        self.timers: deque[FakeTimer] = deque()
        self.done: list[Cause] = []
        self.marked: list[bool] = []  # per announced reset: was nothing posted yet?
        self.resets = ResetMachine(self, self._call_later)
        log = GuestLog(logging.getLogger("test"), "emu_iavf7")
        self.channel = Channel(self.adminq, self.session, self.resets, self._call_later, log)
        self.driver = VfDriver(self.memory, CallbackBar(self.file.read, self._write), habit)
        self.driver.open()

    def _call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        self.timers.append(FakeTimer(callback))
        return self.timers[-1]

    def call_later_in(self, waits: list[float]) -> Callable[[float, Callable[[], None]], FakeTimer]:
        """A `call_later` that also notes for how long."""

        def call_later(seconds: float, callback: Callable[[], None]) -> FakeTimer:
            waits.append(seconds)
            return self._call_later(seconds, callback)

        return call_later

    def _write(self, offset: int, data: bytes) -> None:
        self.file.write(offset, data)
        if offset == regs.ATQT1.offset:
            self.channel.run()
        elif offset == regs.ARQT1.offset:
            self.channel.deliver()

    def show_in_progress(self) -> None:
        self.marked.append(self.adminq.is_all_read)

    def stop_vf(self, cause: Cause) -> None:
        self.done.append(cause)

    def clear_registers(self) -> None:
        self.adminq.reset()

    def activate(self) -> None:
        pass


@pytest.fixture
def rig() -> Rig:
    return Rig(FREEBSD)


@pytest.mark.trap(1, 37)
def test_answer_comes_before_the_events_that_follow_from_it(rig: Rig) -> None:
    """Trap 1; one answer per command, with its opcode."""
    rig.session.answers[8] = [Reply(8), Reply(Op.EVENT, body=bytes(16))]
    rig.driver.send(8)
    assert [r.opcode for r in rig.driver.receive_all()] == [8, 17]


@pytest.mark.trap(37)
def test_refusal_travels_in_the_answer_alone(rig: Rig) -> None:
    """AQ retval 0 even for refused requests."""
    rig.session.answers[6] = [Reply(6, Status.ERR_PARAM, fault="vsi_id=9")]
    index = rig.driver.send(6)
    assert rig.driver.completed(index).retval == 0
    assert [(r.opcode, r.status) for r in rig.driver.receive_all()] == [(6, -5)]


def test_reset_vf_completes_its_descriptor_and_gets_no_answer(rig: Rig) -> None:
    """iPXE wants DD within 100 ms, VPP within 250 ms."""
    rig.session.answers[2] = [ResetRequest(Op.RESET_VF)]
    index = rig.driver.send(2)
    assert rig.driver.completed(index).flags & 3 == 3
    assert rig.done == [Cause.RESET_VF]
    assert rig.file.get(regs.ARQLEN1) == 0


def test_request_queues_resets_when_its_notice_was_read(rig: Rig) -> None:
    rig.session.answers[29] = [ResetRequest(Op.REQUEST_QUEUES, 1), Reply(Op.EVENT, body=bytes(16))]
    rig.driver.send(29)
    assert rig.marked == [True]
    assert rig.done == []
    assert rig.driver.receive() is not None
    assert rig.done == [Cause.REQUEST_QUEUES]


def test_earlier_slot_given_back_is_not_the_notice_being_read(rig: Rig) -> None:
    rig.session.answers[29] = [ResetRequest(Op.REQUEST_QUEUES, 1), Reply(Op.EVENT, body=bytes(16))]
    rig.driver.queue(1)
    rig.driver.queue(29)
    rig.driver.ring()
    rig.driver.receive()
    assert rig.done == []
    rig.driver.receive()
    assert rig.done == [Cause.REQUEST_QUEUES]


def test_request_queues_resets_without_the_driver_when_its_time_is_up(rig: Rig) -> None:
    rig.session.answers[29] = [ResetRequest(Op.REQUEST_QUEUES, 1), Reply(Op.EVENT, body=bytes(16))]
    rig.driver.send(29)
    callback = rig.timers[-1].callback
    assert callback is not None
    callback()
    assert rig.done == [Cause.REQUEST_QUEUES]


def test_reset_by_host_gives_notice_to_a_driver_that_is_there(rig: Rig) -> None:
    rig.channel.reset_by_host()
    assert rig.marked == [True]
    assert rig.resets.state is ResetState.IMPENDING
    assert rig.driver.receive() is not None
    assert rig.done == [Cause.HOST]


@pytest.mark.trap(3)
def test_reset_by_host_is_silent_before_get_vf_resources(rig: Rig) -> None:
    rig.session.active = False
    rig.channel.reset_by_host()
    assert rig.done == [Cause.HOST]


def test_full_ring_of_commands_is_taken_in_turns(rig: Rig) -> None:
    for _ in range(2 * TURN + 5):
        rig.driver.queue(1)
    rig.driver.ring()
    assert len(rig.session.seen) == TURN
    for wanted in (2 * TURN, 2 * TURN + 5):
        callback = rig.timers.pop().callback
        assert callback is not None
        callback()
        assert len(rig.session.seen) == wanted
    assert not rig.timers


def test_commands_beyond_the_budget_are_taken_later(rig: Rig) -> None:
    now = 0.0
    budget = Budget(100.0, 8, lambda: now)
    log = GuestLog(logging.getLogger("test"), "emu_iavf7")
    waits: list[float] = []
    call_later = rig.call_later_in(waits)
    rig.channel = Channel(rig.adminq, rig.session, rig.resets, call_later, log, budget)
    for _ in range(12):
        rig.driver.queue(1)
    rig.driver.ring()
    assert len(rig.session.seen) == 8
    for _ in range(50):
        rig.driver.ring()
    assert len(rig.session.seen) == 8
    assert len(rig.timers) == 1
    for served in (9, 10, 11, 12):
        now += waits[-1]
        callback = rig.timers.pop().callback
        assert callback is not None
        callback()
        assert len(rig.session.seen) == served
    assert waits == pytest.approx([0.01] * 4)
    assert not rig.timers


def test_nothing_is_taken_while_a_reset_is_in_progress(rig: Rig) -> None:
    rig.resets.perform(Cause.RESET_VF, 1.0)
    assert rig.resets.state is ResetState.HELD
    rig.driver.open()
    rig.driver.send(1)
    assert not rig.session.seen
    rig.resets.close()


def test_unreadable_ring_asks_for_no_turn(rig: Rig) -> None:
    rig.driver.queue(1)
    rig.memory.maps.clear()
    rig.driver.ring()
    assert not rig.timers


def test_ipxe_gets_more_replies_than_it_has_slots() -> None:
    rig = Rig(IPXE)
    rig.session.answers[8] = [Reply(8), *[Reply(Op.EVENT, body=bytes(16))] * 4]
    rig.driver.send(8)
    assert len(rig.driver.receive_all()) == 5


def test_log_lines_of_a_guest_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = GuestLog(logging.getLogger("test"), "emu_iavf7", lambda: now[0])
    for _ in range(100):
        log.warning("nonsense")
    assert len(caplog.records) == LINES
    now[0] = WINDOW_S
    log.warning("more")
    assert [r.getMessage() for r in caplog.records[LINES:]] == [
        "emu_iavf7: 90 more lines like these left out",
        "emu_iavf7: more",
    ]
