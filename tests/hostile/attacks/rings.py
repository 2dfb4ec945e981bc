"""Descriptor rings: what stops a queue, what only costs the frame, and what is not laid down."""

import struct
from collections.abc import Sequence

from emuiavf.emudev.info import DmaProt
from emuiavf.iavf import regs
from emuiavf.virtchnl.ops import Op, Status
from tests.hostile.attacks import Target, attack
from tests.hostile.backend import wait_for
from tests.hostile.intruder import (
    ELSEWHERE,
    EOP,
    MALICIOUS,
    NOWHERE,
    RAM_SIZE,
    RING_LEN,
    RS,
    RX_BAD_ADDRESS,
    RX_PACKETS,
    TX_BUFFERS,
    TX_ERRORS,
    TX_PACKETS,
    TX_RING,
    Intruder,
    Queue,
)

TOP = (1 << 64) - 1
LAST = EOP | RS


def data(address: int, length: int, bits: int = LAST) -> tuple[int, int]:
    return address, bits | length << 34


# Descriptors that stop a Tx queue.
STOPPING: dict[str, Sequence[tuple[int, int]]] = {
    "address nowhere": [data(NOWHERE, 64)],
    "address at the top": [data(TOP, 64)],
    "address wraps": [data(TOP - 31, 64)],
    "address of another half": [data(1 << 63, 64)],
    "end beyond the map": [data(RAM_SIZE - 32, 64)],
    "write-only memory": [data(ELSEWHERE, 64)],
    "second buffer nowhere": [data(TX_BUFFERS, 64, 0), data(NOWHERE, 64)],
    "third buffer of no length": [data(TX_BUFFERS, 64, 0)] * 2 + [data(TX_BUFFERS, 0)],
    "no length": [data(TX_BUFFERS, 0)],
    "context twice": [(0, 1), (0, 1), data(TX_BUFFERS, 64)],
    "context inside a frame": [data(TX_BUFFERS, 64, 0), (0, 1), data(TX_BUFFERS, 64)],
    "larger than any TSO": [data(TX_BUFFERS, 0x3FFF, 0)] * 20 + [data(TX_BUFFERS, 64)],
    "no end in the whole ring": [data(TX_BUFFERS, 64, 0)] * (RING_LEN - 1),
    "only contexts": [(0, 1)] * (RING_LEN - 1),
} | {f"type {kind}": [data(TX_BUFFERS, 64, LAST | kind)] for kind in range(2, 16)}

# Requests that cannot be met: the frame is dropped and counted, the queue goes on.
TSO = 0x10 << 0


def context(mss: int, length: int = 0) -> tuple[int, int]:
    return 0, 1 | TSO | length << 30 | mss << 50


def offload(
    length: int, iipt: int = 2, l4: int = 1, l2_len: int = 14, l3_len: int = 20, l4_len: int = 20
) -> tuple[int, int]:
    lengths = (l2_len // 2) << 16 | (l3_len // 4) << 23 | (l4_len // 4) << 30
    return TX_BUFFERS, LAST | iipt << 9 | l4 << 12 | lengths | length << 34


DROPPED: dict[str, Sequence[tuple[int, int]]] = {
    "a byte": [data(TX_BUFFERS, 1)],
    "thirteen bytes": [data(TX_BUFFERS, 13)],
    "longer than any frame": [data(TX_BUFFERS, 9729)],
    "TSO without a size": [context(0), offload(1000)],
    "TSO without a protocol": [context(1000), offload(1000, l4=0)],
    "TSO of what is no IP": [context(1000), offload(1000, l2_len=126, l3_len=0)],
    "TSO beyond the head": [context(1000), offload(1000, l2_len=126, l3_len=508, l4_len=60)],
    "checksum of the wrong protocol": [offload(1000, l4=2)],
    "checksum beyond the frame": [offload(60, l2_len=126)],
    "headers of no length": [offload(1000, l2_len=0, l3_len=0, l4_len=0)],
    "IPv4 checksum of IPv6": [offload(1000, iipt=3, l3_len=40)],
    "TSO with a header as long as the frame": [context(1), offload(54)],
}


def strike(guest: Intruder, descriptors: Sequence[tuple[int, int]]) -> None:
    """The queue is stopped, reported, moves nothing more, and a VF reset cures it."""
    before, errors = guest.counter("tx-0", MALICIOUS), guest.counter("tx-0", TX_ERRORS)
    guest.describe(*descriptors)
    wait_for("the stop of the queue", lambda: guest.counter("tx-0", MALICIOUS) > before)
    packets = guest.counter("tx-0", TX_PACKETS)
    guest.send()
    guest.reset_vf()
    assert guest.counter("tx-0", TX_PACKETS) == packets
    assert guest.counter("tx-0", MALICIOUS) == before + 1
    assert guest.counter("tx-0", TX_ERRORS) == errors + 1
    guest.start()
    guest.carry()


@attack
def descriptors_that_stop_the_queue(target: Target) -> None:
    with target.intruder() as guest:
        guest.map(ELSEWHERE, 0x1000, prot=DmaProt.WRITE)
        guest.negotiate()
        guest.start()
        guest.carry()
        for descriptors in STOPPING.values():
            strike(guest, descriptors)


@attack
def requests_that_cost_only_the_frame(target: Target) -> None:
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        for name, descriptors in DROPPED.items():
            before = guest.counter("tx-0", TX_ERRORS)
            guest.ram.write(TX_BUFFERS, tcp_frame(guest))
            guest.describe(*descriptors)
            wait_for(f"{name}: an error", lambda n=before: guest.counter("tx-0", TX_ERRORS) > n)
            guest.carry()
            # Room in the Rx ring again: every buffer that was filled is posted once more.
            guest.reset_vf()
            guest.start()
        assert guest.counter("tx-0", TX_ERRORS) >= len(DROPPED)


def tcp_frame(guest: Intruder) -> bytes:
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 986, 0, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 0x50, 0, 0, 0, 0)
    return (guest.mac + guest.mac + b"\x08\x00" + ip + tcp).ljust(1000, b"\0")


