"""The iavf rings, device side, against descriptors written byte by byte (tests/rings.py)."""

import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from emuiavf._ring import Vf
from emuiavf._rxdid import Rxdid
from emuiavf.datapath.engine import Engine
from emuiavf.emudev.info import RssConfig, RxFilter, RxQueueConfig, TxQueueConfig, VlanOffload
from emuiavf.errors import MemoryFault, StateError
from tests import rings
from tests.rings import DYN_CTLN, QRX_TAIL, SIZE, STALE, Driver, signalled
from tests.wire import joined

MAC_A, MAC_B = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
IIPT4_CSUM, L4T_TCP, L4T_UDP = 0x60, 0x100, 0x300


# Each has a writeback loop of its own, the last stands for all others.
FORMATS = (Rxdid.LEGACY, Rxdid.FLEX_NIC, Rxdid.FLEX_OVS, Rxdid.FLEX_GENERIC)


@pytest.fixture(params=FORMATS, autouse=True, ids="rxdid {}".format)
def rxdid(request, monkeypatch):
    """Every test with each format of the writeback."""
    monkeypatch.setattr(rings, "RXDID", request.param)
    return request.param


def payload(size):
    return bytes(i * 7 & 0xFF for i in range(size))


def frame(size):
    return bytes.fromhex("52540000000b 52540000000a 88b5") + payload(size - 14)


def rig(hold_s=10.0, tx=None, rx=None):
    engine = Engine(hold_s=hold_s)
    a, b = Driver("a", **(tx or {})), Driver("b", **(rx or {}))
    for driver in (a, b):
        driver.enable()
        engine.add(driver.vf)
    engine.connect(a.vf, b.vf)
    return engine, a, b


