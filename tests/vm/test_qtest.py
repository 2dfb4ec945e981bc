"""The device behind a real QEMU's vfio-user client, without a guest: each case plays the driver."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from emuiavf.iavf import regs
from emuiavf.virtchnl.ops import Op, Status
from tests.vm.harness.backend import BackendProcess, vfio_user_device, wait_until
from tests.vm.harness.mailbox import ENTRIES, Mailbox, words
from tests.vm.harness.qtest import CAP_MSIX, CAP_PCIE, Pci, QTest, QTestError

BAR0, BAR3 = 0xE000_0000, 0xE010_0000
MESSAGES = 0x20_0000  # guest RAM that stands in for the interrupt controller
OUTSIDE = 0x4000_0000_0000  # no RAM there
SLOT = 2
DOORBELLS = ("mapped", "trap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qtest")


@pytest.fixture(scope="module")
def backend(folder: Path, cache: Path) -> Iterator[BackendProcess]:
    arguments = []
    for number, mode in enumerate(DOORBELLS):
        options = f"path={folder / mode},doorbell={mode},queues=4"
        arguments += ["--vdev", f"emu_iavf{number},{options}"]
    with BackendProcess(arguments, folder / "backend.log") as process:
        yield process
        assert process.stop() == 0
    assert "Traceback" not in process.said()


@pytest.fixture(params=DOORBELLS)
def q(
    request: pytest.FixtureRequest, backend: BackendProcess, cache: Path, folder: Path
) -> Iterator[QTest]:
    with QTest(cache, vfio_user_device(folder / request.param, addr=f"{SLOT}.0")) as qtest:
        yield qtest
    assert backend.alive()


@pytest.fixture
def device(q: QTest) -> Pci:
    """The device with its BARs mapped, decoding and bus mastering on."""
    found = q.pci(SLOT)
    found.map_bar(0, BAR0)
    found.map_bar(3, BAR3)
    found.enable()
    return found


@pytest.fixture
def mailbox(q: QTest, device: Pci) -> Mailbox:
    box = Mailbox(q, BAR0)
    box.open()
    return box


# Configuration space


def test_ids_name_an_adaptive_vf(q: QTest) -> None:
    device = q.pci(SLOT)
    assert device.ids() == (0x8086, 0x1889)
    assert device.get(0x0A, 2) == 0x0200
    assert device.get(0x0E, 1) & 0x7F == 0


def test_there_is_no_legacy_interrupt(q: QTest) -> None:
    assert q.pci(SLOT).get(0x3D, 1) == 0


@pytest.mark.parametrize(
    ("index", "size", "wide"),
    [(0, 0x20000, True), (2, 0, False), (3, 0x4000, True), (5, 0, False)],
)
def test_bar_has_the_size_of_an_e810_vf(q: QTest, index: int, size: int, wide: bool) -> None:
    assert q.pci(SLOT).bar(index) == (size, False, wide)


def test_capabilities_are_msix_and_pcie_with_flr(q: QTest) -> None:
    device = q.pci(SLOT)
    capabilities = device.capabilities()
    assert {CAP_MSIX, CAP_PCIE} <= set(capabilities)
    assert device.get(capabilities[CAP_PCIE] + 4) >> 28 & 1


def test_msix_table_has_a_vector_per_queue_pair_and_one(q: QTest) -> None:
    assert q.pci(SLOT).msix_size() in (5, 17, 65)


@pytest.mark.parametrize("bit", [1, 2, 6, 8, 10])
def test_command_bit_reads_back(q: QTest, bit: int) -> None:
    device = q.pci(SLOT)
    device.put(4, 1 << bit, 2)
    assert device.get(4, 2) == 1 << bit
    device.put(4, 0, 2)
    assert device.get(4, 2) == 0


def test_reads_of_all_widths_agree(q: QTest) -> None:
    device = q.pci(SLOT)
    for offset in range(0, 0x100, 4):
        word = device.get(offset)
        assert device.get(offset, 2) == word & 0xFFFF
        assert device.get(offset + 2, 2) == word >> 16
        assert [device.get(offset + i, 1) for i in range(4)] == list(word.to_bytes(4, "little"))


@pytest.mark.parametrize("offset", [0x00, 0x08, 0x2C, 0x34])
def test_read_only_words_stay(q: QTest, offset: int) -> None:
    device = q.pci(SLOT)
    before = device.get(offset)
    device.put(offset, ~before & 0xFFFFFFFF)
    assert device.get(offset) == before


def test_capability_headers_stay(q: QTest) -> None:
    device = q.pci(SLOT)
    before = device.capabilities()
    for offset in before.values():
        device.put(offset, 0xFFFF, 2)
    assert device.capabilities() == before


# Registers


def test_reset_state_is_vf_active(q: QTest, device: Pci) -> None:
    assert q.read32(BAR0 + regs.VFGEN_RSTAT.offset) == regs.Rstat.VFR_ACTIVE


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_register_reads_of_every_width(q: QTest, device: Pci, size: int) -> None:
    assert q.get(BAR0 + regs.VFGEN_RSTAT.offset, size) & 0xFF == regs.Rstat.VFR_ACTIVE


@pytest.mark.parametrize(
    "register",
    [
        regs.ATQBAL1,
        regs.ATQBAH1,
        regs.ARQBAL1,
        regs.ARQBAH1,
        regs.ATQH1,
        regs.ARQH1,
    ],
    ids=lambda register: register.name,
)
def test_admin_queue_register_reads_back(q: QTest, device: Pci, register: regs.Register) -> None:
    value = 0x155 if register in (regs.ATQH1, regs.ARQH1) else 0x12345640
    q.write32(BAR0 + register.offset, value)
    assert q.read32(BAR0 + register.offset) == value


@pytest.mark.parametrize("offset", [0x0FFC, 0x1000, 0x4000, 0x9000, 0x10000, 0x1FFFC])
def test_an_offset_without_register_is_no_dead_device(q: QTest, device: Pci, offset: int) -> None:
    q.write32(BAR0 + offset, 0xDEADBEEF)
    assert q.read32(BAR0 + offset) != 0xFFFFFFFF
    assert q.read32(BAR0 + regs.VFGEN_RSTAT.offset) == regs.Rstat.VFR_ACTIVE


@pytest.mark.parametrize("offset", [0, 4 * 15, 0x2000, 0x2000 + 4 * 15])
def test_tail_reads_back_in_both_doorbell_modes(q: QTest, device: Pci, offset: int) -> None:
    q.write32(BAR0 + offset, 17)
    assert q.read32(BAR0 + offset) == 17


def test_registers_do_not_answer_with_decoding_off(q: QTest, device: Pci) -> None:
    device.enable(0)
    assert q.read32(BAR0 + regs.VFGEN_RSTAT.offset) != regs.Rstat.VFR_ACTIVE
    device.enable()
    assert q.read32(BAR0 + regs.VFGEN_RSTAT.offset) == regs.Rstat.VFR_ACTIVE


def test_bar_moves_with_its_address(q: QTest, device: Pci) -> None:
    q.write32(BAR0 + 0x2000, 5)
    for address in (0xE020_0000, 0xE040_0000, BAR0):
        device.enable(4)
        device.map_bar(0, address)
        device.enable()
        assert q.read32(address + 0x2000) == 5
        assert q.read32(address + regs.VFGEN_RSTAT.offset) == regs.Rstat.VFR_ACTIVE


def test_decoding_toggled_many_times_keeps_the_device(q: QTest, device: Pci) -> None:
    for _ in range(100):
        device.enable(0)
        device.enable()
    assert q.read32(BAR0 + regs.VFGEN_RSTAT.offset) == regs.Rstat.VFR_ACTIVE


# MSI-X


def software_interrupt(q: QTest, vector: int) -> None:
    register = regs.VFINT_DYN_CTL01.offset if vector == 0 else regs.VFINT_DYN_CTLN1.at(vector - 1)
    value = regs.DynCtl.INTENA | regs.DynCtl.SWINT_TRIG | regs.DYN_CTL_ITR_NONE << 3
    q.write32(BAR0 + register, value)


def prepare(q: QTest, device: Pci, vector: int, *, masked: bool = False) -> int:
    """Let a vector write 0xA5 to guest RAM; returns where."""
    address = MESSAGES + 4 * vector
    q.write32(address, 0)
    device.msix_vector(vector, address, 0xA5, masked=masked)
    return address


@pytest.mark.parametrize("vector", [0, 1, 4])
def test_software_interrupt_arrives(q: QTest, device: Pci, vector: int) -> None:
    device.msix_enable()
    address = prepare(q, device, vector)
    software_interrupt(q, vector)
    q.wait(lambda: q.read32(address) == 0xA5)


@pytest.mark.parametrize("vector", [0, 1])
def test_a_masked_vector_is_delivered_at_unmask(q: QTest, device: Pci, vector: int) -> None:
    device.msix_enable()
    address = prepare(q, device, vector)
    device.msix_mask(vector, True)
    software_interrupt(q, vector)
    other = prepare(q, device, 2)
    software_interrupt(q, 2)
    q.wait(lambda: q.read32(other) == 0xA5)
    assert q.read32(address) == 0
    device.msix_mask(vector, False)
    q.wait(lambda: q.read32(address) == 0xA5)


def test_no_message_while_msix_is_disabled(q: QTest, device: Pci) -> None:
    address = prepare(q, device, 1)
    software_interrupt(q, 1)
    device.msix_enable()
    other = prepare(q, device, 2)
    software_interrupt(q, 2)
    q.wait(lambda: q.read32(other) == 0xA5)
    assert q.read32(address) in (0, 0xA5)  # a pending one may follow, a crash may not


def test_pending_bits_can_be_read(q: QTest, device: Pci) -> None:
    device.msix_enable()
    assert not device.pending(0)
    assert not device.pending(device.msix_size() - 1)


def test_msix_enabled_and_disabled_many_times(q: QTest, device: Pci) -> None:
    for _ in range(20):
        device.msix_enable()
        prepare(q, device, 1)
        device.msix_enable(False)
    device.msix_enable()
    address = prepare(q, device, 1)
    software_interrupt(q, 1)
    q.wait(lambda: q.read32(address) == 0xA5)


# Admin queue


def test_version_is_1_1(mailbox: Mailbox) -> None:
    assert list(words(mailbox.version().body)) == [1, 1]


def test_an_answer_raises_vector_0(q: QTest, device: Pci, mailbox: Mailbox) -> None:
    device.msix_enable()
    address = prepare(q, device, 0)
    q.write32(BAR0 + regs.VFINT_ICR0_ENA1.offset, regs.Icr0.ADMINQ)
    q.write32(BAR0 + regs.VFINT_DYN_CTL01.offset, regs.DynCtl.INTENA | 3 << 3)
    mailbox.version()
    q.wait(lambda: q.read32(address) == 0xA5)
    assert q.read32(BAR0 + regs.VFINT_ICR01.offset) & regs.Icr0.ADMINQ
    assert q.read32(BAR0 + regs.VFINT_ICR01.offset) == 0


def test_unknown_opcodes_are_refused_and_answered(mailbox: Mailbox) -> None:
    mailbox.version()
    for op in (0, 99, 500, 0xFFFFFFFF):
        answer = next(message for message in mailbox.ask(op, b"\0" * 16) if message.op == op)
        assert answer.status != Status.SUCCESS


def test_a_thousand_messages_keep_their_order(mailbox: Mailbox) -> None:
    for _ in range(1000 // ENTRIES):
        answers = []
        for op in range(ENTRIES - 1):
            mailbox.send(1000 + op)
        mailbox.q.wait(lambda seen=answers: seen.extend(mailbox.messages()) or len(seen) >= 15)
        assert [message.op for message in answers] == list(range(1000, 1000 + ENTRIES - 1))


def test_reset_vf_is_completed_and_ends_active(q: QTest, mailbox: Mailbox) -> None:
    mailbox.version()
    index = mailbox.send(Op.RESET_VF)
    q.wait(lambda: mailbox.completed(index))
    q.wait(lambda: not mailbox.read(regs.ARQLEN1) & regs.AqLen.ENABLE)
    q.wait(lambda: mailbox.read(regs.VFGEN_RSTAT) == regs.Rstat.VFR_ACTIVE)
    assert mailbox.read(regs.ATQLEN1) == 0
    mailbox.open()
    assert list(words(mailbox.version().body)) == [1, 1]


def test_without_bus_mastering_nothing_is_read_or_written(
    q: QTest, device: Pci, mailbox: Mailbox
) -> None:
    device.enable(2)
    index = mailbox.send(Op.VERSION, bytes([1, 0, 0, 0, 1, 0, 0, 0]))
    assert mailbox.read(regs.VFGEN_RSTAT) == regs.Rstat.VFR_ACTIVE
    assert not mailbox.completed(index)
    device.enable(6)
    mailbox.open()
    assert list(words(mailbox.version().body)) == [1, 1]


@pytest.mark.parametrize("base", [OUTSIDE, 0xFFFF_FFFF_FFFF_FF00, BAR0], ids=hex)
def test_queues_outside_memory_are_cured_by_a_function_reset(
    q: QTest, device: Pci, mailbox: Mailbox, base: int
) -> None:
    mailbox.open(atq=base, arq=base)
    mailbox.write(regs.ATQT1, 3)
    device.reset_function()
    device.enable()
    mailbox.open()
    assert list(words(mailbox.version().body)) == [1, 1]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 1023], ids=lambda n: f"{n} entries")
@pytest.mark.parametrize("tail", [0, 2, 15, 1023, 0xFFFFFFFF], ids=lambda n: f"tail {n:#x}")
def test_odd_lengths_and_tails_do_no_harm(
    q: QTest, device: Pci, mailbox: Mailbox, length: int, tail: int
) -> None:
    mailbox.open(length=length)
    mailbox.write(regs.ARQT1, tail)
    mailbox.write(regs.ATQT1, tail)
    assert mailbox.read(regs.VFGEN_RSTAT) == regs.Rstat.VFR_ACTIVE
    device.reset_function()
    device.enable()
    mailbox.open()
    assert list(words(mailbox.version().body)) == [1, 1]


@pytest.mark.parametrize(
    ("datalen", "address"),
    [(4097, 0x200000), (0xFFFF, 0x200000), (16, OUTSIDE), (4096, 0x3FFFFF0), (0, OUTSIDE)],
)
def test_a_bad_buffer_is_completed_and_the_next_message_answered(
    q: QTest, mailbox: Mailbox, datalen: int, address: int
) -> None:
    descriptor = mailbox.descriptor(
        flags=regs.AqFlag.BUF | regs.AqFlag.RD | regs.AqFlag.LB,
        opcode=regs.AqOpcode.SEND_MSG_TO_PF,
        datalen=datalen,
        cookie=500,
        address=address,
    )
    index = mailbox.post(descriptor)
    q.wait(lambda: mailbox.completed(index))
    assert list(words(mailbox.version().body)) == [1, 1]


# Resets


def test_flr_resets_registers_and_keeps_the_connection(q: QTest, device: Pci) -> None:
    q.write32(BAR0 + regs.ATQBAL1.offset, 0x1000)
    device.reset_function()
    device.enable()
    assert q.read32(BAR0 + regs.ATQBAL1.offset) == 0
    assert q.read32(BAR0 + regs.VFGEN_RSTAT.offset) == regs.Rstat.VFR_ACTIVE


def test_flr_clears_bus_mastering(device: Pci) -> None:
    device.reset_function()
    assert device.get(4, 2) & 4 == 0


def test_interrupts_work_after_flr(q: QTest, device: Pci) -> None:
    device.msix_enable()
    prepare(q, device, 1)
    device.reset_function()
    device.enable()
    device.msix_enable()
    address = prepare(q, device, 1)
    software_interrupt(q, 1)
    q.wait(lambda: q.read32(address) == 0xA5)


def test_machine_reset_twenty_times(q: QTest, device: Pci, mailbox: Mailbox) -> None:
    for _ in range(20):
        q.system_reset()
        device.map_bar(0, BAR0)
        device.enable()
        assert mailbox.read(regs.ATQBAL1) == 0
        mailbox.open()
        assert list(words(mailbox.version().body)) == [1, 1]


def test_shadow_memory_toggles_keep_the_queues_reachable(
    q: QTest, device: Pci, mailbox: Mailbox
) -> None:
    """Firmware turns shadow RAM on and off: maps come and go, also under the queues' neighbours."""
    bridge = q.pci(0)
    for value in (0x00, 0x11, 0x33, 0x22) * 4:
        for offset in range(0x90, 0x97):
            bridge.put(offset, value, 1)
        assert list(words(mailbox.version().body)) == [1, 1]


