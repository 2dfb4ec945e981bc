"""Our driver against our device: real sockets, real messages, the real engine, in one process."""

import itertools
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from emuiavf._rxdid import Rxdid
from emuiavf.app import Backend
from emuiavf.guest._pmd import TxBits
from emuiavf.guest._traffic import Traffic
from emuiavf.guest.channel import RequestRefused
from emuiavf.guest.driver import VfDriver
from emuiavf.guest.frames import Frame, TxFrame
from emuiavf.guest.pair import Pair, flows_between
from emuiavf.guest.traffic import report
from emuiavf.vfio_user.client import Refused, close_fds, eventfds
from emuiavf.vfio_user.wire import Command, IrqIndex, RegionIndex

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03")
GROUP = "01:00:5e:00:00:05"
DEADLINE_S = 20.0


class Bench:
    """A backend with devices connected to each other, and the drivers on them."""

    def __init__(self, folder: Path, stack: ExitStack, count: int = 2, options: str = "") -> None:
        self.paths = [str(folder / f"{number}.sock") for number in range(count)]
        self.backend = stack.enter_context(Backend())
        names = [f"emu_iavf{number}" for number in range(count)]
        for name, path, mac in zip(names, self.paths, MACS, strict=False):
            self.backend.add_device(f"{name},path={path},mac={mac},queues=4{options}")
        self.backend.connect(*names)
        self.backend.start()
        self.rxdid = Rxdid.LEGACY
        self._stack = stack

    def driver(self, number: int, *, mapped: bool = True) -> VfDriver:
        return self._stack.enter_context(VfDriver(self.paths[number], map_doorbells=mapped))

    def pair(
        self, num_pairs: int = 1, ring_len: int = 256, rxdid: Rxdid | None = None
    ) -> tuple[VfDriver, VfDriver]:
        drivers = self.driver(0), self.driver(1)
        for driver in drivers:
            driver.start(num_pairs, ring_len=ring_len, rxdid=rxdid or self.rxdid)
        return drivers


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def bench(tmp_path: Path, stack: ExitStack) -> Bench:
    return Bench(tmp_path, stack)


# Each has a writeback loop of its own, the last stands for all others.
FORMATS = (Rxdid.LEGACY, Rxdid.FLEX_NIC, Rxdid.FLEX_OVS, Rxdid.FLEX_GENERIC)


@pytest.fixture(params=FORMATS, ids=lambda rxdid: rxdid.name)
def formats(bench: Bench, request: pytest.FixtureRequest) -> Bench:
    """The same with each format of received descriptors."""
    bench.rxdid = request.param
    return bench


