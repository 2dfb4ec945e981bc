"""The device as a transport sees it, with a recording data path and real guest memory."""

import os
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from emuiavf.emudev.info import DeviceConf, DmaProt, MemRegion, ResetReason, TxQueueConfig
from emuiavf.errors import ConfigError, PeerError
from emuiavf.iavf import regs, reset
from emuiavf.iavf.budget import RESETS_AT_ONCE, RESETS_PER_S, Budget
from emuiavf.iavf.regs import AqFlag
from emuiavf.iavf.reset import HOLD_S
from tests.fakes.vf_driver import HABITS, IPXE, LINUX, VPP_AVF, Habit, Received, VfDriver
from tests.iavf.conftest import BAR0, BAR3, CONFIG, MAC, RAM_SIZE, Bench

ADMINQ = 0x4000_0000
MSIX, ERR = 2, 3
ALL_CAPS = struct.pack("<I", 0xFFFF_FFFF)
READ_WRITE = DmaProt.READ | DmaProt.WRITE
DEADLINE_S = 5.0


def rpc(driver: VfDriver, opcode: int, body: bytes = b"") -> Received:
    driver.send(opcode, body)
    reply = driver.receive()
    assert reply is not None
    assert reply.opcode == opcode
    return reply


def negotiate(driver: VfDriver) -> None:
    """VERSION and GET_VF_RESOURCES; the link event is read."""
    assert rpc(driver, 1, struct.pack("<II", 1, 1)).status == 0
    assert rpc(driver, 3, ALL_CAPS).status == 0
    assert driver.receive() is not None


def select(rx: int, tx: int) -> bytes:
    return struct.pack("<HHII", 1, 0, rx, tx)


def queue_pair(tx_ring: int = 0x20_0000, rx_ring: int = 0x21_0000) -> bytes:
    """CONFIG_VSI_QUEUES for queue pair 0, padded as drivers do."""
    tx = struct.pack("<HHHHQQ", 1, 0, 64, 0, tx_ring, 0)
    rx = struct.pack("<HHIHHII", 1, 0, 64, 0, 0, 2048, 1534)
    return struct.pack("<HHI", 1, 1, 0) + tx + rx + struct.pack("<xB2xQiI64x", 1, rx_ring, 0, 0)


def start(driver: VfDriver) -> None:
    """Queue pair 0 runs; the link event is read."""
    assert rpc(driver, 6, queue_pair()).status == 0
    assert rpc(driver, 8, select(1, 1)).status == 0
    assert driver.receive() is not None