@pytest.mark.parametrize("size", [14, 60, 64, 127, 128, 129, 1514, 2048, 2049, 9000, 9728])
@pytest.mark.trap(24, 25, 31)
def test_put_frame_of_any_size_arrives_whole(size):
    engine, a, b = rig()
    b.post(63)
    slot = a.send(frame(size))
    engine.step()
    (got,) = b.receive()
    assert got.data == frame(size)
    assert got.buffers == -(-size // 2048)
    assert a.tx_done(slot)
    assert got.unused_are_clear


@pytest.mark.parametrize("size", [60, 8192, 9728])
@pytest.mark.parametrize("rxdid", [1, 2, 22])
@pytest.mark.trap(26)
def test_bits_above_the_length_are_clear(rxdid, size):
    engine, a, b = rig(rx={"rxdid": rxdid, "buffer_size": 9728})
    b.post(4)
    a.send(frame(size))
    engine.step()
    words = [b.qword(b.rx_ring[0] + at) for at in (0, 8)]
    (got,) = b.receive()
    assert len(got.data) == size
    # Legacy: 14 bits from bit 38 of qword 1; flexible: 14 from bit 32 of qword 0, the header's
    # length and its split behind them.
    assert (words[1] >> 38 if rxdid == 1 else words[0] >> 32) == size


@pytest.mark.trap(23)
def test_nothing_is_written_beyond_the_tail_or_the_end_of_a_ring():
    engine, a, b = rig(tx={"ring_len": 32}, rx={"ring_len": 32})
    around = bytes([STALE]) * 128
    rings = {a: (a.tx_ring[0], 32 * 16), b: (b.rx_ring[0], 32 * 32)}
    for driver, (_, size) in rings.items():
        # Other rings and buffers lie around these: they are moved to where nothing else is.
        moved = driver.take(size + 256) + 128
        driver.memory[moved - 128 : moved + size + 128] = around * (size // 128 + 2)
        rings[driver] = (moved, size)
    a.tx_ring[0], b.rx_ring[0] = rings[a][0], rings[b][0]
    a.configure_tx_anew(engine)
    b.vf.disable(1, 0)
    engine.publish()
    b.vf.configure_rx(RxQueueConfig(0, 32, b.rx_ring[0], 2048, 9728, writeback=b.rxdid))
    b.vf.enable(1, 0)
    engine.publish()
    b.post(20)
    for _ in range(19):
        a.send(frame(64))
    engine.step(3)
    assert len(b.receive()) == 19
    tx, rx = rings[a][0], rings[b][0]
    assert a.memory[tx + 19 * 16 : tx + 32 * 16] == bytes([STALE]) * 13 * 16
    assert b.memory[rx + 20 * 32 : rx + 32 * 32] == bytes([STALE]) * 12 * 32
    for _ in range(4):
        b.post(10)
        for _ in range(10):
            a.send(frame(64))
        engine.step(3)
        assert len(b.receive()) == 10
    for driver, (start, size) in rings.items():
        assert driver.memory[start - 128 : start] == around
        assert driver.memory[start + size : start + size + 128] == around


@pytest.mark.parametrize(
    "pieces", [[1, 63], [20, 20, 24], [128, 200], [100, 28, 1, 1000], [129, 1]]
)
def test_take_frame_in_several_buffers_is_joined(pieces):
    engine, a, b = rig()
    b.post(8)
    a.send(frame(sum(pieces)), pieces=pieces)
    engine.step()
    assert [f.data for f in b.receive()] == [frame(sum(pieces))]


@pytest.mark.trap(32)
def test_done_writes_back_only_where_rs_was_set():
    engine, a, b = rig()
    b.post(8)
    address = a.take(64)
    a.memory[address : address + 64] = frame(64)
    a.descriptors([(address, 0x10 | 64 << 34), (address, 0x30 | 64 << 34)])
    engine.step()
    assert not a.tx_done(0)
    assert a.tx_done(1)
    assert len(b.receive()) == 2


@pytest.mark.parametrize("ring_len", [32, 64, 96, 512])
def test_rings_wrap_without_a_mask(ring_len):
    engine, a, b = rig(tx={"ring_len": ring_len}, rx={"ring_len": ring_len})
    b.post(ring_len - 1)
    sent, got = [], []
    for number in range(3 * ring_len + 5):
        sent.append(frame(60 + number % 40))
        a.send(sent[-1])
        engine.step()
        got += [f.data for f in b.receive()]
        b.post(1)
    assert got == sent


def test_put_without_room_holds_and_keeps_the_frame():
    engine, a, b = rig()
    slot = a.send(frame(64))
    engine.step(3)
    assert not a.tx_done(slot)
    b.post(4)
    engine.step()
    assert a.tx_done(slot)
    assert [f.data for f in b.receive()] == [frame(64)]
    assert b.rows[0][4] == 0


def test_put_without_room_drops_after_the_hold():
    engine, a, b = rig(hold_s=0.0)
    slot = a.send(frame(64))
    engine.step(3)
    assert a.tx_done(slot)
    assert b.rows[0][4] == b.rows[0][7] == 1
    assert (b.rows[0][0], b.rows[0][1], b.rows[0][13]) == (68, 1, 68)


def test_put_into_disabled_queue_drops_at_once():
    engine, a, b = rig()
    b.vf.disable(1, 0)
    slot = a.send(frame(64))
    engine.step()
    assert a.tx_done(slot)
    assert b.rows[0][9] == 1


def test_put_too_long_for_the_queue_drops():
    engine, a, b = rig(rx={"max_pkt_size": 1518})
    b.post(8)
    a.send(frame(1519))
    a.send(frame(1518))
    engine.step()
    assert [f.data for f in b.receive()] == [frame(1518)]
    assert b.rows[0][8] == 1


@pytest.mark.parametrize("size", [13, 9729])
def test_take_frame_of_bad_size_is_an_error_of_its_sender(size):
    engine, a, b = rig()
    b.post(8)
    slot = a.send(b"x" * size)
    engine.step()
    assert a.tx_done(slot)
    assert b.receive() == []
    assert a.rows[1][5] == 1


def ip_frame(version, proto, size, csum=0):
    layer4 = {"tcp": TCP(sport=1, dport=2, flags="A", seq=9), "udp": UDP(sport=1, dport=2)}[proto]
    layer3 = IP(src="10.0.0.1", dst="10.0.0.2") if version == 4 else IPv6(src="fd::1", dst="fd::2")
    return Ether(src=MAC_A, dst=MAC_B) / layer3 / layer4 / Raw(payload(size))


def without_checksums(packet):
    """As a driver leaves it: the L4 field holds some seed, the IP field zero."""
    blank = packet.copy()
    if IP in blank:
        blank[IP].chksum = 0
    blank[TCP if TCP in blank else UDP].chksum = 0x1234
    # Lengths stay those of the whole packet.
    whole = bytes(packet)
    return whole, bytes(Ether(bytes(blank)))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("size", [0, 1, 30, 31, 60, 100, 1400, 1401, 8000])
def test_checksum_request_is_computed_with_the_copy(version, proto, size):
    engine, a, b = rig()
    b.post(16)
    packet = ip_frame(version, proto, size)
    expected, blank = without_checksums(packet)
    cmd = (L4T_TCP if proto == "tcp" else L4T_UDP) >> 0
    cmd |= IIPT4_CSUM if version == 4 else 0x20
    a.send(blank, cmd=cmd, lengths=(14, 20 if version == 4 else 40, 20 if proto == "tcp" else 8))
    engine.step()
    (got,) = b.receive()
    assert got.data == expected
    assert got.errors == 0


@pytest.mark.parametrize("size", [10, 500])
@pytest.mark.parametrize("where", ["ip", "l4", "none"])
@pytest.mark.trap(27)
def test_verdict_tells_a_wrong_checksum(size, where):
    engine, a, b = rig()
    b.post(4)
    data = bytearray(bytes(ip_frame(4, "udp", size)))
    if where == "ip":
        data[14 + 10] ^= 1
    if where == "l4":
        data[-1] ^= 1
    a.send(bytes(data))
    engine.step()
    (got,) = b.receive()
    assert got.errors == {"ip": 1 << 3, "l4": 1 << 4, "none": 0}[where]
    assert got.l3l4p
    assert got.ptype == 24


def segment(packet, mss):
    """What the receiver must see of a TSO request, by scapy."""
    data = bytes(packet[TCP].payload)
    out = []
    for number, at in enumerate(range(0, len(data), mss)):
        part = packet.copy()
        last = at + mss >= len(data)
        part[TCP].remove_payload()
        part[TCP].seq += at
        part[TCP].flags = packet[TCP].flags if last else packet[TCP].flags & ~0x09
        del part[TCP].chksum
        if IP in part:
            part[IP].id = (packet[IP].id + number) & 0xFFFF
            del part[IP].chksum, part[IP].len
        else:
            del part[IPv6].plen
        out.append(bytes(part / Raw(data[at : at + mss])))
    return out


def send_tso(driver, packet, mss, pieces=None):
    data = bytes(packet)
    size = len(packet[TCP].payload)
    context = (0, 1 | 0x10 | size << 30 | mss << 50)
    ip = 20 if IP in packet else 40
    cmd = L4T_TCP | (IIPT4_CSUM if ip == 20 else 0x20)
    return driver.send(data, pieces=pieces, cmd=cmd, lengths=(14, ip, 20), context=context)


def tso_packet(version, size):
    layer3 = (
        IP(src="10.0.0.1", dst="10.0.0.2", id=77)
        if version == 4
        else IPv6(src="fd00::1", dst="fd00::2")
    )
    tcp = TCP(sport=5, dport=6, seq=1000, ack=1, flags="PA")
    built = Ether(bytes(Ether(src=MAC_A, dst=MAC_B) / layer3 / tcp / Raw(payload(size))))
    if version == 4:
        built[IP].len = 0
        built[IP].chksum = 0
    return built


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("size", "mss"), [(3000, 1448), (2896, 1448), (64, 64), (9000, 333)])
def test_tso_is_cut_while_copying(version, size, mss):
    engine, a, b = rig()
    b.post(63)
    packet = tso_packet(version, size)
    send_tso(a, packet, mss, pieces=[54 if version == 4 else 74, size])
    engine.step()
    got = b.receive()
    assert [f.data for f in got] == segment(packet, mss)
    assert {f.errors for f in got} == {0}


def test_tso_larger_than_the_rx_ring_goes_on_where_it_stopped():
    engine, a, b = rig()
    packet = tso_packet(4, 60000)
    slot = send_tso(a, packet, 700, pieces=[54, *[12000] * 5])
    got = []
    for _ in range(8):
        assert not a.tx_done(slot)
        b.post(11)
        engine.step()
        got += [f.data for f in b.receive()]
    assert a.tx_done(slot)
    assert got == segment(packet, 700)
    assert a.rows[1][7] == len(got)
    assert a.rows[1][0] == sum(map(len, got))


def test_tso_request_that_cannot_be_is_dropped():
    engine, a, b = rig()
    b.post(8)
    packet = tso_packet(4, 100)
    a.send(
        bytes(packet),
        cmd=L4T_TCP | IIPT4_CSUM,
        lengths=(14, 20, 60),
        context=(0, 1 | 0x10 | 100 << 30 | 0 << 50),
    )
    engine.step()
    assert b.receive() == []
    assert a.rows[1][5] == 1


def test_vlan_tag_of_the_descriptor_is_inserted():
    engine, a, b = rig()
    b.post(4)
    a.send(frame(200), tag=0x6123)
    engine.step()
    (got,) = b.receive()
    assert got.data == frame(200)[:12] + bytes.fromhex("81006123") + frame(200)[12:]


@pytest.mark.parametrize("size", [20, 100, 130, 1500])
def test_vlan_tag_is_stripped_into_the_descriptor(size):
    engine, a, b = rig()
    b.vf.set_vlan(VlanOffload(strip=True))
    b.post(4)
    tagged = bytes(Ether(src=MAC_A, dst=MAC_B) / Dot1Q(vlan=5, prio=3, type=0x88B5)) + payload(size)
    a.send(tagged)
    a.send(frame(64))
    engine.step()
    first, second = b.receive()
    assert first.data == tagged[:12] + tagged[16:]
    assert first.l2tag1 == 3 << 13 | 5
    assert second.data == frame(64)
    assert second.l2tag1 is None


def test_filter_passes_own_address_broadcast_and_joined_groups():
    engine, a, b = rig()
    b.vf.set_filter(
        RxFilter(frozenset({bytes.fromhex("52540000000b"), bytes.fromhex("01005e000001")}))
    )
    b.post(16)
    for dst in ("52540000000b", "52540000000c", "01005e000001", "01005e000002", "ffffffffffff"):
        a.send(bytes.fromhex(dst) + frame(64)[6:])
    engine.step()
    assert [f.data[:6].hex() for f in b.receive()] == [
        "52540000000b",
        "01005e000001",
        "ffffffffffff",
    ]
    assert a.rows[1][12] == 2
    assert tuple(b.rows[0][1:4]) == (1, 1, 1)


def test_rss_spreads_flows_by_the_table():
    engine, a, b = rig(rx={"queues": 4})
    key = bytes.fromhex(
        "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
    ) + bytes(12)
    lut = bytes([0] * 2 + [3] * 62)
    b.vf.set_rss(RssConfig(key, lut, 1 << 31 | 1 << 33))
    for queue in range(4):
        b.post(8, queue)
    # The published check vectors: with ports 0x51ccc178 for this pair (TCP).
    packet = Ether(src=MAC_A, dst=MAC_B) / IP(src="66.9.149.187", dst="161.142.100.80")
    a.send(bytes(packet / TCP(sport=2794, dport=1766)))
    a.send(frame(64))
    engine.step()
    (hashed,) = b.receive(3)
    (plain,) = b.receive(0)
    assert hashed.hash == 0x51CCC178
    assert hashed.hashed
    assert plain.hash == 0
    assert not plain.hashed


def test_rss_hold_keeps_the_order_of_what_follows():
    engine, a, b = rig(rx={"queues": 2})
    key = bytes(range(52))
    b.vf.set_rss(RssConfig(key, bytes(i & 1 for i in range(64)), 1 << 31))
    packets = [
        bytes(
            Ether(src=MAC_A, dst=MAC_B) / IP(src="1.1.1.1", dst="2.2.2.2") / UDP(sport=i, dport=9)
        )
        for i in range(1, 30)
    ]
    b.post(60, 1)
    for data in packets:
        a.send(data)
    engine.step(2)
    held = len(b.receive(1))
    b.post(60, 0)
    engine.step(2)
    assert held + len(b.receive(1)) + len(b.receive(0)) == len(packets)
    assert b.rows[:2, 4].sum() == 0


def test_frame_for_no_queue_behind_a_held_one_counts_once():
    engine, a, b = rig(rx={"queues": 2})
    b.vf.set_rss(RssConfig(bytes(range(52)), bytes([1] * 64), 1 << 31))
    b.vf.disable(1, 0)
    engine.publish()
    packet = Ether(src=MAC_A, dst=MAC_B) / IP(src="1.1.1.1", dst="2.2.2.2") / UDP(dport=9)
    a.send(frame(64))
    a.send(bytes(packet))
    a.send(frame(64))
    engine.step(5)
    assert b.rows[0][9] == 1
    b.post(1, 1)
    engine.step(5)
    assert [got.data for got in b.receive(1)] == [bytes(packet)]
    assert b.rows[0][9] == 2


def test_interrupt_needs_arming_and_fires_once():
    engine, a, b = rig()
    event = b.vector()
    b.post(16)
    a.send(frame(64))
    engine.step()
    assert signalled(event) == 0
    b.arm()
    engine.step()
    assert signalled(event) == 1
    a.send(frame(64))
    engine.step()
    assert signalled(event) == 0
    assert struct.unpack_from("<I", b.doorbells, DYN_CTLN)[0] & 1 == 0


@pytest.mark.trap(29)
def test_interrupt_event_while_disarmed_fires_on_rearm():
    engine, a, b = rig()
    event = b.vector()
    b.post(16)
    for _ in range(3):
        a.send(frame(64))
    engine.step(3)
    b.arm()
    engine.step()
    assert signalled(event) == 1


@pytest.mark.trap(30)
def test_interrupt_software_trigger_fires():
    engine, _a, b = rig()
    event = b.vector()
    b.vf.write_dyn_ctl(1, 0x1 | 0x4 | 0x18)
    assert signalled(event) == 1
    b.arm(value=0x1 | 0x4 | 0x18)
    deadline = 200
    while signalled(event) == 0:
        engine.step(1000)
        deadline -= 1
        assert deadline


def test_trigger_of_a_vector_without_an_eventfd_is_forgotten():
    """Also when a worker looks at all vectors later, as another one has something to announce."""
    engine, _a, b = rig()
    event = b.vector()
    b.vf.set_eventfd(1, -1)
    b.vf.write_dyn_ctl(1, 0x1 | 0x4 | 0x18)
    b.vf.set_eventfd(1, event)
    other = b.vector(0, rx=0, tx=0)
    b.vf.raise_vector(0)
    engine.step(3)
    assert (signalled(event), signalled(other)) == (0, 0)
    b.vf.write_dyn_ctl(0, 0x19)
    engine.step(3)
    assert (signalled(event), signalled(other)) == (0, 1)


def test_interrupt_waits_for_its_interval():
    engine, a, b = rig()
    event = b.vector()
    b.vf.write_itr(0, 1, 0xFF0)
    b.post(32)
    a.send(frame(64))
    b.arm()
    engine.step()
    assert signalled(event) == 1
    a.send(frame(64))
    b.arm()
    engine.step()
    assert signalled(event) == 0
    deadline = 100_000
    while signalled(event) == 0:
        engine.step(100)
        deadline -= 1
        assert deadline


def test_interrupt_after_transmit_completion():
    engine, a, b = rig()
    event = a.vector()
    a.arm()
    b.post(4)
    a.send(frame(64))
    engine.step()
    assert signalled(event) == 1


def test_interrupt_intena_mask_leaves_the_state():
    _engine, _a, b = rig()
    b.vf.write_dyn_ctl(1, 0x19)
    b.vf.write_dyn_ctl(1, 0x80000018)
    assert b.vf.read_dyn_ctl(1) & 1 == 1


TX_FAULTS = {
    "tail beyond the ring": lambda d: d.tail(0, d.ring_len),
    "unknown descriptor type": lambda d: d.descriptors([(0x1000, 8 | 0x30 | 64 << 34)]),
    "bad buffer length": lambda d: d.descriptors([(0x1000, 0x30)]),
    "buffer address is not mapped": lambda d: d.descriptors([(1 << 40, 0x30 | 64 << 34)]),
    "descriptor chain without an end": lambda d: d.descriptors([(0x1000, 64 << 34)] * 63),
}


@pytest.mark.parametrize("reason", TX_FAULTS)
def test_malformed_transmit_stops_the_queue_until_it_is_configured(reason):
    engine, a, b = rig()
    b.post(16)
    TX_FAULTS[reason](a)
    engine.step(2)
    assert signalled(a.fault_fd) == 1
    assert a.vf.take_faults() == [("tx", 0, reason)]
    assert a.vf.take_faults() == []
    assert a.rows[1][8] == 1
    assert b.receive() == []
    a.configure_tx_anew(engine)
    a.send(frame(64))
    engine.step()
    assert [f.data for f in b.receive()] == [frame(64)]


@pytest.mark.trap(22)
def test_frame_rung_between_reset_and_configuration_is_sent():
    """iavf of 6.1 sends as soon as its reset task is through, before it configures the queues."""
    engine, a, b = rig()
    b.post(4)
    a.vf.disable(1, 1)
    engine.publish()
    a.vf.forget()
    a.send(frame(64))
    a.vf.configure_tx(TxQueueConfig(0, a.ring_len, a.tx_ring[0]))
    a.vf.enable(0, 1)
    engine.publish()
    engine.step()
    assert [f.data for f in b.receive()] == [frame(64)]


@pytest.mark.parametrize("stale", [3, 0xFFFF_FFFF])
def test_tail_of_a_driver_that_has_not_noticed_its_reset_is_forgotten(stale):
    engine, a, b = rig()
    b.post(4)
    a.vf.disable(1, 1)
    engine.publish()
    a.vf.forget()
    a.tail(0, stale)
    a.vf.forget_tx_tails()
    a.vf.configure_tx(TxQueueConfig(0, a.ring_len, a.tx_ring[0]))
    a.vf.enable(0, 1)
    engine.publish()
    engine.step()
    assert a.vf.take_faults() == []
    assert b.receive() == []


@pytest.mark.trap(22)
def test_tail_of_a_stopped_queue_is_forgotten_when_it_is_configured_again():
    engine, a, b = rig()
    b.post(4)
    a.send(frame(64))
    engine.step()
    a.vf.disable(0, 1)
    engine.publish()
    a.vf.forget_tx_tails()
    assert a.registers[0] == 1
    a.vf.configure_tx(TxQueueConfig(0, a.ring_len, a.tx_ring[0]))
    assert a.registers[0] == 0


@pytest.mark.trap(22)
def test_buffers_posted_before_the_queue_is_enabled_are_fetched_after_it():
    """Linux posts them first: QRX_TAIL is kept, and what stands in the ring then does not count."""
    engine, a, b = rig()
    b.vf.disable(1, 0)
    engine.publish()
    b.vf.configure_rx(RxQueueConfig(0, 64, b.rx_ring[0], 2048, 9728, writeback=b.rxdid))
    b.post(4)
    good = b.qword(b.rx_ring[0])
    b.put_qwords(b.rx_ring[0], 1 << 50)
    a.send(frame(64))
    engine.step()
    b.put_qwords(b.rx_ring[0], good)
    b.vf.enable(1, 0)
    engine.publish()
    a.send(frame(100))
    engine.step()
    assert b.vf.take_faults() == []
    assert [f.data for f in b.receive()] == [frame(100)]


def test_malformed_receive_buffer_stops_that_queue_only():
    engine, a, b = rig()
    b.post(4)
    b.put_qwords(b.rx_ring[0], 1 << 50)
    slot = a.send(frame(64))
    engine.step()
    assert a.tx_done(slot)
    assert b.vf.take_faults() == [("rx", 0, "buffer address is not mapped")]
    assert a.vf.take_faults() == []


@pytest.mark.parametrize("beyond", [0, 1])
def test_frame_is_sent_from_the_last_bytes_of_memory_and_not_from_behind_them(beyond):
    engine, a, b = rig()
    b.post(4)
    a.send(frame(64))
    engine.step()  # from here on the extent is known
    b.receive()
    a.memory[SIZE - 64 : SIZE] = frame(64)
    a.descriptors([(SIZE - 64 + beyond, 0x30 | 64 << 34)])
    engine.step()
    assert a.vf.take_faults() == [("tx", 0, "buffer address is not mapped")] * beyond
    assert [f.data for f in b.receive()] == [frame(64)] * (1 - beyond)


@pytest.mark.parametrize("beyond", [0, 1])
def test_frame_is_received_into_the_last_bytes_of_memory_and_not_behind_them(beyond):
    engine, a, b = rig()
    b.post(4)
    b.put_qwords(b.rx_ring[0] + 32, SIZE - 64 + beyond)
    for _ in range(2):
        a.send(frame(64))
        engine.step()  # the first makes the extent known
    assert b.vf.take_faults() == [("rx", 0, "buffer address is not mapped")] * beyond
    assert b.memory[SIZE - 64 : SIZE] == (bytes(64) if beyond else frame(64))


def test_receive_tail_beyond_the_ring_offers_nothing():
    engine, a, b = rig(hold_s=0.0)
    b.tail(QRX_TAIL, 0xFFFF_FFFF)
    a.send(frame(64))
    engine.step(3)
    assert b.rows[0][7] == 1


def test_read_only_guest_memory_is_never_written():
    engine, _a, b = rig()
    b.post(4)
    b.vf.disable(1, 0)
    b.mem.unmap(0, 32 << 20)
    engine.grace()
    b.mem.reclaim()
    b.mem.map(0, 32 << 20, 1, __import__("os").dup(b.fd), 0)
    with pytest.raises(MemoryFault):
        b.vf.enable(1, 0)


@pytest.mark.vfio_user("12.18.1")
def test_buffer_across_extents_is_split():
    engine, a, b = rig()
    b.post(4)
    address = a.take(4096 * 2) + 4095 & ~4095
    a.memory[address : address + 200] = frame(200)
    # The same page again, read-only, behind a hole elsewhere: two extents, one buffer.
    a.mem.map(1 << 30, 4096, 3, __import__("os").dup(a.fd), address & ~4095)
    a.mem.map((1 << 30) + 4096, 4096, 1, __import__("os").dup(a.fd), address & ~4095)
    a.memory[address + 4096 - 100 : address + 4096] = frame(200)[:100]
    a.memory[address : address + 100] = frame(200)[100:]
    a.descriptors([((1 << 30) + 4096 - 100, 0x30 | 200 << 34)])
    engine.step()
    assert [f.data for f in b.receive()] == [frame(200)]


def test_configure_running_queue_is_refused():
    _engine, a, _b = rig()
    with pytest.raises(StateError):
        a.vf.configure_tx(TxQueueConfig(0, 64, 0x1000))
    with pytest.raises(StateError):
        a.vf.configure_rx(RxQueueConfig(0, 64, 0x1000, 2048, 1518))


def test_bus_master_off_moves_nothing():
    engine, a, b = rig()
    b.post(4)
    a.vf.set_bus_master(False)
    a.send(frame(64))
    engine.step(3)
    assert b.receive() == []
    a.vf.set_bus_master(True)
    engine.step()
    assert len(b.receive()) == 1


def test_bus_master_off_keeps_an_event_and_on_repeats_the_last():
    """A client may drop a message that is under way when bus mastering goes off."""
    engine, a, b = rig()
    event = b.vector()
    b.post(4)
    b.arm()
    a.send(frame(64))
    engine.step()
    assert signalled(event) == 1
    b.arm()
    b.vf.set_bus_master(False)
    b.vf.raise_vector(1)
    engine.step(3)
    assert signalled(event) == 0
    b.vf.set_bus_master(True)
    assert signalled(event) == 1
    engine.step(3)
    assert signalled(event) == 1


def test_loop_back_to_itself():
    engine = Engine()
    a = Driver("a")
    a.enable()
    engine.add(a.vf)
    engine.connect(a.vf)
    a.post(4)
    a.send(frame(99))
    engine.step()
    assert [f.data for f in a.receive()] == [frame(99)]


def test_rows_of_the_wrong_shape_are_refused():
    a = Driver("a")
    with pytest.raises(ValueError, match="rows"):
        Vf("x", a.mem, a.doorbells, a.rows, 4, 5, -1)


def test_switch_replicates_and_learns_nothing_from_strangers():
    engine, drivers = joined(3, buffers=8)
    for dst in (bytes([2, 0, 0, 0, 0, 1]), b"\xff" * 6, bytes([2, 0, 0, 0, 0, 9])):
        drivers[0].send(dst + frame(64)[6:])
    engine.step()
    assert [len(d.receive()) for d in drivers] == [0, 2, 1]
    assert drivers[0].rows[1][12] == 1