def until(holds: Callable[[], bool]) -> bool:
    """Wait for a condition that another thread brings about; False at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0)
    return True


def receive(vf: VfDriver, count: int) -> list[Frame]:
    """Frames of all queues, until there are `count` or the deadline has passed."""
    frames: list[Frame] = []

    def enough() -> bool:
        for queue in vf.queues:
            frames.extend(queue.receive())
        return len(frames) >= count

    until(enough)
    return frames


def ends_clean(pair: Pair) -> bool:
    """Nothing of the traffic is missing, damaged or out of order when all of it has come."""
    assert pair.traffic.drain(DEADLINE_S)
    return all(one.clean for one in pair.reports(final=True))


def exchange(pair: Pair, frames: int = 200) -> None:
    """Run the traffic until every flow has received this many more."""

    def received() -> list[int]:
        return [pair.traffic.counters(flow)["received"] for flow in range(pair.num_flows)]

    def enough() -> bool:
        pair.run(0.01)
        return all(now >= then + frames for now, then in zip(received(), before, strict=True))

    before = received()
    assert until(enough)


def packet(src: int, dst: int | str, *layers: Packet, port: int = 1) -> Packet:
    """An Ethernet frame between two drivers, UDP unless layers are given."""
    built = Ether(src=MACS[src], dst=MACS[dst] if isinstance(dst, int) else dst)
    for layer in layers or (
        IP(src="10.0.0.1", dst="10.0.0.2"),
        UDP(sport=port, dport=9),
        Raw(b"x" * 40),
    ):
        built /= layer
    return built


def send_and_mark(sender: VfDriver, *frames: bytes | TxFrame, to: int = 1) -> None:
    """Send frames and behind them one that passes every filter: broadcast, recognisable."""
    marker = bytes(Ether(src=MACS[0], dst="ff:ff:ff:ff:ff:ff", type=0x88B5) / Raw(b"mark" * 12))
    assert sender.queues[0].send([*frames, marker]) == len(frames) + 1


def passed(receiver: VfDriver) -> list[bytes]:
    """The frames before the marker, which must arrive."""
    frames: list[bytes] = []

    def marked() -> bool:
        for queue in receiver.queues:
            frames.extend(frame.data for frame in queue.receive())
        return any(b"markmark" in frame for frame in frames)

    assert until(marked), "the marker has not arrived"
    return [frame for frame in frames if b"markmark" not in frame]


# Bring-up


def test_probe_finds_the_resources(bench: Bench) -> None:
    vf = bench.driver(0)

    assert vf.mac == bytes.fromhex(MACS[0].replace(":", ""))
    assert vf.resources.num_queue_pairs == 4
    assert vf.resources.max_vectors == 17
    assert vf.doorbells_mapped


def test_link_comes_up_with_the_queues(bench: Bench) -> None:
    vf = bench.driver(0)
    vf.start()

    assert vf.channel.wait_link()
    assert vf.link.speed >= 1000


def test_formats_of_received_descriptors_are_told(bench: Bench) -> None:
    vf = bench.driver(0)

    assert vf.supported_rxdids() == {1, 2, 16, 17, 18, 19, 20, 21, 22, 25}


def test_stop_and_start_again(bench: Bench) -> None:
    first, second = bench.pair()
    for vf in (first, second):
        vf.stop()
        vf.start(2, ring_len=64)

    first.queues[0].send([bytes(packet(0, 1))])

    assert len(receive(second, 1)) == 1


def test_refused_request_names_opcode_and_status(bench: Bench) -> None:
    vf = bench.driver(0)

    with pytest.raises(RequestRefused, match="ADD_VLAN_V2: refused with ERR_PARAM"):
        vf.settings.add_vlans(5000)


def test_more_queue_pairs_are_requested(bench: Bench) -> None:
    vf = bench.driver(0)
    vf.start(8, ring_len=64)

    assert vf.resources.num_queue_pairs == 8
    assert len(vf.queues) == 8


def test_more_queue_pairs_than_there_are_is_refused(bench: Bench) -> None:
    vf = bench.driver(0)

    with pytest.raises(RequestRefused, match="REQUEST_QUEUES"):
        vf.request_queues(99)


# Traffic


@pytest.mark.parametrize("size", [64, 65, 127, 128, 129, 1518, 2047, 2049, 9000])
@pytest.mark.trap(23)
def test_traffic_both_ways_is_clean(formats: Bench, size: int) -> None:
    pair = Pair(*formats.pair(), size=size)

    exchange(pair)

    assert ends_clean(pair)


def test_traffic_of_mixed_sizes_is_clean(formats: Bench) -> None:
    first, second = formats.pair()
    flows = flows_between(first, second, 64, 9000) + flows_between(second, first, 64, 9000)
    traffic = Traffic(flows)

    def enough() -> bool:
        traffic.run(0.01)
        return min(traffic.counters(flow)["received"] for flow in (0, 1)) >= 500

    assert until(enough)
    assert traffic.drain(DEADLINE_S)
    assert report(traffic, [0], 1).clean
    assert report(traffic, [1], 1).clean


def test_every_rx_queue_gets_its_flow(formats: Bench) -> None:
    pair = Pair(*formats.pair(num_pairs=4))

    exchange(pair)

    assert pair.traffic.drain(DEADLINE_S)
    assert [one.misdirected for one in pair.reports(final=True)] == [0, 0]


def test_device_connected_to_itself_loops_back(tmp_path: Path, stack: ExitStack) -> None:
    bench = Bench(tmp_path, stack, count=1)
    vf = bench.driver(0)
    vf.start()
    pair = Pair(vf, vf)

    exchange(pair)

    assert pair.traffic.drain(DEADLINE_S)
    assert pair.reports(final=True)[0].clean


@pytest.mark.parametrize("options", ["", ",doorbell=trap"])
def test_traffic_with_doorbells_as_messages(tmp_path: Path, stack: ExitStack, options: str) -> None:
    bench = Bench(tmp_path, stack, options=options)
    drivers = bench.driver(0, mapped=False), bench.driver(1, mapped=False)
    for driver in drivers:
        driver.start(ring_len=128)
    pair = Pair(*drivers)

    exchange(pair)

    assert ends_clean(pair)


def test_frames_without_room_are_dropped_and_counted(bench: Bench) -> None:
    first, second = bench.pair(ring_len=64)
    frames = [bytes(packet(0, 1, port=port)) for port in range(1, 101)]

    sent = first.queues[0].send(frames)
    assert until(lambda: first.queues[0].tx.idle)
    sent += first.queues[0].send(frames[sent:])
    assert until(lambda: first.queues[0].tx.idle)

    assert sent == 100
    assert len(receive(second, 63)) == 63
    assert second.stats().rx_discards == 37
    assert second.stats().rx_unicast == 100


# Statistics


def test_counters_of_both_ends_agree(bench: Bench) -> None:
    first, second = bench.pair()
    sizes = random.Random(3).choices(range(60, 1500), k=50)
    to_both = itertools.cycle([MACS[1], "ff:ff:ff:ff:ff:ff"])
    frames = [
        bytes(packet(0, dst))[:42] + bytes(size - 42)
        for size, dst in zip(sizes, to_both, strict=False)
    ]

    first.queues[0].send(frames)
    assert len(receive(second, 50)) == 50

    sent, got = first.stats(), second.stats()
    assert (sent.tx_unicast, sent.tx_broadcast, sent.tx_bytes) == (25, 25, sum(sizes))
    assert (got.rx_unicast, got.rx_broadcast, got.rx_bytes) == (25, 25, sum(sizes) + 4 * 50)
    assert (sent.tx_errors, sent.tx_discards, got.rx_discards) == (0, 0, 0)


@pytest.mark.trap(33)
def test_counters_after_traffic_are_the_frames_of_the_generator(bench: Bench) -> None:
    first, second = bench.pair(num_pairs=2)
    pair = Pair(first, second, size=200)
    exchange(pair)
    assert pair.traffic.drain(DEADLINE_S)
    forth, back = pair.reports(final=True)

    ours, theirs = first.stats(), second.stats()

    assert (ours.tx_unicast, theirs.rx_unicast) == (forth.sent, forth.received)
    assert (theirs.tx_unicast, ours.rx_unicast) == (back.sent, back.received)
    assert (ours.tx_bytes, theirs.rx_bytes) == (200 * forth.sent, 204 * forth.received)
    assert (ours.rx_discards, theirs.rx_discards) == (0, 0)


# Filters


def test_foreign_unicast_passes_only_in_promiscuous_mode(bench: Bench) -> None:
    first, second = bench.pair()
    foreign = bytes(packet(0, "02:00:00:00:00:99"))

    send_and_mark(first, foreign)
    assert passed(second) == []

    second.settings.set_promiscuous(unicast=True, multicast=False)
    send_and_mark(first, foreign)
    assert passed(second) == [foreign]


def test_multicast_passes_when_the_group_was_added(bench: Bench) -> None:
    first, second = bench.pair()
    group = bytes(packet(0, GROUP))

    send_and_mark(first, group)
    assert passed(second) == []

    second.settings.add_macs(bytes.fromhex(GROUP.replace(":", "")))
    send_and_mark(first, group)
    assert passed(second) == [group]

    second.settings.remove_macs(bytes.fromhex(GROUP.replace(":", "")))
    send_and_mark(first, group)
    assert passed(second) == []


def test_multicast_promiscuous_passes_every_group(bench: Bench) -> None:
    first, second = bench.pair()
    second.settings.set_promiscuous(unicast=False, multicast=True)
    group = bytes(packet(0, GROUP))

    send_and_mark(first, group)

    assert passed(second) == [group]


def test_switch_delivers_to_the_owner_of_the_address(tmp_path: Path, stack: ExitStack) -> None:
    bench = Bench(tmp_path, stack, count=3)
    vfs = [bench.driver(number) for number in range(3)]
    for vf in vfs:
        vf.start(ring_len=64)
    unicast = bytes(packet(0, 2))

    send_and_mark(vfs[0], unicast)

    assert passed(vfs[2]) == [unicast]
    assert passed(vfs[1]) == []


# VLAN


def tagged(vlan: int, dst: int = 1) -> bytes:
    return bytes(packet(0, dst, Dot1Q(vlan=vlan, prio=3), IP(), UDP(), Raw(b"y" * 40)))


def test_vlan_filter_ends_the_reception_of_other_vlans(bench: Bench) -> None:
    first, second = bench.pair()
    second.settings.add_vlans(100)

    send_and_mark(first, tagged(100), tagged(200), bytes(packet(0, 1)))

    assert passed(second) == [tagged(100), bytes(packet(0, 1))]


def test_stripped_tag_is_in_the_descriptor(formats: Bench) -> None:
    first, second = formats.pair()
    second.settings.set_vlan_strip(True)

    first.queues[0].send([tagged(100)])

    frame = receive(second, 1)[0]
    assert frame.vlan_tci == 0x6064
    assert frame.data == tagged(100)[:12] + tagged(100)[16:]


def test_inserted_tag_is_in_the_frame(bench: Bench) -> None:
    first, second = bench.pair()
    first.settings.set_vlan_insert(True)
    plain = tagged(100)[:12] + tagged(100)[16:]

    first.queues[0].send([TxFrame(plain, vlan_tci=0x6064)])

    frame = receive(second, 1)[0]
    assert frame.vlan_tci is None
    assert frame.data == tagged(100)


def test_tag_in_the_descriptors_of_both_ends(formats: Bench) -> None:
    first, second = formats.pair()
    first.settings.set_vlan_insert(True)
    second.settings.set_vlan_strip(True)

    first.queues[0].send([TxFrame(bytes(packet(0, 1)), vlan_tci=5)])

    frame = receive(second, 1)[0]
    assert (frame.vlan_tci, frame.data) == (5, bytes(packet(0, 1)))


# Offloads

V4, V6 = IP(src="10.0.0.1", dst="10.0.0.2", id=7), IPv6(src="fd00::1", dst="fd00::2")


def reckoned(data: bytes) -> bytes:
    """The same frame with every checksum computed by scapy."""
    built = Ether(data)
    for layer in (IP, TCP, UDP):
        if layer in built:
            del built[layer].chksum
    return bytes(built)


@pytest.mark.parametrize("network", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("transport", [TCP(sport=3, dport=4), UDP(sport=3, dport=4)], ids=repr)
@pytest.mark.parametrize("payload", [0, 1, 33, 150, 1401])
def test_requested_checksums_are_what_scapy_computes(
    bench: Bench, network: Packet, transport: Packet, payload: int
) -> None:
    first, second = bench.pair()
    data = random.Random(payload).randbytes(payload)
    whole = bytes(packet(0, 1, network, transport, Raw(data)))

    first.queues[0].send([TxFrame.offloaded(whole)])

    frame = receive(second, 1)[0]
    assert frame.data == reckoned(whole) == whole
    assert frame.checksums_good


def test_wrong_checksums_are_marked(formats: Bench) -> None:
    first, second = formats.pair()
    good = bytes(packet(0, 1, V4, UDP(sport=3, dport=4), Raw(b"z" * 300)))
    bad_payload = good[:-1] + b"\0"
    bad_header = good[:22] + b"\x01" + good[23:]

    first.queues[0].send([good, bad_payload, bad_header])

    frames = receive(second, 3)
    assert [frame.checksums_good for frame in frames] == [True, False, False]
    assert [frame.error >> 3 & 3 for frame in frames] == [0, 2, 1]


@pytest.mark.parametrize("network", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("mss", [100, 1448])
def test_segmented_tcp_is_the_same_stream_in_valid_packets(
    bench: Bench, network: Packet, mss: int
) -> None:
    first, second = bench.pair()
    stream = random.Random(mss).randbytes(20_000)
    transport = TCP(sport=3, dport=4, seq=1000, flags="PA")
    whole = bytes(packet(0, 1, network, transport) / Raw(stream))
    count = -(-len(stream) // mss)

    first.queues[0].send([TxFrame.offloaded(whole, mss=mss)])

    frames = [frame.data for frame in receive(second, count)]
    packets = [Ether(frame) for frame in frames]
    assert [reckoned(frame) for frame in frames] == frames
    assert b"".join(bytes(one[TCP].payload) for one in packets) == stream
    assert [one[TCP].seq for one in packets] == [1000 + mss * i for i in range(count)]
    assert [str(one[TCP].flags) for one in packets] == ["A"] * (count - 1) + ["PA"]


def test_hash_and_packet_type_are_reported(formats: Bench) -> None:
    first, second = formats.pair()

    first.queues[0].send([bytes(packet(0, 1, V4, UDP(sport=3, dport=4), Raw(b"q" * 20)))])

    frame = receive(second, 1)[0]
    assert frame.ptype == 24
    assert frame.rss_hash is not None


# Interrupts


def test_interrupt_announces_a_frame(bench: Bench) -> None:
    first, second = bench.driver(0), bench.driver(1)
    first.start(ring_len=64)
    second.start(2, ring_len=64, interrupts=True)

    first.queues[0].send([bytes(packet(0, 1))])

    queues = second.wait([0, 1], DEADLINE_S)
    assert len(queues) == 1
    assert len(second.queues[queues[0]].receive()) == 1


def test_no_frame_no_interrupt(bench: Bench) -> None:
    vf = bench.driver(0)
    vf.start(ring_len=64, interrupts=True)

    assert vf.wait([0], 0.05) == []


# Resets


@pytest.mark.parametrize("how", ["reset", "function_reset"])
def test_reset_under_traffic_leaves_a_working_vf(bench: Bench, how: str) -> None:
    first, second = bench.pair(num_pairs=2)
    pair = Pair(first, second)
    exchange(pair)
    for vf in (first, second, first):
        getattr(vf, how)()
        # What was under way to or from the VF is gone, what was counted lost before is not.
        pair.traffic.drain(0.05)
        pair.traffic.resync()
        exchange(pair)
    pair.traffic.drain(DEADLINE_S)

    fresh = Pair(first, second)
    exchange(fresh)

    assert ends_clean(fresh)


@pytest.mark.vfio_user("12.21.8")
def test_every_command_is_answered_under_traffic(bench: Bench) -> None:
    """The client's deadline for each answer is 5 s; traffic goes on in another thread meanwhile."""
    first, second = bench.pair(num_pairs=2)
    pair = Pair(first, second)
    exchange(pair)
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            pair.run(0.01)

    traffic = threading.Thread(target=run)
    traffic.start()
    client, spare = second.client, 1 << 40
    last = client.irq_info(IrqIndex.MSIX).count - 1
    memory, events = os.memfd_create("more"), eventfds(1)
    os.ftruncate(memory, 1 << 20)
    try:
        for _ in range(20):
            assert client.device_info().num_regions == 9
            assert client.region_info(RegionIndex.CONFIG).size == 4096
            client.request(Command.DEVICE_GET_REGION_IO_FDS, struct.pack("<IIII", 16, 0, 0, 0))
            client.dma_map(spare, 1 << 20, memory)
            client.dma_unmap(spare, 1 << 20)
            client.set_eventfds(events, last)
            client.trigger_irqs(1, last)
            client.clear_eventfds(1, last)
            assert os.eventfd_read(events[0]) == 1
            client.region_write(RegionIndex.CONFIG, 0x3C, b"\x55")
            assert client.region_read(RegionIndex.CONFIG, 0x3C, 1) == b"\x55"
            with pytest.raises(Refused):
                client.request(Command.DEVICE_FEATURE, bytes(8))
    finally:
        done.set()
        traffic.join()
        close_fds([memory, *events])
    assert ends_clean(pair)
    client.reset()