# Hostile order


def test_random_registers_do_no_lasting_harm(q: QTest, device: Pci) -> None:
    dice = random.Random(1889)
    for _ in range(1500):
        offset = dice.choice((dice.randrange(0, 0x20000, 4), *(r.offset for r in regs.SINGLES)))
        q.write32(BAR0 + offset, dice.choice((0, 1, 0xFFFFFFFF, dice.getrandbits(32))))
        if dice.random() < 0.2:
            q.read32(BAR0 + dice.randrange(0, 0x20000, 4))
    device.reset_function()
    device.enable()
    box = Mailbox(q, BAR0)
    box.open()
    assert list(words(box.version().body)) == [1, 1]


def test_random_configuration_writes_do_no_lasting_harm(q: QTest, device: Pci) -> None:
    dice = random.Random(8086)
    for _ in range(600):
        size = dice.choice((1, 2, 4))
        device.put(dice.randrange(0, 0x100, size), dice.getrandbits(8 * size), size)
    q.system_reset()
    device.map_bar(0, BAR0)
    device.enable()
    box = Mailbox(q, BAR0)
    box.open()
    assert list(words(box.version().body)) == [1, 1]


@pytest.mark.parametrize("mode", DOORBELLS)
def test_a_killed_client_makes_room_for_the_next(
    backend: BackendProcess, cache: Path, folder: Path, mode: str
) -> None:
    descriptors = Path(f"/proc/{backend.pid}/fd")
    counts = []
    for _ in range(8):
        q = QTest(cache, vfio_user_device(folder / mode, addr=f"{SLOT}.0"))
        device = q.pci(SLOT)
        device.map_bar(0, BAR0)
        device.enable()
        box = Mailbox(q, BAR0)
        box.open()
        assert list(words(box.version().body)) == [1, 1]
        q.process.kill()
        q.close()
        counts.append(len(list(descriptors.iterdir())))
    wait_until(lambda: len(list(descriptors.iterdir())) <= min(counts), 5, "descriptors closed")


@pytest.mark.parametrize("mode", DOORBELLS)
def test_a_second_client_does_not_disturb_the_first(
    backend: BackendProcess, cache: Path, folder: Path, mode: str
) -> None:
    properties = {"addr": f"{SLOT}.0", "x_msg_timeout": 300}
    with QTest(cache, vfio_user_device(folder / mode, addr=f"{SLOT}.0")) as first:
        with pytest.raises(QTestError, match="QEMU ended"):
            QTest(cache, vfio_user_device(folder / mode, **properties))
        assert first.pci(SLOT).ids() == (0x8086, 0x1889)


def test_unshared_memory_is_named_with_the_option_that_cures_it(
    backend: BackendProcess, cache: Path, folder: Path
) -> None:
    with QTest(cache, vfio_user_device(folder / "mapped", addr=f"{SLOT}.0"), shared=False) as q:
        assert q.pci(SLOT).ids() == (0x8086, 0x1889)
    wait_until(lambda: "share=on" in backend.said(), 5, "a message about share=on")