def event() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def turn_loop(bench: Bench, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not until():
        assert time.monotonic() < deadline
        bench.loop.run_once(0.05)


# What is announced


def test_mapped_device_announces_its_doorbell_pages(bench: Bench) -> None:
    region = bench.device.describe().regions[0]
    assert (region.size, region.fd_offset) == (0x20000, 0)
    assert [(a.offset, a.size) for a in region.areas] == [
        (0x0000, 0x1000),
        (0x2000, 0x1000),
        (0x3000, 0x1000),
    ]
    assert region.fd is not None
    assert os.fstat(region.fd).st_size == 0x4000


def test_trapping_device_announces_nothing_to_map(make_bench: Callable[[str], Bench]) -> None:
    region = make_bench(",doorbell=trap").device.describe().regions[0]
    assert (region.size, region.areas, region.fd) == (0x20000, (), None)


@pytest.mark.vfio_user("11.9")
def test_regions_and_interrupts_by_vfio_index(bench: Bench) -> None:
    description = bench.device.describe()
    assert [r.size for r in description.regions] == [0x20000, 0, 0, 0x4000, 0, 0, 0, 4096, 0]
    assert description.irqs == (0, 0, 17, 1, 0)
    assert description.resettable


@pytest.mark.parametrize(
    ("options", "vectors"),
    [
        ("", 17),
        (",queues=1,max-queues=1", 17),
        (",queues=16", 17),
        (",max-queues=17", 65),
        (",queues=17", 65),
        (",queues=256", 65),
        (",vectors=2", 2),
        (",queues=256,vectors=33", 33),
        (",max-queues=16,vectors=65", 65),
    ],
)
@pytest.mark.trap(34)
@pytest.mark.vfio_user("12.4.4")
def test_max_queues_fixes_the_vector_table(
    make_bench: Callable[[str], Bench], options: str, vectors: int
) -> None:
    """The MSI-X table is as large as max_vectors."""
    bench = make_bench(options)
    driver = bench.driver()
    rpc(driver, 1, struct.pack("<II", 1, 1))
    assert struct.unpack_from("<H", rpc(driver, 3, ALL_CAPS).body, 4) == (vectors,)
    assert bench.device.describe().irqs[MSIX] == vectors
    (control,) = struct.unpack("<H", bench.device.region_read(CONFIG, 0x72, 2))
    assert control & 0x7FF == vectors - 1


def test_identity_is_what_drivers_match(bench: Bench) -> None:
    assert bench.device.region_read(CONFIG, 0, 4) == b"\x86\x80\x89\x18"
    assert bench.device.region_read(CONFIG, 8, 4) == b"\x02\x00\x00\x02"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (",queues=5,max-queues=4", "queues=5 is more than max-queues=4"),
        (",queues=0", "queues=0: at least 1"),
        (",queues=257", "queues=257: at most 256"),
        (",max-queues=257", "max-queues=257: at most 256"),
        (",vectors=1", "vectors=1: at least 2"),
        (",vectors=66", "vectors=66: at most 65"),
        (",doorbell=no", "doorbell=no: must be one of mapped, trap, shared"),
        (",trust=on", "no option 'trust'"),
    ],
)
def test_wrong_option_is_refused_by_name(options: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        Bench(options)


@pytest.mark.trap(16)
def test_address_is_never_zero(bench: Bench, make_bench: Callable[[str], Bench]) -> None:
    """Drivers make a random address out of zero."""
    assert bench.device.emu.get_attr("mac") == "52:54:00:12:34:56"


@pytest.mark.usefixtures("no_fd_leaks")
def test_closed_device_gives_back_every_descriptor() -> None:
    bench = Bench()
    driver = bench.driver()
    negotiate(driver)
    start(driver)
    bench.device.set_irq_eventfds(MSIX, 0, [event(), event()])
    bench.device.set_irq_eventfds(ERR, 0, [event()])
    bench.device.mask_irqs(MSIX, [1], True)
    bench.close()


# Bring-up


@pytest.mark.parametrize("habit", HABITS, ids=lambda h: h.name)
def test_each_drivers_habits_bring_the_vf_up(bench: Bench, habit: Habit) -> None:
    """Traps 1 to 4, 7 to 10."""
    driver = bench.driver(habit)
    assert rpc(driver, 1, struct.pack("<II", 1, 1)).body == struct.pack("<II", 1, 1)
    assert driver.receive() is None
    resources = rpc(driver, 3, ALL_CAPS)
    assert resources.body[30:36] == MAC
    link = driver.receive()
    assert link is not None
    assert (link.opcode, len(link.body), link.body[8]) == (17, 16, 1)
    assert link.flags & AqFlag.BUF
    start(driver)
    assert bench.sink.calls[-1] == ("enable_queues", 1, 1)


@pytest.mark.trap(19)
def test_request_queues_before_version_is_refused_without_a_reset(bench: Bench) -> None:
    """The first message of VPP avf."""
    driver = bench.driver(VPP_AVF)
    assert rpc(driver, 29, struct.pack("<H", 1)).status == -64
    assert bench.read32(regs.VFGEN_RSTAT.offset) == 2
    assert bench.read32(regs.ARQLEN1.offset) == 0x8000_0040
    driver.open()
    negotiate(driver)


@pytest.mark.trap(20)
def test_disable_of_unconfigured_queues_succeeds(bench: Bench) -> None:
    """FreeBSD sends it first."""
    driver = bench.driver()
    negotiate(driver)
    assert rpc(driver, 9, select(0xF, 0xF)).status == 0


@pytest.mark.trap(20)
def test_dma_has_ended_before_the_answer_to_disable(bench: Bench) -> None:
    """Drivers free their memory on it."""
    driver = bench.driver()
    negotiate(driver)
    start(driver)
    bench.sink.calls.clear()
    driver.send(9, select(1, 1))
    assert bench.sink.calls == [("disable_queues", 1, 1)]


def test_ring_addresses_reach_the_data_path(bench: Bench) -> None:
    driver = bench.driver()
    negotiate(driver)
    start(driver)
    assert ("configure_tx", TxQueueConfig(0, 64, 0x20_0000)) in bench.sink.calls


@pytest.mark.trap(22)
def test_receive_tail_is_kept_when_the_queue_is_configured(bench: Bench) -> None:
    """Linux posts buffers before CONFIG_VSI_QUEUES."""
    driver = bench.driver()
    negotiate(driver)
    bench.write32(regs.QRX_TAIL1.at(0), 63)
    start(driver)
    assert bench.read32(regs.QRX_TAIL1.at(0)) == 63


def test_transmit_tails_are_forgotten_when_a_driver_opens_its_admin_queue(bench: Bench) -> None:
    bench.driver()
    assert bench.control.tails_forgotten > 0


@pytest.mark.trap(34)
def test_irq_map_of_vector_zero_is_accepted(bench: Bench) -> None:
    """Linux with empty maps, DPDK with queues."""
    driver = bench.driver()
    negotiate(driver)
    entries = struct.pack("<HHHHHH", 1, 1, 1, 1, 0, 1) + struct.pack("<HHHHHH", 1, 0, 2, 2, 0, 0)
    assert rpc(driver, 7, struct.pack("<H", 2) + entries + bytes(12)).status == 0


@pytest.mark.trap(11)
def test_statistics_answer_while_queues_are_off(bench: Bench) -> None:
    driver = bench.driver()
    negotiate(driver)
    assert rpc(driver, 15, select(0, 0)).body == bytes(96)


def test_link_attribute_is_told_to_the_guest(bench: Bench) -> None:
    driver = bench.driver()
    negotiate(driver)
    bench.device.emu.set_attr("link", "down")
    down = driver.receive()
    bench.device.emu.set_attr("link", "up")
    up = driver.receive()
    assert down is not None
    assert up is not None
    assert (down.body[8], up.body[8]) == (0, 1)


@pytest.mark.trap(3)
def test_link_change_before_get_vf_resources_is_silent(bench: Bench) -> None:
    driver = bench.driver()
    bench.device.emu.set_attr("link", "down")
    assert driver.receive() is None


# Interrupt registers


def test_adminq_cause_is_latched_and_cleared_by_reading(bench: Bench) -> None:
    driver = bench.driver()
    driver.send(1, struct.pack("<II", 1, 1))
    assert bench.control.raised == []
    assert bench.read32(regs.VFINT_ICR01.offset) == ADMINQ
    assert bench.read32(regs.VFINT_ICR01.offset) == 0


def test_adminq_event_raises_vector_zero_when_its_cause_is_enabled(bench: Bench) -> None:
    driver = bench.driver()
    bench.write32(regs.VFINT_ICR0_ENA1.offset, ADMINQ)
    driver.send(1, struct.pack("<II", 1, 1))
    assert bench.control.raised == [0]
    assert bench.read32(regs.VFINT_ICR0_ENA1.offset) == ADMINQ


@pytest.mark.trap(29)
def test_event_while_the_cause_is_disabled_is_raised_at_the_enable(bench: Bench) -> None:
    """FreeBSD's handler disables the cause until its task has run."""
    driver = bench.driver()
    driver.send(1, struct.pack("<II", 1, 1))
    bench.write32(regs.VFINT_ICR0_ENA1.offset, ADMINQ)
    bench.write32(regs.VFINT_ICR0_ENA1.offset, ADMINQ)
    assert bench.control.raised == [0]


def test_latch_alone_never_interrupts_again(bench: Bench) -> None:
    """DPDK disables and enables the cause around each event and does not read the latch."""
    driver = bench.driver()
    bench.write32(regs.VFINT_ICR0_ENA1.offset, ADMINQ)
    driver.send(1, struct.pack("<II", 1, 1))
    bench.write32(regs.VFINT_ICR0_ENA1.offset, 0)
    bench.write32(regs.VFINT_ICR0_ENA1.offset, ADMINQ)
    assert bench.control.raised == [0]


@pytest.mark.parametrize(
    ("offset", "vector"), [(0x5C00, 0), (0x3800, 1), (0x383C, 16)], ids=["01", "N1(0)", "N1(15)"]
)
def test_dyn_ctl_goes_to_the_data_path(bench: Bench, offset: int, vector: int) -> None:
    bench.write32(offset, 0x0000_0019)
    assert bench.control.dyn_ctl == {vector: 0x19}


def test_dyn_ctl_beyond_the_table_is_ignored(bench: Bench) -> None:
    bench.write32(regs.VFINT_DYN_CTLN1.at(16), 1)
    bench.write32(regs.VFINT_DYN_CTLN1.at(63), 1)
    assert bench.control.dyn_ctl == {}


def test_dyn_ctl01_reads_the_data_paths_state(bench: Bench) -> None:
    bench.write32(regs.VFINT_DYN_CTL01.offset, 1)
    bench.control.dyn_ctl[0] = 0
    assert bench.read32(regs.VFINT_DYN_CTL01.offset) == 0


def test_itr01_goes_to_the_data_path_and_back(bench: Bench) -> None:
    bench.write32(regs.VFINT_ITR01.at(2), 0xFFFF)
    assert bench.control.itr == {(2, 0): 0xFFF}
    bench.control.itr[2, 0] = 62
    assert bench.read32(regs.VFINT_ITR01.at(2)) == 62


def test_doorbell_by_message_wakes_the_workers(make_bench: Callable[[str], Bench]) -> None:
    bench = make_bench(",doorbell=trap")
    bench.write32(regs.QTX_TAIL1.at(3), 17)
    assert bench.control.wakes == 1
    assert bytes(bench.device.emu.map_region("doorbells", 0x4000)[12:16]) == b"\x11\0\0\0"


# Resets

REGISTERS_OF_THE_QUEUES = [r for r in regs.SINGLES if r.name.startswith(("ATQ", "ARQ"))]


def dirty(bench: Bench) -> VfDriver:
    """A VF in use, with something in every register that a reset clears."""
    driver = bench.driver()
    negotiate(driver)
    start(driver)
    for offset in (0x0000, 0x2000, 0x2800, 0x5000, 0x5400, 0xC400, 0xCC00, 0xD000):
        bench.write32(offset, 7)
    bench.sink.calls.clear()
    return driver


def by_message(bench: Bench, driver: VfDriver) -> None:
    driver.send(2)


def by_flr(bench: Bench, driver: VfDriver) -> None:
    bench.device.region_write(CONFIG, 0xA8, b"\x10\xa8")


def by_client(bench: Bench, driver: VfDriver) -> None:
    bench.device.reset(ResetReason.CLIENT)


def by_disconnect(bench: Bench, driver: VfDriver) -> None:
    bench.device.detached()


def read_notice(bench: Bench, driver: VfDriver) -> None:
    """RSTAT reads as in progress before the notice can be read, and for a while after it."""
    assert bench.read32(regs.VFGEN_RSTAT.offset) == 0
    began = time.monotonic()
    notice = driver.receive()
    assert notice is not None
    assert struct.unpack_from("<i", notice.body) == (2,)
    turn_loop(bench, lambda: bench.read32(regs.VFGEN_RSTAT.offset) == 2)
    assert time.monotonic() - began >= HOLD_S * 0.9


def by_request_queues(bench: Bench, driver: VfDriver) -> None:
    driver.send(29, struct.pack("<H", 4))
    read_notice(bench, driver)


def by_host(bench: Bench, driver: VfDriver) -> None:
    bench.device.reset_by_host()
    read_notice(bench, driver)


Trigger = Callable[[Bench, VfDriver], None]
EVERY_RESET = [by_message, by_flr, by_client, by_disconnect, by_request_queues, by_host]


@pytest.mark.parametrize("trigger", EVERY_RESET)
@pytest.mark.trap(6, 36)
def test_reset_leaves_registers_as_new(bench: Bench, trigger: Trigger) -> None:
    """RSTAT is 2 and nothing else; nothing reads all ones."""
    driver = dirty(bench)
    trigger(bench, driver)
    assert bench.read32(regs.VFGEN_RSTAT.offset) == 2
    assert [bench.read32(r.offset) for r in REGISTERS_OF_THE_QUEUES] == [0] * 10
    registers = bench.device.region_read(BAR0, 0, regs.BAR0_SIZE)
    assert registers.replace(b"\0", b"") == b"\x02"
    assert bench.sink.names()[0] == "reset"


@pytest.mark.parametrize("trigger", EVERY_RESET)
@pytest.mark.trap(38, 12)
def test_vf_comes_up_again_after_a_reset(bench: Bench, trigger: Trigger) -> None:
    """Nothing of before is delivered; no second VERSION is needed."""
    driver = dirty(bench)
    trigger(bench, driver)
    again = bench.driver() if trigger is by_disconnect else driver
    bench.bus_master()
    again.open()
    assert again.receive() is None
    assert rpc(again, 3, ALL_CAPS).status == 0
    assert again.receive() is not None
    start(again)


@pytest.mark.parametrize("trigger", [by_flr, by_client, by_disconnect])
@pytest.mark.vfio_user("11.3")
def test_function_reset_clears_pci_state(bench: Bench, trigger: Trigger) -> None:
    driver = dirty(bench)
    bench.device.region_write(CONFIG, 0x72, b"\x00\xc0")
    trigger(bench, driver)
    assert bench.device.region_read(CONFIG, 4, 2) == bytes(2)
    assert bench.device.region_read(CONFIG, 0x73, 1) == bytes(1)
    assert ("set_bus_master", False) in bench.sink.calls


@pytest.mark.parametrize("trigger", [by_message, by_request_queues, by_host])
def test_vf_reset_leaves_pci_state(bench: Bench, trigger: Trigger) -> None:
    driver = dirty(bench)
    trigger(bench, driver)
    assert bench.device.region_read(CONFIG, 4, 2) == b"\x06\x00"
    assert "set_bus_master" not in bench.sink.names()


@pytest.mark.parametrize("trigger", [by_flr, by_client, by_message])
def test_maps_and_eventfds_survive_a_reset(bench: Bench, trigger: Trigger) -> None:
    driver = dirty(bench)
    fd = event()
    bench.device.set_irq_eventfds(MSIX, 0, [fd])
    trigger(bench, driver)
    assert [r.size for r in bench.device.emu.mem_table()] == [RAM_SIZE]
    bench.device.trigger_irqs(MSIX, [0])
    assert os.eventfd_read(fd) == 1


@pytest.mark.vfio_user("11.2", "12.2.7", "12.10.5", "12.21.9")
def test_disconnect_drops_maps_and_eventfds(bench: Bench) -> None:
    driver = dirty(bench)
    fd = event()
    bench.device.set_irq_eventfds(MSIX, 0, [fd])
    by_disconnect(bench, driver)
    assert bench.device.emu.mem_table() == ()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


@pytest.mark.trap(18)
def test_request_queues_of_the_present_number_resets(bench: Bench) -> None:
    """IPXE asks for 1 pair when it has 1 already."""
    driver = bench.driver(IPXE)
    for _ in range(2):
        negotiate(driver)
        driver.send(29, struct.pack("<H", 1))
        assert bench.read32(regs.VFGEN_RSTAT.offset) == 0
        turn_loop(bench, lambda: bench.read32(regs.VFGEN_RSTAT.offset) == 2)
        assert bench.read32(regs.ARQLEN1.offset) == 0
        driver.open()
    assert struct.unpack_from("<HH", rpc(driver, 3, ALL_CAPS).body) == (1, 1)


def test_request_queues_waits_for_no_driver_longer_than_the_notice(bench: Bench) -> None:
    driver = bench.driver()
    negotiate(driver)
    begun = time.monotonic()
    driver.send(29, struct.pack("<H", 2))
    assert bench.read32(regs.ARQLEN1.offset) != 0
    turn_loop(bench, lambda: bench.read32(regs.ARQLEN1.offset) == 0)
    assert time.monotonic() - begun >= 0.015


def test_queue_pairs_last_through_vf_resets_and_end_with_the_function(bench: Bench) -> None:
    driver = bench.driver()
    negotiate(driver)
    driver.send(29, struct.pack("<H", 2))
    read_notice(bench, driver)
    driver.open()
    assert struct.unpack_from("<HH", rpc(driver, 3, ALL_CAPS).body) == (1, 2)
    by_flr(bench, driver)
    bench.bus_master()
    driver.open()
    assert struct.unpack_from("<HH", rpc(driver, 3, ALL_CAPS).body) == (1, 4)


def test_freebsd_may_write_rstat_before_its_reset(bench: Bench) -> None:
    driver = bench.driver()
    bench.write32(regs.VFGEN_RSTAT.offset, 0)
    assert bench.read32(regs.VFGEN_RSTAT.offset) == 0
    driver.send(2)
    assert bench.read32(regs.VFGEN_RSTAT.offset) == 2


def test_a_driver_that_resets_too_often_is_let_in_later(
    make_bench: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storm of resets ends with one that takes its time, during which the mailbox is deaf.

    It comes all at once by the budget's clock: a sanitized build may need more than the budget
    gives for each.
    """
    now = 0.0
    monkeypatch.setattr(reset, "Budget", partial(Budget, clock=lambda: now))
    bench = make_bench()
    driver = bench.driver()
    for _ in range(RESETS_AT_ONCE + 1):
        bench.device.reset(ResetReason.CLIENT)
    assert bench.read32(regs.VFGEN_RSTAT.offset) == regs.Rstat.IN_PROGRESS
    bench.bus_master()
    driver.open()
    driver.send(1, struct.pack("<II", 1, 1))
    assert driver.receive() is None
    deadline = time.monotonic() + DEADLINE_S
    while bench.read32(regs.VFGEN_RSTAT.offset) != regs.Rstat.VFR_ACTIVE:
        assert time.monotonic() < deadline
        now += 1 / RESETS_PER_S
        bench.loop.run_once(0.05)
    reply = driver.receive()
    assert reply is not None
    assert (reply.opcode, reply.status) == (1, 0)


@pytest.mark.vfio_user("11.4")
def test_flr_needs_its_bit(bench: Bench) -> None:
    dirty(bench)
    bench.device.region_write(CONFIG, 0xA8, b"\x10\x28")
    assert bench.sink.calls == []


# Bus master


def test_admin_queue_waits_for_bus_master(bench: Bench) -> None:
    bench.map()
    driver = VfDriver(bench.device.emu.mem, bench.bar, LINUX)
    driver.open()
    index = driver.send(1, struct.pack("<II", 1, 1))
    assert driver.completed(index).flags & AqFlag.DD == 0
    bench.bus_master()
    assert driver.completed(index).flags & AqFlag.DD
    assert driver.receive() is not None


@pytest.mark.vfio_user("11.5")
def test_clearing_bus_master_drains_the_data_path_and_holds_replies(bench: Bench) -> None:
    driver = bench.driver()
    negotiate(driver)
    bench.bus_master(False)
    assert bench.sink.calls[-1] == ("set_bus_master", False)
    bench.device.emu.set_attr("link", "down")
    assert driver.receive() is None
    bench.bus_master()
    assert bench.sink.calls[-1] == ("set_bus_master", True)
    assert driver.receive() is not None


# Interrupts of the client


def test_eventfd_reaches_the_data_path(bench: Bench) -> None:
    first, second = event(), event()
    bench.device.set_irq_eventfds(MSIX, 3, [first, second])
    assert bench.sink.calls[-1] == ("set_irqs", {3: first, 4: second})
    bench.device.set_irq_eventfds(MSIX, 3, [None])
    assert bench.sink.calls[-1] == ("set_irqs", {3: None})
    bench.device.disable_irqs(MSIX)
    assert bench.sink.calls[-1] == ("set_irqs", {4: None})


def test_error_eventfd_is_kept_and_never_signalled_by_itself(bench: Bench) -> None:
    fd = event()
    bench.device.set_irq_eventfds(ERR, 0, [fd])
    bench.device.trigger_irqs(ERR, [0])
    assert os.eventfd_read(fd) == 1
    bench.device.disable_irqs(ERR)


def test_disabling_an_index_without_vectors_is_allowed(bench: Bench) -> None:
    bench.device.disable_irqs(0)
    bench.device.disable_irqs(1)


def test_mask_by_message_holds_the_event(bench: Bench) -> None:
    fd = event()
    bench.device.set_irq_eventfds(MSIX, 0, [fd])
    bench.device.mask_irqs(MSIX, [0], True)
    bench.device.trigger_irqs(MSIX, [0])
    assert bench.device.region_read(BAR3, 0x2000, 8) == b"\x01" + bytes(7)
    bench.device.mask_irqs(MSIX, [0], False)
    assert os.eventfd_read(fd) == 1


# Memory


@pytest.mark.vfio_user("12.11.5")
def test_unmapping_nothing_is_an_error(bench: Bench) -> None:
    with pytest.raises(PeerError) as caught:
        bench.device.dma_unmap(0, 4096)
    assert caught.value.errno == 2


@pytest.mark.vfio_user("11.5", "12.11.6")
def test_unmap_waits_for_the_data_path(bench: Bench) -> None:
    bench.map()
    bench.device.dma_unmap(0, RAM_SIZE)
    assert bench.sink.calls[-1] == ("memory_changed",)
    assert bench.device.emu.mem.retired == 0


def test_many_maps_do_not_pile_up_retired_tables(bench: Bench) -> None:
    os.ftruncate(bench.ram, 4096)
    for page in range(200):
        bench.map(page * 8192, 4096, bench.ram)
    assert bench.device.emu.mem.retired <= 33


@pytest.mark.vfio_user("12.14.2")
def test_refused_map_closes_its_descriptor(bench: Bench) -> None:
    bench.map()
    with pytest.raises(PeerError):
        bench.map(4096, 4096, bench.ram)


@pytest.mark.vfio_user("12.18.2")
def test_map_without_descriptor_is_taken_silently_when_small(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.device.dma_map(MemRegion(0xFE00_0000, 16 << 20, READ_WRITE, False), None, 0)
    assert caplog.messages == []


def test_ring_in_unshared_memory_names_the_cure(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.map()
    bench.device.dma_map(MemRegion(1 << 32, 1 << 30, READ_WRITE, False), None, 0)
    bench.bus_master()
    assert caplog.messages == []
    driver = VfDriver(bench.device.emu.mem, bench.bar, LINUX)
    driver.open()
    bench.write32(regs.ATQBAH1.offset, 1)
    driver.ring()
    bench.write32(regs.ATQT1.offset, 1)
    assert len(caplog.messages) == 1
    assert "share=on" in caplog.messages[0]


def test_private_memory_shows_as_blank_descriptors(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """share=off with a descriptor: what the guest writes never arrives here."""
    driver = bench.driver()
    bench.write32(regs.ATQT1.offset, 1)
    assert driver.completed(0).flags & AqFlag.ERR
    assert "share=on" in caplog.text


def test_truncated_memory_under_the_admin_queue_breaks_the_device(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    driver = bench.driver()
    negotiate(driver)
    start(driver)
    os.ftruncate(bench.ram, 0)
    bench.sink.calls.clear()
    bench.write32(regs.ATQT1.offset, 20)
    turn_loop(bench, lambda: "broken" in caplog.text)
    assert bench.sink.calls == [("disable_queues", 0xFFFF, 0xFFFF)]
    assert bench.device.emu.mem.broken


def test_broken_device_refuses_to_enable_until_memory_is_mapped_anew(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    driver = bench.driver()
    negotiate(driver)
    with os.fdopen(os.memfd_create("late", os.MFD_CLOEXEC), "w+b", buffering=0) as late:
        late.truncate(4096)
        bench.map(1 << 30, 4096, late.fileno())
        late.truncate(0)
    with pytest.raises(PeerError):
        bench.device.emu.mem.read(1 << 30, 8)
    turn_loop(bench, lambda: "broken" in caplog.text)
    assert rpc(driver, 6, queue_pair()).status == 0
    assert rpc(driver, 8, select(1, 1)).status == -5
    bench.device.dma_unmap(1 << 30, 4096)
    os.ftruncate(bench.ram, RAM_SIZE + 4096)
    bench.map(1 << 30, 4096, bench.ram)
    assert rpc(driver, 8, select(1, 1)).status == 0
    assert caplog.text.count("broken") == 1


def test_stopped_queue_is_counted_and_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.control.faults = [("tx", 2, "bad tail")]
    os.eventfd_write(bench.device.fault_fd, 1)
    turn_loop(bench, lambda: bench.device.malicious == 1)
    assert caplog.messages == ["emu_iavf7: tx queue 2 stopped until it is reset: bad tail"]


def test_flood_of_refused_requests_is_logged_a_few_times(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    driver = bench.driver()
    for _ in range(100):
        assert rpc(driver, 99).status == -64
    assert len(caplog.messages) == 10


@pytest.mark.parametrize("opcode", [0, 17, 99, 0x7FFF_FFFF, 0xFFFF_FFFF])
@pytest.mark.trap(37)
def test_unknown_message_gets_one_refusal_of_its_opcode(bench: Bench, opcode: int) -> None:
    driver = bench.driver()
    reply = rpc(driver, opcode)
    assert reply.status == -64
    assert driver.receive() is None


def test_reply_ring_in_the_command_ring_ends(bench: Bench) -> None:
    """ATQ and ARQ on the same descriptors: every loop is bounded by a ring's length."""
    driver = bench.driver()
    for low, high in ((regs.ATQBAL1, regs.ATQBAH1),):
        bench.write32(low.offset, driver.arq)
        bench.write32(high.offset, 0)
    descriptor = replace(driver.descriptor(1, b"", 0), flags=0)
    for index in range(32):
        bench.device.emu.mem.write(driver.arq + 32 * index, descriptor.encode())
    bench.write32(regs.ATQT1.offset, 31)
    turn_loop(bench, lambda: bench.read32(regs.ATQH1.offset) == 31)


# Lifecycle


def test_host_may_change_the_number_of_queue_pairs_before_the_start() -> None:
    bench = Bench(",queues=4")
    bench.device.emu.stop()
    bench.device.emu.configure(DeviceConf(num_queue_pairs=2))
    bench.device.emu.start()
    driver = bench.driver()
    assert struct.unpack_from("<HH", rpc(driver, 3, ALL_CAPS).body) == (1, 2)
    bench.close()


@pytest.mark.parametrize(
    ("attr", "value"), [("mac", "02:00:00:00:00:01"), ("doorbell", "trap"), ("link", "sideways")]
)
def test_attribute_that_is_fixed_or_wrong_is_refused(bench: Bench, attr: str, value: str) -> None:
    before = bench.device.emu.get_attr(attr)
    with pytest.raises(ConfigError):
        bench.device.emu.set_attr(attr, value)
    assert bench.device.emu.get_attr(attr) == before


@pytest.mark.vfio_user("12.2.8")
def test_client_that_leaves_during_the_notice_leaves_nothing_behind(bench: Bench) -> None:
    driver = bench.driver()
    negotiate(driver)
    driver.send(29, struct.pack("<H", 2))
    bench.device.detached()
    calls = len(bench.sink.calls)
    bench.loop.run_once(0.05)
    assert len(bench.sink.calls) == calls