@attack
def tails_out_of_range(target: Target) -> None:
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        for tail in (RING_LEN, RING_LEN + 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF):
            before = guest.counter("tx-0", MALICIOUS)
            guest.write32(regs.QTX_TAIL1.at(0), tail)
            wait_for("the stop", lambda n=before: guest.counter("tx-0", MALICIOUS) > n)
            guest.cure()
        for tail in (RING_LEN, 0xFFFF_FFFF):
            # No buffer is there: frames wait a moment, then are dropped.  A tail inside cures it.
            guest.write32(regs.QRX_TAIL1.at(0), tail)
            slot = guest.send()
            wait_for("the frame's end", lambda at=slot: guest.is_done(at))
            guest.write32(regs.QRX_TAIL1.at(0), RING_LEN - 1)
            guest.carry()
        # Tails of queues that are not there, of this VF or any.
        for queue in range(1, 256):
            guest.client.write32(0, regs.QTX_TAIL1.at(queue), 0xFFFF_FFFF, posted=True)
            guest.client.write32(0, regs.QRX_TAIL1.at(queue), 0xFFFF_FFFF, posted=True)
        guest.carry()


@attack
def receive_buffers_that_cannot_be_written(target: Target) -> None:
    """The frame counts as discarded, the queue stops and is reported, a VF reset cures it."""
    with target.intruder() as guest:
        guest.map(ELSEWHERE, 0x1000, prot=DmaProt.READ)
        guest.negotiate()
        guest.start()
        for address in (NOWHERE, TOP, TOP - 100, RAM_SIZE - 59, ELSEWHERE, 1 << 63):
            for size in (60, 200, 1500):
                guest.post_buffers(lambda slot, at=address: at)
                before = guest.counter("rx-0", RX_BAD_ADDRESS)
                slot = guest.send(size)
                wait_for("the discard", lambda n=before: guest.counter("rx-0", RX_BAD_ADDRESS) > n)
                wait_for("the completion", lambda at=slot: guest.is_done(at))
                guest.cure()


@attack
def ring_lengths_that_are_not_allowed(target: Target) -> None:
    with target.intruder() as guest:
        guest.negotiate()
        for length in (1, 8, 31, 33, 63, 100, 8161, 8192, 0x7FFF, 0xFFFF):
            assert guest.configure(Queue(tx_len=length)) == Status.ERR_PARAM
            assert guest.configure(Queue(rx_len=length)) == Status.ERR_PARAM
        for wrong in (
            Queue(rx_len=0x1_0040),
            Queue(rx_len=0xFFFF_FFE0),
            Queue(databuffer_size=1),
            Queue(databuffer_size=127),
            Queue(databuffer_size=16257),
            Queue(databuffer_size=0xFFFF_FFFF),
            Queue(max_pkt_size=0),
            Queue(max_pkt_size=63),
            Queue(max_pkt_size=9729),
            Queue(max_pkt_size=0xFFFF_FFFF),
            Queue(tx_vsi=0),
            Queue(rx_vsi=9),
            Queue(tx_id=4, rx_id=4),
            Queue(tx_id=0, rx_id=1),
            Queue(tx_id=0xFFFF, rx_id=0xFFFF),
            Queue(headwb=1),
        ):
            assert guest.configure(wrong) == Status.ERR_PARAM, wrong
        # Nothing of it was kept: there is no queue to be enabled.
        assert guest.enable() == Status.ERR_PARAM
        guest.start()
        guest.carry()


@attack
def rings_in_memory_that_is_not_there(target: Target) -> None:
    """Not mapped, read-only, beyond the end: refused when the queue is to start."""
    with target.intruder() as guest:
        guest.map(ELSEWHERE, 0x10000, prot=DmaProt.READ)
        guest.map(ELSEWHERE + 0x10_0000, 0x1000)
        guest.negotiate()
        for base in (
            NOWHERE,
            TOP,
            TOP - 0xFFF,
            1 << 63,
            RAM_SIZE - 64,
            ELSEWHERE,
            ELSEWHERE + 0x10_0000 + 0x1000 - 16,
        ):
            for queue in (Queue(tx_ring=base), Queue(rx_ring=base)):
                assert guest.configure(queue) in (0, Status.ERR_PARAM)
                assert guest.enable() == Status.ERR_PARAM, hex(base)
        guest.start()
        guest.carry()