def test_settings_survive_a_reset(formats: Bench) -> None:
    first, second = formats.pair()
    second.settings.add_vlans(100)
    second.settings.set_vlan_strip(True)
    second.settings.set_promiscuous(unicast=True, multicast=True)
    second.settings.set_promiscuous(unicast=False, multicast=True)

    second.reset()
    send_and_mark(first, tagged(100), tagged(200), bytes(packet(0, GROUP)))

    assert passed(second) == [tagged(100)[:12] + tagged(100)[16:], bytes(packet(0, GROUP))]


def test_bus_master_off_stops_traffic_and_on_lets_it_go_on(bench: Bench) -> None:
    first, second = bench.pair()
    first.set_bus_master(False)
    first.queues[0].send([bytes(packet(0, 1))])
    assert not first.queues[0].tx.idle

    first.set_bus_master(True)

    assert len(receive(second, 1)) == 1


def test_driver_that_left_is_followed_by_the_next(bench: Bench) -> None:
    second = bench.driver(1)
    second.start(ring_len=256)
    for _ in range(3):
        with VfDriver(bench.paths[0]) as first:
            first.start(ring_len=256)
            pair = Pair(first, second)
            exchange(pair)
            assert ends_clean(pair)


@pytest.mark.vfio_user("12.2.8")
def test_driver_that_left_under_traffic_is_followed_by_the_next(bench: Bench) -> None:
    second = bench.driver(1)
    second.start(ring_len=256)
    with VfDriver(bench.paths[0]) as first:
        first.start(ring_len=256)
        Pair(first, second).run(0.02)
    # Empty rings: what was under way when the first one left may have arrived or not.
    second.reset()

    with VfDriver(bench.paths[0]) as first:
        first.start(ring_len=256)
        pair = Pair(first, second)
        exchange(pair)

        assert ends_clean(pair)


# Memory


def test_bad_address_stops_the_queue_and_a_reset_cures_it(bench: Bench) -> None:
    first, second = bench.pair()
    tx = first.queues[0].tx
    tx.put_raw(0xDEAD_0000_0000, TxBits.TX_EOP | TxBits.TX_RS | 64 << TxBits.TX_BUFSZ_SHIFT)
    tx.ring_doorbell()
    # Column 8 counts malicious-driver events in the rows of Tx queues.
    assert until(lambda: bench.backend.counters["emu_iavf0"][:, 8].sum() == 1)

    first.reset()
    first.queues[0].send([bytes(packet(0, 1))])

    assert len(receive(second, 1)) == 1


def test_memory_taken_away_and_given_back_serves_after_a_reset(bench: Bench) -> None:
    first, second = bench.pair()
    memory = first.memory
    assert memory is not None
    first.client.dma_unmap(memory.iova, memory.size)

    first.client.dma_map(memory.iova, memory.size, memory.fd)
    first.function_reset()
    first.queues[0].send([bytes(packet(0, 1))])

    assert len(receive(second, 1)) == 1


def test_unmapping_what_is_not_mapped_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused):
        bench.driver(0).client.dma_unmap(0x5000_0000_0000, 4096)
