"""Everything too often: resets of every kind, maps, registers; and chance as an attacker."""

import struct

from emuiavf.emudev.info import DmaProt
from emuiavf.errors import EmuIavfError
from emuiavf.iavf import regs
from emuiavf.vfio_user.channel import Refused
from emuiavf.vfio_user.wire import Command
from emuiavf.virtchnl.ops import Op
from tests.hostile.attacks import Target, attack
from tests.hostile.attacks.interrupts import MSIX, interrupted, set_irqs
from tests.hostile.intruder import (
    BAR0,
    CONFIG,
    ELSEWHERE,
    NOWHERE,
    RAM_SIZE,
    RING_LEN,
    RX_BUFFERS,
    RX_RING,
    TX_BUFFERS,
    TX_RING,
    Intruder,
    Queue,
    Ram,
)

FLR_AT = 0xA9
OPERATIONS = 20_000


@attack
def a_storm_of_resets(target: Target) -> None:
    """RESET_VF, FLR, DEVICE_RESET, REQUEST_QUEUES and bus-master in all orders, under traffic."""
    chance = target.random
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        for _ in range(150):
            guest.send()
            kind = chance.randrange(5)
            if kind == 0:
                guest.client.reset()
            elif kind == 1:
                guest.client.region_write(CONFIG, FLR_AT, b"\x80")
            elif kind == 2:
                guest.driver.send(Op.RESET_VF)
            elif kind == 3:
                guest.driver.send(Op.REQUEST_QUEUES, struct.pack("<H", chance.randrange(1, 5)))
            else:
                guest.client.region_write(CONFIG, 4, b"\x02\x00")
            guest.client.region_write(CONFIG, 4, b"\x06\x00")
            if chance.random() < 0.3:
                revive(guest)
        revive(guest)
        guest.carry()


def revive(guest: Intruder) -> None:
    """From any state to a running queue pair."""
    guest.client.reset()
    guest.client.region_write(CONFIG, 4, b"\x06\x00")
    guest.negotiate()
    guest.start()