@attack
def rings_taken_away_while_they_run(target: Target) -> None:
    """DMA_UNMAP of a ring, of buffers, of everything, under traffic."""
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        for _ in range(20):
            guest.send()
            guest.client.dma_unmap(0, RAM_SIZE)
            guest.client.write32(0, regs.QTX_TAIL1.at(0), (guest.slot + 1) % RING_LEN)
            guest.client.dma_map(0, RAM_SIZE, guest.ram.fd)
            guest.cure()


@attack
def rings_upon_each_other(target: Target) -> None:
    """Tx ring, Rx ring, buffers and admin queues in the same bytes: the device writes nonsense
    for itself to read.  The end is open, the device is not."""
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        for queue in (
            Queue(rx_ring=TX_RING),
            Queue(tx_ring=guest.driver.atq, rx_ring=guest.driver.arq),
            Queue(tx_ring=guest.driver.arq_buffers, rx_ring=guest.driver.arq_buffers + 8),
            Queue(tx_ring=TX_RING + 1, rx_ring=TX_RING + 3),
        ):
            guest.disable()
            guest.configure(queue)
            guest.write32(regs.QRX_TAIL1.at(0), RING_LEN - 1)
            guest.enable()
            for slot in range(RING_LEN):
                guest.ram.write(queue.tx_ring + slot * 16, struct.pack("<QQ", *data(TX_RING, 512)))
                guest.write32(regs.QTX_TAIL1.at(0), slot)
            guest.cure_by_reset()


@attack
def the_doorbells_as_guest_memory(target: Target) -> None:
    """The device's own pages, mapped back as DMA memory: frames are written over the tails."""
    with target.intruder() as guest:
        region = guest.client.region_info(0)
        assert region.fd is not None
        guest.client.dma_map(ELSEWHERE, 0x4000, region.fd, region.fd_offset)
        guest.negotiate()
        guest.start()
        for start in range(0, 0x4000, 0x200):
            guest.post_buffers(lambda slot, at=start: ELSEWHERE + at)
            guest.send(512)
            guest.describe(data(ELSEWHERE + start, 256))
            guest.reset_vf()
            guest.start()
        guest.carry()


@attack
def frames_that_wait_for_room(target: Target) -> None:
    """No Rx buffer is ever posted: each frame is held for its time only, the sibling never."""
    with target.intruder() as guest:
        guest.negotiate()
        assert guest.configure() == 0
        assert guest.enable() == 0
        guest.slot = 0
        for _ in range(100):
            slot = guest.send(1500)
            wait_for("the frame's end", lambda at=slot: guest.is_done(at))
        guest.cure()


@attack
def frames_of_every_shape(target: Target) -> None:
    """Chains of random pieces, random offload fields, random memory below: a thousand frames."""
    chance = target.random
    with target.intruder() as guest:
        guest.negotiate()
        guest.start()
        guest.ram.write(TX_BUFFERS, chance.randbytes(0x4000))
        for _ in range(1000):
            if chance.random() < 0.5:
                guest.ram.write(TX_BUFFERS, tcp_frame(guest)[: chance.randrange(14, 200)])
            descriptors = []
            if chance.random() < 0.4:
                descriptors.append(
                    (chance.getrandbits(64), 1 | chance.getrandbits(60) << 4)
                    if chance.random() < 0.5
                    else context(chance.choice((1, 8, 63, 64, 536, 1448, 9674, 16383)))
                )
            for _ in range(chance.choice((0, 0, 0, 1, 2, 9))):
                at = TX_BUFFERS + chance.randrange(64)
                descriptors.append(data(at, chance.randrange(1, 300), 0))
            last = chance.getrandbits(60) << 4 if chance.random() < 0.5 else 0
            lengths = 7 << 16 | 5 << 23 | 5 << 30
            fields = last or lengths | chance.randrange(4) << 9 | chance.randrange(4) << 12
            size = chance.choice((14, 60, 64, 127, 128, 129, 1000, 1514, 9728, 16000))
            fields = fields & ~(0x3FFF << 34) & ((1 << 64) - 1)
            descriptors.append((TX_BUFFERS, fields | LAST | size << 34))
            stopped = guest.counter("tx-0", MALICIOUS)
            slot = guest.slot + len(descriptors) - 1
            guest.describe(*descriptors)
            wait_for(
                "an end, good or bad",
                lambda at=slot % RING_LEN, n=stopped: (
                    guest.is_done(at) or guest.counter("tx-0", MALICIOUS) > n
                ),
            )
            guest.write32(regs.QRX_TAIL1.at(0), chance.randrange(RING_LEN))
            if guest.counter("tx-0", MALICIOUS) > stopped or chance.random() < 0.02:
                guest.reset_vf()
                guest.start()
        guest.cure()
        assert guest.counter("rx-0", RX_PACKETS) > 0
        assert guest.status(Op.GET_STATS, struct.pack("<HHII", 1, 0, 0, 0)) == 0
