"""What the host imposes on the rings: rate limits by a clock of the test's own, and faults."""

import time

import pytest

from emuiavf.datapath.engine import Engine
from tests.rings import DYN_CTLN, Driver, signalled
from tests.wire import DISCARDS, MS, TX_PACKETS, Wire, frame, joined, mac

TXD_TSO_TCP4 = 0x100 | 0x60


@pytest.mark.parametrize(
    ("rate", "size", "duration_ns", "step_ns"),
    [
        (10, 1514, 1000 * MS, 100_000),
        (10, 64, 500 * MS, 50_000),
        (100, 1514, 500 * MS, 100_000),
        (1_000, 1514, 100 * MS, 20_000),
        (1_000, 64, 20 * MS, 2_000),
        (10_000, 1514, 50 * MS, 10_000),
        (10_000, 9000, 50 * MS, 20_000),
        (40_000, 9000, 20 * MS, 4_000),
        (40_000, 1514, 20 * MS, 2_000),
    ],
)
def test_rate_is_met_without_a_drop(rate: int, size: int, duration_ns: int, step_ns: int) -> None:
    wire = Wire(rate, size)
    wire.run(duration_ns // 10, step_ns)
    sent = wire.run(duration_ns, step_ns)
    assert sent * 8 * 1000 / duration_ns == pytest.approx(rate, rel=0.05)
    assert wire.sink.rows[0, DISCARDS] == 0
    assert wire.sender.rows[wire.queues, DISCARDS] == 0


def test_rate_is_that_of_all_queues_together() -> None:
    wire = Wire(1_000, 1514, queues=4, ring_len=64)
    sent = wire.run(100 * MS, 20_000)
    assert sent * 8 * 1000 / (100 * MS) == pytest.approx(1_000, rel=0.05)


def test_every_queue_gets_its_part() -> None:
    wire = Wire(1_000, 1514, queues=4, ring_len=64)
    wire.run(100 * MS, 20_000)
    packets = [int(count) for count in wire.sender.rows[4:, TX_PACKETS]]
    assert min(packets) > 0.9 * max(packets)


def test_queues_with_nothing_to_send_keep_nobody_waiting() -> None:
    wire = Wire(1_000, 1514, queues=4, ring_len=64, busy=1)
    sent = wire.run(100 * MS, 20_000)
    assert sent * 8 * 1000 / (100 * MS) == pytest.approx(1_000, rel=0.05)


def test_queue_whose_worker_does_not_come_keeps_the_others_waiting_for_a_moment() -> None:
    wire = Wire(1_000, 1514, queues=2, ring_len=64)
    wire.sender.vf.disable(0, 2)
    wire.engine.publish()
    # Not published: enabled and full, and served by nobody.
    wire.sender.vf.enable(0, 2)
    sent = wire.run(100 * MS, 20_000)
    assert wire.heads()[1] == 0
    assert sent * 8 * 1000 / (100 * MS) == pytest.approx(1_000, rel=0.05)


def test_large_frames_to_be_cut_count_as_what_they_become() -> None:
    wire = Wire(100, 1514, busy=0)
    payload, mss, count = 8760, 1460, 20
    header = (
        bytes.fromhex("0200000000010200000000aa08004500226000014000400600000a0000010a000002")
        + bytes(12)
        + b"\x50\x10"
        + bytes(6)
    )
    for _ in range(count):
        wire.sender.send(
            header + bytes(payload),
            cmd=TXD_TSO_TCP4,
            lengths=(14, 20, 20),
            context=(0, 1 | 0x10 | mss << 50),
        )
    began = wire.now
    while wire.sent() < count * 6 * 1514:
        wire.run(100_000, 100_000)
        assert wire.now < began + 1000 * MS
    # All but the last are paid for by then.
    assert wire.now - began == pytest.approx((count - 1) * 6 * 1514 * 8 * 10, rel=0.05)


def test_progress_at_the_lowest_rate_is_steady() -> None:
    """Linux's Tx watchdog wants some within 5 s; here no gap is longer than two frames' time."""
    wire = Wire(10, 1514)
    wire.run(50 * MS, 100_000)
    gaps, last = [], wire.now
    for _ in range(5000):
        if wire.run(100_000, 100_000):
            gaps.append(wire.now - last)
            last = wire.now
    assert max(gaps) < 2 * 1514 * 8 * 100 + 200_000


def test_time_that_was_not_used_is_not_saved_for_long() -> None:
    wire = Wire(100, 1514)
    wire.run(50 * MS, 100_000)
    wire.now += 10_000 * MS
    sent = wire.run(100 * MS, 100_000)
    # 20 ms may be made up for.
    assert sent * 8 * 1000 / (100 * MS) == pytest.approx(120, rel=0.05)


def test_worker_that_comes_late_makes_up_for_it() -> None:
    wire = Wire(1_000, 1514)
    wire.run(10 * MS, 20_000)
    before, began = wire.sent(), wire.now
    for _ in range(10):
        wire.now += 9 * MS
        wire.run(1 * MS, 20_000)
    sent, took_ns = wire.sent() - before, wire.now - began
    assert sent * 8 * 1000 / took_ns == pytest.approx(1_000, rel=0.05)


def test_limit_is_changed_and_taken_away_under_traffic() -> None:
    wire = Wire(10, 1514)
    slow = wire.run(50 * MS, 100_000)
    wire.sender.vf.set_rate(1_000)
    wire.now = max(wire.now, time.monotonic_ns())
    fast = wire.run(50 * MS, 20_000)
    wire.sender.vf.set_rate(0)
    free = wire.run(50 * MS, 20_000)
    assert slow < fast < free
    # A whole burst each turn: nothing of the limit is left.
    assert free == 2500 * 32 * 1514


def test_who_sends_less_than_the_limit_notices_nothing() -> None:
    wire = Wire(10_000, 1514)
    wire.now += 10 * MS
    wire.sender.tail(0, 5)
    wire.engine.step(1, wire.now)
    assert wire.heads() == [5]


# Faults


def pair() -> tuple[Engine, Driver, Driver]:
    engine, drivers = joined(2, hold_s=1000.0)
    return engine, *drivers


def turned(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(("size", "at"), [(64, 63), (128, 127), (129, 127), (1500, 127)])
def test_as_many_frames_as_asked_are_spoilt(size: int, at: int) -> None:
    engine, a, b = pair()
    b.post(10)
    b.vf.corrupt_received(2)
    data = frame(mac(1), size)
    for _ in range(4):
        a.send(data)
    engine.step()
    assert [got.data for got in b.receive()] == [turned(data, at)] * 2 + [data] * 2
    assert b.vf.corruptions_left == 0


def test_frame_that_finds_no_room_is_spoilt_when_it_does() -> None:
    engine, a, b = pair()
    b.vf.corrupt_received(1)
    data = frame(mac(1), 64)
    a.send(data)
    engine.step()
    assert b.vf.corruptions_left == 1
    b.post(2)
    a.send(data)
    engine.step()
    assert [got.data for got in b.receive()] == [turned(data, 63), data]


def test_other_destinations_get_the_frame_as_it_was() -> None:
    engine, drivers = joined(4, hold_s=1000.0, buffers=4)
    drivers[2].vf.corrupt_received(1)
    data = frame(b"\xff" * 6, 200)
    drivers[0].send(data)
    engine.step()
    assert [driver.receive()[0].data for driver in drivers[1:]] == [data, turned(data, 127), data]


def udp(payload: bytes) -> bytes:
    """A frame with right checksums: none for UDP, of which it says so only when asked."""
    head = bytes.fromhex("4500003000010000401126900a0000010a000002")
    length = 20 + 8 + len(payload)
    head = head[:2] + length.to_bytes(2, "big") + head[4:10] + b"\0\0" + head[12:]
    total = sum(int.from_bytes(head[i : i + 2], "big") for i in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + (0xFFFF - total).to_bytes(2, "big") + head[12:]
    return (
        mac(1)
        + mac(0xAA)
        + b"\x08\x00"
        + head
        + b"\0\1\0\2"
        + (8 + len(payload)).to_bytes(2, "big")
        + b"\0\0"
        + payload
    )


def with_csum(ip: bytes) -> bytes:
    total = sum(int.from_bytes(ip[i : i + 2], "big") for i in range(0, 20, 2) if i != 10)
    total = (total & 0xFFFF) + (total >> 16)
    return ip[:10] + (0xFFFF - (total & 0xFFFF) - (total >> 16)).to_bytes(2, "big") + ip[12:]


def hidden(tunnel_len: int) -> tuple[bytes, bytes, dict[str, object]]:
    """A request whose lengths are not those that a parser finds: what stands behind the addresses
    reads as a tag with another IPv4 header.  Returns what is sent, what is right, and the request.
    """
    outer = bytes.fromhex("450008004f0000004011") + bytes(2) + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    inner = bytes.fromhex("450003e80001000040fd") + bytes(2) + bytes([10, 0, 0, 3, 10, 0, 0, 4])
    middle = bytes([0, 1, 18, 181]) + (2028).to_bytes(2, "big") + bytes(tunnel_len - 6)
    front, back = b"\xff" * 6 + mac(0xAA) + b"\x81\x00", bytes(2048 - 40 - tunnel_len)
    context = (3 | 5 << 2 | 1 << 9 | tunnel_len // 2 << 12, 1)
    return (
        front + outer + middle + inner + back,
        front + with_csum(outer) + middle + with_csum(inner) + back,
        {"cmd": 0x60, "lengths": (14, 20, 0), "context": context},
    )


@pytest.mark.parametrize("tunnel_len", [8, 202])
def test_a_spoilt_frame_keeps_the_lengths_that_were_asked_for(tunnel_len: int) -> None:
    engine, drivers = joined(3, hold_s=1000.0, buffers=4)
    drivers[1].vf.corrupt_received(1)
    sent, right, request = hidden(tunnel_len)
    drivers[0].send(sent, **request)
    engine.step()
    (spoilt,), (good,) = drivers[1].receive(), drivers[2].receive()
    assert spoilt.data == turned(sent, 255)
    assert good.data == right


@pytest.mark.parametrize("size", [20, 300])
def test_checksum_that_the_device_was_to_fill_in_is_reported_bad(size: int) -> None:
    engine, a, b = pair()
    b.post(4)
    data = udp(bytes(size))
    partial = data[:40] + b"\x12\x34" + data[42:]
    b.vf.corrupt_received(1)
    for _ in range(2):
        a.send(partial, cmd=0x300 | 0x40, lengths=(14, 20, 8))
    engine.step()
    spoilt, good = b.receive()
    assert (spoilt.errors >> 4 & 1, good.errors >> 4 & 1) == (1, 0)
    assert spoilt.data == turned(partial, min(len(data), 128) - 1)


def with_lost_interrupt() -> tuple[Engine, Driver, Driver, int]:
    """A frame whose interrupt did not come; last the receiver's eventfd."""
    engine, a, b = pair()
    event = b.vector()
    b.post(8)
    b.vf.lose_interrupts(1)
    b.arm()
    a.send(frame(mac(1), 64))
    engine.step(2)
    return engine, a, b, event


def test_lost_interrupt_disarms_and_is_repeated_on_request() -> None:
    engine, a, b, event = with_lost_interrupt()
    assert (signalled(event), b.registers[DYN_CTLN // 4] & 1) == (0, 0)
    assert (b.vf.interrupts_left, b.vf.interrupts_missing) == (0, True)
    b.vf.repeat_interrupts()
    assert (signalled(event), b.vf.interrupts_missing) == (1, False)
    b.arm()
    a.send(frame(mac(1), 64))
    engine.step(2)
    assert signalled(event) == 1


def test_reset_forgets_the_lost_interrupt() -> None:
    _, _, b, event = with_lost_interrupt()
    b.vf.disable(1, 1)
    b.vf.forget()
    b.vf.repeat_interrupts()
    assert signalled(event) == 0


def test_hanging_queues_go_on_where_they_stood() -> None:
    engine, a, b = pair()
    b.post(4)
    a.vf.hang_tx(True)
    data = frame(mac(1), 64)
    slot = a.send(data)
    engine.step(3)
    assert (a.vf.tx_hangs, a.tx_done(slot), a.vf.take_faults()) == (True, False, [])
    a.vf.hang_tx(False)
    engine.step()
    assert (a.vf.tx_hangs, a.tx_done(slot)) == (False, True)
    assert [got.data for got in b.receive()] == [data]


def test_hang_ends_when_the_queue_is_configured_anew() -> None:
    engine, a, b = pair()
    b.post(4)
    a.vf.hang_tx(True)
    a.configure_tx_anew(engine)
    a.send(frame(mac(1), 64))
    engine.step()
    assert (a.vf.tx_hangs, len(b.receive())) == (False, 1)


def test_fault_of_the_guest_is_not_ended_with_the_hang() -> None:
    engine, a, _ = pair()
    a.descriptors([(0xDEAD_0000_0000, 0x30 | 64 << 34)])
    engine.step()
    a.vf.hang_tx(True)
    a.vf.hang_tx(False)
    assert [fault[:2] for fault in a.vf.take_faults()] == [("tx", 0)]
    a.send(frame(mac(1), 64))
    engine.step()
    assert a.vf.ring_state("tx", 0)["head"] == 0