@attack
def a_storm_of_maps(target: Target) -> None:
    """Map, unmap and remap under traffic; a thousand pages one by one; all of them at once."""
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        ram = Ram(1 << 22)
        for turn in range(300):
            guest.client.dma_map(ELSEWHERE, 1 << 22, ram.fd)
            if turn % 20 == 0:
                guest.carry()
                guest.write32(regs.QRX_TAIL1.at(0), (turn // 20 + RING_LEN - 1) % RING_LEN)
            guest.client.dma_unmap(ELSEWHERE, 1 << 22)
        for _ in range(3):
            pages = [
                guest.client.submit_dma_map(ELSEWHERE + n * 0x2000, 0x1000, ram.fd, n * 0x1000)
                for n in range(1000)
            ]
            for page in pages:
                page.wait()
            guest.client.dma_unmap(ELSEWHERE, 1 << 30)
        ram.close()
        guest.cure()


@attack
def maps_without_end(target: Target) -> None:
    """As many single pages as the device takes: it refuses more before the process has no room."""
    ram = Ram(1 << 22)
    with target.intruder() as guest:
        made = refused = 0
        for start in range(0, 70_000, 500):
            batch = [
                # Backwards in the file, so that the kernel cannot join them.
                guest.client.submit_dma_map(
                    ELSEWHERE + n * 0x1000, 0x1000, ram.fd, (1023 - n % 1024) * 0x1000
                )
                for n in range(start, start + 500)
            ]
            for pending in batch:
                try:
                    pending.wait()
                    made += 1
                except Refused:
                    refused += 1
            if refused:
                break
        assert refused, f"{made} maps were taken"
        # Others still have room: the test looks at the sibling and at this device again.
        guest.client.request(Command.DMA_UNMAP, struct.pack("<IIQQ", 24, 2, 0, 0))
    ram.close()


@attack
def chance(target: Target) -> None:
    """20,000 operations drawn by lot; only the transport's own errors are expected."""
    with target.intruder() as guest:
        guest.client.set_eventfds(guest.eventfds(17))
        interrupted(guest)
        guest.stack.callback(guest.client.close)
        extra = Ram(1 << 20)
        for _ in range(OPERATIONS):
            try:
                operate(guest, target, extra)
            except (Refused, EmuIavfError):
                continue
        extra.close()


EDGES = (0, 1, 31, 32, 63, 64, 0x3FF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
ADDRESSES = (
    0,
    TX_RING,
    RX_RING,
    TX_BUFFERS,
    RX_BUFFERS,
    RAM_SIZE - 64,
    RAM_SIZE,
    ELSEWHERE,
    NOWHERE,
    (1 << 63) - 1,
    (1 << 64) - 1,
    (1 << 64) - 64,
)
REGISTERS = sorted(register.offset for register in regs.REGISTERS.values())
STRUCTURED = (
    Op.CONFIG_VSI_QUEUES,
    Op.ENABLE_QUEUES,
    Op.DISABLE_QUEUES,
    Op.CONFIG_IRQ_MAP,
    Op.ENABLE_QUEUES_V2,
    Op.DISABLE_QUEUES_V2,
    Op.MAP_QUEUE_VECTOR,
    Op.CONFIG_RSS_LUT,
    Op.SET_RSS_HENA,
    Op.CONFIG_PROMISCUOUS_MODE,
    Op.ENABLE_VLAN_STRIPPING_V2,
    Op.REQUEST_QUEUES,
    Op.RESET_VF,
)


def operate(guest: Intruder, target: Target, extra: Ram) -> None:
    """One operation of `chance`."""
    lot = target.random
    kind = lot.randrange(100)
    if kind < 25:
        value = lot.choice(EDGES) if lot.random() < 0.5 else lot.getrandbits(32)
        guest.client.write32(BAR0, lot.choice(REGISTERS), value, posted=True)
    elif kind < 50:
        scribble(guest, target)
    elif kind < 60:
        guest.client.write32(BAR0, regs.QTX_TAIL1.at(0), lot.randrange(RING_LEN), posted=True)
        guest.client.write32(BAR0, regs.QRX_TAIL1.at(0), lot.randrange(RING_LEN), posted=True)
    elif kind < 75:
        op = lot.choice(STRUCTURED) if lot.random() < 0.7 else lot.randrange(120)
        queue = Queue(
            tx_ring=lot.choice(ADDRESSES),
            rx_ring=lot.choice(ADDRESSES),
            tx_len=lot.choice((32, 64, 512, 8160, 33)),
            rx_len=lot.choice((32, 64, 512, 8160, 33)),
            databuffer_size=lot.choice((0, 128, 2048, 16256)),
            max_pkt_size=lot.choice((64, 1534, 9728)),
        )
        body = queue.encode() if op == Op.CONFIG_VSI_QUEUES else lot.randbytes(lot.randrange(70))
        if op in (Op.ENABLE_QUEUES, Op.DISABLE_QUEUES):
            body = struct.pack("<HHII", 1, 0, lot.randrange(16), lot.randrange(16))
        elif op in (Op.ENABLE_QUEUES_V2, Op.DISABLE_QUEUES_V2):
            chunks = [(lot.randrange(2), lot.randrange(64), lot.randrange(1, 4)) for _ in range(3)]
            body = struct.pack("<HHHH", 1, 0, 3, 0) + b"".join(
                struct.pack("<iHH", *chunk) for chunk in chunks
            )
        elif op == Op.MAP_QUEUE_VECTOR:
            at = lot.randrange(64), lot.randrange(18), 0, lot.randrange(4), lot.randrange(2)
            body = struct.pack("<HHI", 1, 1, 0) + struct.pack("<HHIii", *at)
        guest.driver.send(op, body)
        receive_some(guest)
    elif kind < 80:
        guest.driver.open()
        guest.client.region_write(CONFIG, 4, b"\x06\x00", posted=True)
        guest.driver.send(Op.VERSION, struct.pack("<II", 1, 1))
        guest.driver.send(Op.GET_VF_RESOURCES, struct.pack("<I", lot.choice(EDGES)))
        receive_some(guest)
    elif kind < 85:
        iova = ELSEWHERE + lot.randrange(256) * 0x1000
        size = lot.randrange(1, 16) * 0x1000
        if lot.random() < 0.5:
            guest.client.dma_map(iova, size, extra.fd, 0, DmaProt(lot.randrange(4)))
        else:
            guest.client.dma_unmap(iova, size)
    elif kind < 87:
        guest.client.dma_unmap(0, RAM_SIZE)
        guest.client.dma_map(0, RAM_SIZE, guest.ram.fd)
    elif kind < 92:
        flags = lot.choice((0x21, 0x09, 0x11, 0x24))
        set_irqs(guest, flags, MSIX, lot.randrange(18), lot.randrange(4))
    elif kind < 96:
        at = lot.randrange(0xFF0)
        guest.client.region_write(CONFIG, at, lot.randbytes(lot.choice((1, 2, 4))), posted=True)
    elif kind < 98:
        guest.client.region_write(CONFIG, FLR_AT, b"\x80", posted=True)
    else:
        guest.client.request(lot.randrange(20), lot.randbytes(lot.randrange(64)))


def receive_some(guest: Intruder) -> None:
    """Take messages; ARQH may be anything, so "all" may have no end."""
    for _ in range(4):
        if guest.driver.receive() is None:
            return


def scribble(guest: Intruder, target: Target) -> None:
    """Nonsense, or nearly sense, into a ring."""
    lot = target.random
    slot = lot.randrange(RING_LEN)
    address = lot.choice(ADDRESSES) if lot.random() < 0.5 else TX_BUFFERS + lot.randrange(4096)
    if lot.random() < 0.3:
        guest.ram.write(RX_RING + slot * 32, struct.pack("<QQQQ", address, 0, 0, 0))
        return
    high = lot.getrandbits(64)
    if lot.random() < 0.7:
        high = 0x30 | lot.choice((0, 0, 0, 1, 2)) | lot.choice((0, 1, 60, 200, 1514, 9728)) << 34
    guest.ram.write(TX_RING + slot * 16, struct.pack("<QQ", address, high))
