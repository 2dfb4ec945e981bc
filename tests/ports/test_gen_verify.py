"""Numbered frames from `gen` to `verify`, straight and through guests, whole and damaged."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from emuiavf._rxdid import Rxdid
from emuiavf.app import Backend
from emuiavf.datapath.engine import Engine
from emuiavf.errors import ConfigError
from emuiavf.guest.driver import VfDriver
from emuiavf.ports._gen import Generator
from emuiavf.ports._pcap import Pcap
from emuiavf.ports._verify import Verifier
from emuiavf.stats import RX_COUNTERS, TX_COUNTERS, VERIFY_COUNTERS
from tests.fakes.tap import header, socket_tap

DEADLINE_S = 20.0
DEFAULTS = {
    "size": 64,
    "flows": 1,
    "rate": 0,
    "count": 0,
    "dst": bytes.fromhex("020000000001"),
    "src": bytes.fromhex("0200000000fe"),
}


def generator(**options: object) -> Generator:
    return Generator("gen", {**DEFAULTS, **options})


def verifier(check: bool = True) -> Verifier:
    return Verifier("verify", {"check": check}, np.zeros((3, 16), np.uint64))


def result(port: Verifier) -> dict[str, int]:
    return {name: int(n) for name, n in zip(VERIFY_COUNTERS, port.rows[2], strict=False)}


def joined(*ports: object) -> Engine:
    engine = Engine(hold_s=10.0)
    for port in ports:
        engine.add(port)
    engine.connect(*ports)
    return engine


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0)


@pytest.mark.parametrize("size", [64, 65, 96, 127, 128, 129, 160, 161, 1518, 9728])
@pytest.mark.parametrize("flows", [1, 7])
def test_every_frame_is_told_as_it_was_made(size: int, flows: int) -> None:
    gen, verify = generator(size=size, flows=flows, count=1000), verifier()

    joined(gen, verify).step(100)

    assert result(verify) == {
        "frames": 1000,
        "lost": 0,
        "reordered": 0,
        "corrupted": 0,
        "flows": flows,
    }
    received = dict(zip(RX_COUNTERS, map(int, verify.rows[0]), strict=False))
    assert (received["packets"], received["unicast"], received["unknown_protocol"]) == (
        1000,
    ) * 2 + (0,)
    assert received["bytes"] == 1000 * (size + 4)
    sent = dict(zip(TX_COUNTERS, map(int, gen.rows[1]), strict=False))
    assert (sent["packets"], sent["unicast"], sent["bytes"]) == (1000, 1000, 1000 * size)


def test_count_ends_the_stream() -> None:
    gen, verify = generator(count=33), verifier()
    engine = joined(gen, verify)
    assert engine.step(10) == 2
    assert result(verify)["frames"] == 33


def test_rate_is_kept() -> None:
    gen, verify = generator(rate=10_000), verifier()
    engine = joined(gen, verify)
    engine.step(1)
    start = time.monotonic()
    while time.monotonic() - start < 0.5:
        engine.step(10)
    spent = time.monotonic() - start
    frames = result(verify)["frames"]
    # A turn of this test that takes long can cost what is beyond the credit, never add to it.
    assert 2000 < frames <= 10_000 * spent + 32
    assert result(verify)["lost"] == 0


def test_frames_are_valid_packets_in_numbered_flows(tmp_path: Path) -> None:
    path = tmp_path / "out.pcap"
    gen, pcap = generator(size=200, flows=3, count=6), Pcap("pcap", {"path": str(path)})
    joined(gen, pcap).step(3)
    pcap.close()
    data = path.read_bytes()[24:]
    packets = [Ether(data[at + 16 : at + 216]) for at in range(0, len(data), 216)]

    assert len(packets) == 6
    for number, packet in enumerate(packets):
        again = packet.copy()
        del again[IP].chksum
        assert bytes(Ether(bytes(again))) == bytes(packet)
        assert (packet[IP].len, packet[UDP].len, packet[UDP].dport) == (186, 166, 9)
        assert packet[UDP].sport == 0x4000 + number % 3
        assert int.from_bytes(bytes(packet)[42:50], "little") == number // 3
        assert int.from_bytes(bytes(packet)[58:60], "little") == number % 3


class Recorded:
    """Frames of a generator as bytes, and a TAP that brings bytes to a verifier."""

    def __init__(self, folder: Path, count: int, size: int = 100) -> None:
        path = folder / "frames.pcap"
        pcap = Pcap("pcap", {"path": str(path)})
        joined(generator(size=size, count=count), pcap).step(count)
        pcap.close()
        data, step = path.read_bytes()[24:], 16 + size
        self.frames = [data[at + 16 : at + step] for at in range(0, len(data), step)]
        self.tap, self._kernel = socket_tap("tap")
        self.verify = verifier()
        self._engine = joined(self.tap, self.verify)

    def play(self, *frames: bytes) -> dict[str, int]:
        for frame in frames:
            self._kernel.send(header() + frame)
            self._engine.step(20)
        return result(self.verify)

    def close(self) -> None:
        self.tap.close()
        self._kernel.close()


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    made = Recorded(tmp_path, 10)
    yield made
    made.close()


def test_missing_frames_are_lost(recorded: Recorded) -> None:
    frames = recorded.frames
    told = recorded.play(*frames[:3], *frames[5:])
    assert (told["frames"], told["lost"], told["reordered"]) == (8, 2, 0)


def test_what_was_before_the_first_frame_is_not_lost(recorded: Recorded) -> None:
    assert recorded.play(*recorded.frames[4:])["lost"] == 0


def test_late_frame_is_reordered_and_not_lost(recorded: Recorded) -> None:
    frames = recorded.frames
    told = recorded.play(frames[0], frames[2], frames[1], frames[3])
    assert (told["lost"], told["reordered"], told["corrupted"]) == (0, 1, 0)


def test_frame_that_comes_twice_is_reordered(recorded: Recorded) -> None:
    frames = recorded.frames
    told = recorded.play(frames[0], frames[1], frames[1], frames[2])
    assert (told["lost"], told["reordered"]) == (0, 1)


@pytest.mark.parametrize("at", sorted({*range(0, 26), *range(34, 60), 60, 63, 64, 80, 96, 99}))
def test_any_changed_byte_is_told(recorded: Recorded, at: int) -> None:
    frames = recorded.frames
    bad = bytearray(frames[1])
    bad[at] ^= 0x10
    told = recorded.play(frames[0], bytes(bad), frames[2])
    assert told["corrupted"] == 1


def test_shorter_frame_is_told(recorded: Recorded) -> None:
    assert recorded.play(recorded.frames[0], recorded.frames[1][:-1])["corrupted"] == 1


def test_exchanged_addresses_are_no_damage(recorded: Recorded) -> None:
    swapped = [frame[6:12] + frame[:6] + frame[12:] for frame in recorded.frames]
    told = recorded.play(*swapped)
    assert (told["frames"], told["corrupted"], told["lost"]) == (10, 0, 0)


TAGS = {
    "802.1Q": bytes.fromhex("8100 2005"),
    "802.1ad": bytes.fromhex("88a8 0fff"),
    "old": bytes.fromhex("9100 0001"),
    "two": bytes.fromhex("88a8 0064 8100 e005"),
}


@pytest.mark.parametrize("size", [64, 65, 124, 128, 130, 1500])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
def test_frames_with_tags_are_told_as_those_without(tmp_path: Path, size: int, tags: bytes) -> None:
    recorded = Recorded(tmp_path, 10, size)
    tagged = [frame[:12] + tags + frame[12:] for frame in recorded.frames]
    bad = bytearray(tagged[4])
    bad[-1] ^= 0x10
    told = recorded.play(*tagged[:2], recorded.frames[2], bytes(bad), *tagged[6:])
    recorded.close()
    assert told == {"frames": 8, "lost": 3, "reordered": 0, "corrupted": 1, "flows": 1}


def test_frame_cut_to_the_length_without_its_tag_is_told(recorded: Recorded) -> None:
    frame = recorded.frames[0]
    told = recorded.play(frame[:12] + bytes.fromhex("8100 0005") + frame[12:-4])
    assert told["corrupted"] == 1


@pytest.mark.parametrize("tags", ["8100 0001" * 3, "8100 0001 88a8"])
def test_more_tags_than_two_make_a_foreign_frame(recorded: Recorded, tags: str) -> None:
    frame = recorded.frames[0]
    assert recorded.play(frame[:12] + bytes.fromhex(tags) + frame[12:])["frames"] == 0


def test_tagged_frame_that_is_too_short_is_foreign(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, 1, 64)
    frame = recorded.frames[0]
    told = recorded.play(frame[:12] + bytes.fromhex("8100 0005") + frame[12:60])
    recorded.close()
    assert told["frames"] == 0


@pytest.mark.parametrize("frame", [b"\xff" * 12 + b"\x88\xb5" + bytes(46), bytes(64), bytes(2000)])
def test_foreign_frames_are_only_counted(recorded: Recorded, frame: bytes) -> None:
    told = recorded.play(frame)
    assert (told["frames"], told["corrupted"]) == (0, 0)
    row = dict(zip(RX_COUNTERS, map(int, recorded.verify.rows[0]), strict=False))
    assert (row["packets"], row["unknown_protocol"]) == (1, 1)


def test_without_check_it_only_counts() -> None:
    verify = verifier(check=False)
    joined(generator(count=64), verify).step(3)
    assert int(verify.rows[0][RX_COUNTERS.index("packets")]) == 64
    assert result(verify)["frames"] == 0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("size", [64, 1518, 9000])
@pytest.mark.parametrize("rxdid", Rxdid)
def test_guest_between_generator_and_verifier_loses_nothing(
    tmp_path: Path, stack: ExitStack, size: int, rxdid: Rxdid
) -> None:
    """A guest with two VFs that forwards every frame with its addresses exchanged."""
    backend = stack.enter_context(Backend())
    paths = [str(tmp_path / f"{number}.sock") for number in range(2)]
    for number, path in enumerate(paths):
        backend.add_device(f"emu_iavf{number},path={path},mac=02:00:00:00:00:0{number + 1}")
    backend.add_port("verify0,type=verify")
    backend.connect("emu_iavf1", "verify0")
    backend.start()
    one, two = (stack.enter_context(VfDriver(path)) for path in paths)
    one.start(ring_len=2048, rxdid=rxdid)
    two.start(ring_len=256)
    # As many as the ring has buffers for, however slow this guest is.
    count = 400 if size == 9000 else 2000
    backend.add_port(f"gen0,type=gen,size={size},count={count},flows=2")
    backend.connect("gen0", "emu_iavf0")
    done = 0

    def forward() -> bool:
        nonlocal done
        frames = [f.data[6:12] + f.data[:6] + f.data[12:] for f in one.queues[0].receive(64)]
        while frames:
            frames = frames[two.queues[0].send(frames) :]
        done = int(backend.counters["verify0"][2][0])
        return done == count

    until(forward)
    row = dict(zip(VERIFY_COUNTERS, map(int, backend.counters["verify0"][2]), strict=False))
    assert row == {"frames": count, "lost": 0, "reordered": 0, "corrupted": 0, "flows": 2}


@pytest.mark.parametrize(
    ("dst", "passes"), [("02:00:00:00:00:01", True), ("02:00:00:00:00:09", False)]
)
def test_address_of_a_vf_is_asked_for(tmp_path: Path, dst: str, passes: bool) -> None:
    """A burst for one address is judged by its first frame: all of it, of any flow, and no more."""
    count, path = 100, f"{tmp_path}/0.sock"
    with Backend() as backend:
        backend.add_device(f"emu_iavf0,path={path},mac=02:00:00:00:00:01")
        backend.start()
        with VfDriver(path) as driver:
            driver.start(ring_len=256)
            backend.add_port(f"gen0,type=gen,count={count},flows=3,dst={dst}")
            backend.connect("gen0", "emu_iavf0")
            row = backend.counters["gen0"][1]
            sent, filtered = TX_COUNTERS.index("packets"), TX_COUNTERS.index("filtered")
            until(lambda: int(row[sent]) == count)
            assert int(row[filtered]) == (0 if passes else count)
            assert len(driver.queues[0].receive(256)) == (count if passes else 0)


@pytest.mark.parametrize("option", ["size=63", "size=9729", "flows=0", "dst=ff:ff:ff:ff:ff:ff"])
def test_wrong_option_is_refused(option: str) -> None:
    with Backend() as backend, pytest.raises(ConfigError, match=option):
        backend.add_port(f"gen0,type=gen,{option}")
