"""Admin queues by the bytes that drivers put into memory and find there."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from emuiavf.iavf import regs
from emuiavf.iavf.adminq import MAX_BACKLOG, AdminQueue, Message
from emuiavf.iavf.regs import AqDescriptor, AqFlag
from emuiavf.pci.regs import RegisterFile
from tests.fakes.vf_driver import (
    FREEBSD,
    HABITS,
    IPXE,
    LINUX,
    VPP_AVF,
    CallbackBar,
    GuestMemory,
    Habit,
    VfDriver,
)

BASE = 0x10_0000
RAM = (BASE, 0x30_0000)


class Rig:
    """An admin queue whose owner answers each message by `reply`."""

    def __init__(self, habit: Habit = LINUX, memory: GuestMemory | None = None) -> None:
        self.memory = memory or GuestMemory(RAM)
        self.file = RegisterFile(regs.BAR0_SIZE, regs.REGISTERS.values())
        self.events = 0
        self.seen: list[Message] = []
        self.limit = 1024
        self.reply: Callable[[Message], list[Message]] = lambda message: []
        self.adminq = AdminQueue(self.memory, self.file, self._on_delivered)
        self.adminq.bus_master = True
        self.driver = VfDriver(
            self.memory, CallbackBar(self.file.read, self._write), habit, base=BASE
        )

    def _on_delivered(self) -> None:
        self.events += 1

    def _write(self, offset: int, data: bytes) -> None:
        self.file.write(offset, data)
        if offset == regs.ATQT1.offset:
            for message in self.adminq.commands(self.limit):
                self.seen.append(message)
                for answer in self.reply(message):
                    self.adminq.post(answer)
        elif offset == regs.ARQT1.offset:
            self.adminq.deliver()
        elif offset in (regs.ARQH1.offset, regs.ARQLEN1.offset):
            self.adminq.arq_set_up()

    def read(self, register: regs.Register) -> int:
        return self.file.get(register)


def echo(message: Message) -> list[Message]:
    return [Message(message.opcode, message.body, -5)]


@pytest.fixture(params=HABITS, ids=lambda habit: habit.name)
def rig(request: pytest.FixtureRequest) -> Rig:
    made = Rig(request.param)
    made.driver.open()
    return made


@pytest.mark.trap(8)
def test_set_up_in_each_drivers_order_fetches_nothing(rig: Rig) -> None:
    """Trap 8: no descriptor is fetched because a length was enabled, only on a tail write."""
    rig_reads = [iova for iova, _ in rig.memory.reads]
    assert rig_reads == []
    assert rig.seen == []


@pytest.mark.trap(7)
def test_registers_read_back_as_written(rig: Rig) -> None:
    """Trap 7; trap 5: no bit beside ENABLE and the length."""
    assert rig.read(regs.ATQBAL1) == rig.driver.atq
    assert rig.read(regs.ARQBAL1) == rig.driver.arq
    assert rig.read(regs.ATQLEN1) == 0x8000_0000 | rig.driver.habit.atq_len
    assert rig.read(regs.ARQLEN1) == 0x8000_0000 | rig.driver.habit.arq_len


def test_message_is_taken_completed_and_answered(rig: Rig) -> None:
    rig.reply = echo
    index = rig.driver.send(3, b"\x01\x02\x03\x04")

    assert rig.seen == [Message(3, b"\x01\x02\x03\x04")]
    assert rig.read(regs.ATQH1) == 1
    assert rig.driver.completed(index).flags & 7 == AqFlag.DD | AqFlag.CMP
    received = rig.driver.receive()
    assert received is not None
    assert (received.opcode, received.status, received.body) == (3, -5, b"\x01\x02\x03\x04")
    assert received.flags & 7 == AqFlag.DD | AqFlag.CMP
    assert received.retval == 0
    assert rig.driver.receive() is None


@pytest.mark.trap(9)
def test_completion_keeps_cookie_flags_and_address(rig: Rig) -> None:
    """Trap 9; trap 37: retval 0 whatever the answer is."""
    rig.reply = echo
    index = rig.driver.queue(7, b"body")
    before = rig.driver.completed(index)
    rig.driver.ring()
    after = rig.driver.completed(index)
    assert after == replace(before, flags=before.flags | AqFlag.DD | AqFlag.CMP)


@pytest.mark.trap(4, 10)
def test_reply_keeps_buf_and_address(rig: Rig) -> None:
    """Trap 10; trap 4: an event is exactly 16 bytes with BUF set."""
    before = rig.driver.posted(0)
    rig.adminq.post(Message(17, bytes(16)))
    after = rig.driver.posted(0)
    assert after.flags & AqFlag.BUF
    assert after.datalen == 16
    assert after.opcode == 0x0802
    assert after.address == before.address


def test_message_without_data_reads_no_buffer(rig: Rig) -> None:
    rig.driver.send(2)
    assert rig.seen == [Message(2)]
    assert [size for _, size in rig.memory.reads] == [32]


def test_head_wraps_with_the_ring(rig: Rig) -> None:
    rig.reply = echo
    laps = rig.driver.habit.atq_len + rig.driver.habit.arq_len + 3
    answers = []
    for number in range(laps):
        rig.driver.send(1, number.to_bytes(4, "little"))
        answers += rig.driver.receive_all()
    assert [int.from_bytes(a.body, "little") for a in answers] == list(range(laps))


def test_several_messages_before_one_doorbell_are_answered_in_order() -> None:
    """FreeBSD sends about eight back to back."""
    rig = Rig(FREEBSD)
    rig.driver.open()
    rig.reply = echo
    for opcode in (11, 10, 6, 23, 26, 24, 7, 8):
        rig.driver.queue(opcode, b"x")
    rig.driver.ring()
    assert [r.opcode for r in rig.driver.receive_all()] == [11, 10, 6, 23, 26, 24, 7, 8]


def test_commands_stop_at_the_limit_and_go_on_later() -> None:
    rig = Rig(FREEBSD)
    rig.driver.open()
    rig.limit = 3
    for opcode in range(5):
        rig.driver.queue(opcode)
    rig.driver.ring()
    assert [m.opcode for m in rig.seen] == [0, 1, 2]
    assert rig.adminq.has_commands
    assert [m.opcode for m in rig.adminq.commands(3)] == [3, 4]
    assert not rig.adminq.has_commands


def test_replies_wait_while_the_arq_is_full() -> None:
    """iPXE has three slots; OVFL would stop VPP avf for good (trap 5)."""
    rig = Rig(IPXE)
    rig.driver.open()
    for number in range(8):
        rig.adminq.post(Message(number))
    assert rig.adminq.backlog == 5
    assert [r.opcode for r in rig.driver.receive_all()] == list(range(8))
    assert rig.adminq.backlog == 0
    assert rig.read(regs.ARQLEN1) == 0x8000_0004


def test_arq_never_drained_is_bounded() -> None:
    rig = Rig(IPXE)
    rig.driver.open()
    for number in range(3 + MAX_BACKLOG + 2):
        rig.adminq.post(Message(number))
    assert rig.adminq.backlog == MAX_BACKLOG
    assert rig.adminq.faults.dropped == 2


def test_delivery_is_reported_once_for_several_messages() -> None:
    rig = Rig(IPXE)
    rig.driver.open()
    for number in range(5):
        rig.adminq.post(Message(number))
    assert rig.events == 3
    rig.driver.receive()
    assert rig.events == 4


@pytest.mark.parametrize("register", [regs.ARQH1, regs.ARQLEN1], ids=lambda r: r.name)
@pytest.mark.trap(38)
def test_waiting_replies_are_dropped_when_the_ring_is_set_up_anew(register: regs.Register) -> None:
    """Trap 38."""
    rig = Rig(IPXE)
    rig.driver.open()
    for number in range(5):
        rig.adminq.post(Message(number))
    rig.driver.bar.write32(register.offset, 0)
    assert rig.adminq.backlog == 0


def test_vpp_avf_sets_up_anew_without_disabling() -> None:
    rig = Rig(VPP_AVF)
    rig.reply = echo
    rig.driver.open()
    rig.driver.send(1, b"a")
    rig.driver.open()
    rig.driver.send(2, b"b")
    assert [m.opcode for m in rig.seen] == [1, 2]
    assert [r.opcode for r in rig.driver.receive_all()] == [2]


def test_nothing_is_kept_for_a_vf_without_arq() -> None:
    rig = Rig()
    rig.adminq.post(Message(17, bytes(16)))
    rig.driver.open()
    assert rig.adminq.backlog == 0
    assert rig.driver.receive() is None


@pytest.mark.trap(38)
def test_reset_clears_the_registers_and_what_waits() -> None:
    """Drivers detect a reset by ENABLE reading 0; trap 38."""
    rig = Rig(IPXE)
    rig.driver.open()
    for number in range(5):
        rig.adminq.post(Message(number))
    rig.adminq.reset()
    assert [rig.read(r) for r in regs.SINGLES if r.name.startswith(("ATQ", "ARQ"))] == [0] * 10
    rig.driver.open()
    assert rig.driver.receive() is None


def test_reset_inside_a_message_ends_the_commands() -> None:
    rig = Rig()
    rig.driver.open()

    def reset(message: Message) -> list[Message]:
        rig.adminq.reset()
        return []

    rig.reply = reset
    first = rig.driver.queue(2)
    second = rig.driver.queue(3)
    rig.driver.ring()
    assert [m.opcode for m in rig.seen] == [2]
    assert rig.driver.completed(first).flags & AqFlag.DD
    assert not rig.driver.completed(second).flags & AqFlag.DD


def test_queue_shutdown_is_completed_and_yields_no_message(rig: Rig) -> None:
    shutdown = replace(rig.driver.descriptor(0, b"", 0), opcode=0x0003, param0=1)
    rig.driver.put_atq(0, shutdown)
    rig.driver.next_to_use = 1
    rig.driver.ring()
    assert rig.seen == []
    assert rig.adminq.shut_down
    assert rig.driver.completed(0).flags & 7 == AqFlag.DD | AqFlag.CMP


def test_nothing_moves_without_bus_master() -> None:
    rig = Rig()
    rig.driver.open()
    rig.adminq.bus_master = False
    rig.driver.send(1)
    rig.adminq.post(Message(17, bytes(16)))
    assert rig.seen == []
    assert rig.memory.reads == []
    rig.adminq.bus_master = True
    rig.adminq.deliver()
    rig.driver.ring()
    assert [m.opcode for m in rig.seen] == [1]
    assert [r.opcode for r in rig.driver.receive_all()] == [17]


def test_all_read_is_known_by_the_slots_given_back(rig: Rig) -> None:
    rig.adminq.post(Message(17, bytes(16)))
    assert not rig.adminq.is_all_read
    rig.driver.receive()
    assert rig.adminq.is_all_read


# Hostile rings


def descriptor_with(rig: Rig, **fields: int) -> AqDescriptor:
    """Send one changed descriptor and return it as the device has left it."""
    rig.driver.put_atq(0, replace(rig.driver.descriptor(1, b"four", 0), **fields))
    rig.driver.next_to_use = 1
    rig.driver.ring()
    return rig.driver.completed(0)


@pytest.mark.parametrize("opcode", [0x0000, 0x0802, 0x0207, 0x0B02, 0xFFFF])
def test_unknown_admin_queue_command_is_refused(rig: Rig, opcode: int) -> None:
    done = descriptor_with(rig, opcode=opcode)
    assert done.flags & 7 == AqFlag.DD | AqFlag.CMP | AqFlag.ERR
    assert done.retval == 17
    assert rig.seen == []


@pytest.mark.parametrize(
    ("fields", "retval"),
    [
        ({"addr_low": 0x1000}, 20),
        ({"addr_low": BASE + RAM[1] - 3}, 20),
        ({"addr_high": 0xFFFF_FFFF, "addr_low": 0xFFFF_FFFE}, 20),
        ({"datalen": 4097}, 22),
        ({"datalen": 0xFFFF}, 22),
    ],
)
def test_bad_buffer_is_refused(rig: Rig, fields: dict[str, int], retval: int) -> None:
    done = descriptor_with(rig, **fields)
    assert done.flags & 7 == AqFlag.DD | AqFlag.CMP | AqFlag.ERR
    assert done.retval == retval
    assert rig.seen == []
    rig.driver.send(1, b"good")
    assert rig.seen == [Message(1, b"good")]


@pytest.mark.parametrize("tail", [32, 1023, 0xFFFF_FFFF])
def test_tail_outside_of_the_ring_moves_nothing(tail: int) -> None:
    rig = Rig()
    rig.driver.open()
    rig.driver.queue(1)
    rig.driver.bar.write32(regs.ATQT1.offset, tail)
    assert rig.seen == []
    assert rig.adminq.faults.bad_ring > 0
    rig.driver.ring()
    assert rig.seen == [Message(1)]


def test_head_outside_of_the_ring_moves_nothing() -> None:
    rig = Rig()
    rig.driver.open()
    rig.driver.bar.write32(regs.ATQH1.offset, 40)
    rig.driver.send(1)
    assert rig.seen == []
    assert rig.read(regs.ATQH1) == 40


def test_ring_without_length_moves_nothing() -> None:
    rig = Rig()
    rig.driver.open()
    rig.driver.bar.write32(regs.ATQLEN1.offset, 0x8000_0000)
    rig.driver.bar.write32(regs.ARQLEN1.offset, 0x8000_0000)
    rig.driver.send(1)
    rig.adminq.post(Message(1))
    assert rig.seen == []


def test_bits_above_the_length_do_not_enlarge_the_ring() -> None:
    rig = Rig()
    rig.driver.open()
    rig.driver.bar.write32(regs.ATQLEN1.offset, 0xFFFF_FC20)
    rig.driver.send(1)
    assert rig.seen == [Message(1)]


@pytest.mark.parametrize("base", [0x1000, 0xFFFF_FFFF_FFFF_FFF0, BASE + RAM[1] - 16])
def test_ring_in_bad_memory_moves_nothing_and_is_counted(base: int) -> None:
    rig = Rig()
    rig.driver.open()
    for low, high in ((regs.ATQBAL1, regs.ATQBAH1), (regs.ARQBAL1, regs.ARQBAH1)):
        rig.driver.bar.write32(low.offset, base & 0xFFFF_FFFF)
        rig.driver.bar.write32(high.offset, base >> 32)
    rig.driver.send(1)
    rig.adminq.post(Message(1))
    assert rig.seen == []
    assert rig.read(regs.ATQH1) == rig.read(regs.ARQH1) == 0
    assert rig.adminq.faults.bad_ring == 2


def test_memory_unmapped_between_messages_stops_and_comes_back() -> None:
    rig = Rig()
    rig.driver.open()
    rig.driver.send(1)
    kept = rig.memory.maps.pop(BASE)
    rig.driver.bar.write32(regs.ATQT1.offset, 2)
    assert len(rig.seen) == 1
    rig.memory.maps[BASE] = kept
    rig.driver.send(2)
    assert [m.opcode for m in rig.seen] == [1, 2]


FAULTS = {
    "ring": lambda rig: rig.driver.bar.write32(regs.ATQBAL1.offset, 0x1000),
    "reply ring": lambda rig: rig.driver.bar.write32(regs.ARQBAL1.offset, 0x1000),
    "tail": lambda rig: rig.driver.bar.write32(regs.ATQT1.offset, 999),
    "buffer": lambda rig: descriptor_with(rig, addr_low=0x1000),
    "reply buffer": lambda rig: rig.memory.write(
        rig.driver.arq, replace(rig.driver.posted(0), addr_low=0x1000).encode()
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.trap(5)
def test_no_fault_of_a_queue_shows_in_its_length(fault: str) -> None:
    rig = Rig()
    rig.driver.open()
    before = [rig.read(register) for register in (regs.ATQLEN1, regs.ARQLEN1)]
    FAULTS[fault](rig)
    rig.driver.send(1, b"body")
    rig.adminq.post(Message(1, b"reply"))
    assert [rig.read(register) for register in (regs.ATQLEN1, regs.ARQLEN1)] == before


def test_reply_larger_than_the_posted_buffer_writes_nothing_there() -> None:
    rig = Rig()
    rig.driver.open()
    posted = rig.driver.posted(0)
    rig.memory.write(rig.driver.arq, replace(posted, datalen=8).encode())
    rig.memory.writes.clear()
    rig.adminq.post(Message(3, bytes(36)))
    filled = rig.driver.posted(0)
    assert posted.address not in [iova for iova, _ in rig.memory.writes]
    assert filled.datalen == 0
    assert filled.flags & AqFlag.ERR
    assert rig.read(regs.ARQH1) == 1


def test_reply_buffer_in_bad_memory_loses_that_message_only() -> None:
    rig = Rig()
    rig.driver.open()
    rig.memory.write(rig.driver.arq, replace(rig.driver.posted(0), addr_low=0x1000).encode())
    rig.adminq.post(Message(3, b"lost"))
    rig.adminq.post(Message(4, b"kept"))
    assert rig.driver.posted(0).flags & AqFlag.ERR
    assert rig.driver.posted(1).cookie_high == 4


def test_own_descriptor_as_reply_buffer_does_no_harm() -> None:
    """The buffer overlaps the ring: each descriptor was copied before it was judged."""
    rig = Rig()
    rig.driver.open()
    rig.memory.write(
        rig.driver.arq, replace(rig.driver.posted(0), addr_low=rig.driver.arq).encode()
    )
    rig.adminq.post(Message(3, b"\xff" * 64))
    assert rig.driver.posted(0).datalen == 64
    assert rig.read(regs.ARQH1) == 1
