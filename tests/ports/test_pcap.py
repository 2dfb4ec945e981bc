"""The capture file: what scapy reads back is what went by, finished and cut."""

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import RawPcapReader

from emuiavf.datapath.engine import Engine
from emuiavf.errors import ConfigError
from emuiavf.ports._null import Null
from emuiavf.ports._pcap import Pcap
from emuiavf.stats import RX_COUNTERS
from tests.fakes.tap import NEEDS_CSUM, TCPV4, header, socket_tap

HEADERS = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(
    src="10.0.0.1", dst="10.0.0.2", id=7
)


class Capture:
    """A TAP that feeds a capture file."""

    def __init__(self, path: str) -> None:
        self.tap, self.kernel = socket_tap("tap")
        self.pcap = Pcap("pcap", {"path": path})
        self.path = path
        self.engine = Engine()
        self.engine.add(self.tap)
        self.engine.add(self.pcap)
        self.engine.connect(self.tap, self.pcap)
        self.engine.start()

    def close(self) -> None:
        self.engine.stop()
        self.pcap.close()
        self.tap.close()
        self.kernel.close()

    def finish(self, frames: int) -> list[bytes]:
        """Wait until the port has had that many frames and read the file."""
        deadline = time.monotonic() + 5
        while int(self.pcap.rows[0][1:4].sum()) < frames:
            assert time.monotonic() < deadline
        self.close()
        with RawPcapReader(self.path) as reader:
            return [data for data, _ in reader]

    def row(self) -> dict[str, int]:
        return {name: int(n) for name, n in zip(RX_COUNTERS, self.pcap.rows[0], strict=False)}


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Capture]:
    capture = Capture(str(tmp_path / "capture.pcap"))
    yield capture
    capture.close()


def without_checksums(packet: Packet) -> Packet:
    packet = Ether(bytes(packet))
    del packet[IP].chksum
    del packet[TCP if TCP in packet else UDP].chksum
    return Ether(bytes(packet))


def test_plain_frames_are_recorded_in_order(capture: Capture) -> None:
    sent = [bytes(HEADERS / UDP() / Raw(bytes([n]) * n * 20)) for n in range(60)]
    for data in sent:
        capture.kernel.send(header() + data)
    assert capture.finish(60) == sent


def test_records_carry_nanoseconds_of_the_wall_clock(capture: Capture) -> None:
    before = time.time_ns()
    capture.kernel.send(header() + bytes(60))
    capture.finish(1)
    data = Path(capture.path).read_bytes()
    magic, major, minor, _, _, _, link = struct.unpack_from("=IHHiIII", data)
    seconds, nanoseconds, captured, length = struct.unpack_from("=IIII", data, 24)
    assert (magic, major, minor, link) == (0xA1B23C4D, 2, 4, 1)
    assert before <= seconds * 10**9 + nanoseconds <= time.time_ns()
    assert (captured, length, len(data)) == (60, 60, 24 + 16 + 60)


def test_partial_checksum_is_finished(capture: Capture) -> None:
    packet = HEADERS / TCP(chksum=0) / Raw(b"x" * 777)
    capture.kernel.send(header(NEEDS_CSUM, start=34, offset=16) + bytes(packet))
    (recorded,) = capture.finish(1)
    assert recorded == bytes(without_checksums(packet))


def test_large_frame_is_cut_into_segments(capture: Capture) -> None:
    payload = os.urandom(3500)
    packet = HEADERS / TCP(seq=100, flags="PA", chksum=0) / Raw(payload)
    capture.kernel.send(header(NEEDS_CSUM, TCPV4, 54, 1000, 34, 16) + bytes(packet))
    recorded = [Ether(data) for data in capture.finish(1)]
    assert [segment[TCP].seq for segment in recorded] == [100, 1100, 2100, 3100]
    assert b"".join(bytes(segment[TCP].payload) for segment in recorded) == payload
    assert [bytes(segment) for segment in recorded] == [
        bytes(without_checksums(segment)) for segment in recorded
    ]
    assert capture.row()["packets"] == 1


def test_file_that_takes_no_more_ends_the_recording_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # /dev/full takes nothing, so the port is handed a pipe whose reader goes away.
    reading, writing = os.pipe()
    capture = Capture(f"/proc/self/fd/{writing}")
    os.close(writing)
    os.close(reading)
    deadline = time.monotonic() + 5
    while capture.row()["queue_off"] == 0:
        assert time.monotonic() < deadline
        capture.kernel.send(header() + bytes(60))
    capture.close()
    row = capture.row()
    assert row["discards"] == row["queue_off"]
    assert "recording ends" in caplog.text


@pytest.mark.parametrize("path", ["/nowhere/file.pcap", "/", "/dev/full"])
def test_path_that_cannot_be_written_is_refused(path: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError, match=f"pcap0: path={path}"):
        Pcap("pcap0", {"path": path})
    assert len(os.listdir("/proc/self/fd")) == before


def test_capture_in_a_switch_sees_what_others_exchange(tmp_path: Path) -> None:
    left, left_kernel = socket_tap("left")
    right, right_kernel = socket_tap("right")
    pcap = Pcap("pcap", {"path": str(tmp_path / "switch.pcap")})
    engine = Engine()
    for port in (left, right, pcap):
        engine.add(port)
    engine.connect(left, right, pcap)
    engine.start()
    there, back = bytes(HEADERS / UDP(sport=1)), bytes(HEADERS / UDP(sport=2))
    left_kernel.send(header() + there)
    assert right_kernel.recv(4096) == header() + there
    right_kernel.send(header() + back)
    assert left_kernel.recv(4096) == header() + back
    engine.stop()
    for end in (left, right, pcap, left_kernel, right_kernel):
        end.close()
    with RawPcapReader(str(tmp_path / "switch.pcap")) as reader:
        assert [data for data, _ in reader] == [there, back]


def test_null_port_counts_what_it_drops() -> None:
    tap, kernel = socket_tap("tap")
    null = Null("null", {})
    engine = Engine()
    engine.add(tap)
    engine.add(null)
    engine.connect(tap, null)
    engine.start()
    for data in (bytes(60), b"\xff" * 60, b"\1" + bytes(59)):
        kernel.send(header() + data)
    deadline = time.monotonic() + 5
    while null.rows[0][6] < 3:
        assert time.monotonic() < deadline
    engine.stop()
    assert null.rows[0][:7].tolist() == [3 * 64, 1, 1, 1, 0, 0, 3]
    assert null.active_sources() == []
    tap.close()
    kernel.close()
    null.close()


def test_reader_of_a_fifo_gets_the_frames(tmp_path: Path) -> None:
    path = str(tmp_path / "live")
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    capture = Capture(path)
    capture.kernel.send(header() + bytes(60))
    deadline = time.monotonic() + 5
    while capture.row()["packets"] == 0:
        assert time.monotonic() < deadline
    capture.close()
    assert len(os.read(reading, 4096)) == 24 + 16 + 60
    os.close(reading)
