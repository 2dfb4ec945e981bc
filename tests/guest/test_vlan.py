"""Two tags, both versions of VLAN, and queues that keep the CRC: our driver against our device."""

import itertools
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from emuiavf._rxdid import Rxdid
from emuiavf.app import Backend
from emuiavf.guest.channel import RequestRefused
from emuiavf.guest.driver import WANTED_CAPS, VfDriver
from emuiavf.guest.frames import Frame, TxFrame
from emuiavf.virtchnl.ops import Cap

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
TPIDS = (0x8100, 0x88A8, 0x9100)
# What a VF of 16 queue pairs is granted.
VERSION_2 = WANTED_CAPS & ~Cap.LARGE_NUM_QPAIRS
VERSION_1 = VERSION_2 & ~Cap.VLAN_V2 | Cap.VLAN
DEADLINE_S = 20.0
MARK = b"mark" * 15


class Bench:
    """Two devices connected to each other, and a driver on each."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    def start(
        self,
        *,
        rxdid: Rxdid = Rxdid.LEGACY,
        keep_crc: bool = False,
        caps: Cap = WANTED_CAPS,
        options: str = "",
        buf_size: int = 2048,
        run: bool = True,
    ) -> tuple[VfDriver, VfDriver]:
        backend = self._stack.enter_context(Backend())
        drivers = []
        paths = [self._folder / f"{number}.sock" for number in (0, 1)]
        for number, path in enumerate(paths):
            mac = MACS[number]
            backend.add_device(f"emu_iavf{number},path={path},mac={mac}{options}")
        backend.connect("emu_iavf0", "emu_iavf1")
        backend.start()
        for path in paths:
            drivers.append(self._stack.enter_context(VfDriver(str(path), caps=caps)))
        if run:
            for number, driver in enumerate(drivers):
                keep = keep_crc and number == 1
                if keep and driver.settings.vlan_version == 1:
                    driver.settings.set_vlan_strip(False)
                driver.start(1, rxdid=rxdid, keep_crc=keep, buf_size=buf_size)
        return drivers[0], drivers[1]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def frame(*tags: tuple[int, int], size: int = 60) -> bytes:
    """An IPv4 frame with tags (TPID, TCI), outermost first."""
    inner = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(bytes(size))
    whole = bytes(Ether(src=MACS[0], dst=MACS[1]) / inner)
    return whole[:12] + b"".join(struct.pack(">HH", *tag) for tag in tags) + whole[12:]


def exchange(first: VfDriver, second: VfDriver, *frames: bytes | TxFrame) -> list[Frame]:
    """What arrives of the frames: a broadcast behind them passes every filter."""
    mark = bytes(Ether(src=MACS[0], dst="ff:ff:ff:ff:ff:ff", type=0x88B5)) + MARK
    assert first.queues[0].send([*frames, mark]) == len(frames) + 1
    got: list[Frame] = []
    deadline = time.monotonic() + DEADLINE_S
    while not any(MARK in one.data for one in got):
        assert time.monotonic() < deadline, "the marker has not arrived"
        got.extend(second.queues[0].receive())
    return [one for one in got if MARK not in one.data]


# Insertion


@pytest.mark.parametrize("tpid", TPIDS)
def test_tag_of_l2tag2_has_the_tpid_that_is_set(bench: Bench, tpid: int) -> None:
    first, second = bench.start()
    first.settings.set_outer_insert(tpid)
    (one,) = exchange(first, second, TxFrame(frame(), outer_tci=0x6064))
    assert one.data == frame((tpid, 0x6064))


def test_tag_of_l2tag2_is_of_0x8100_again_when_insertion_is_off(bench: Bench) -> None:
    first, second = bench.start()
    first.settings.set_outer_insert(0x88A8)
    first.settings.set_outer_insert(0)
    (one,) = exchange(first, second, TxFrame(frame(), outer_tci=5))
    assert one.data == frame((0x8100, 5))


def test_two_inserted_tags_stand_in_order(bench: Bench) -> None:
    first, second = bench.start()
    first.settings.set_outer_insert(0x88A8)
    first.settings.set_vlan_insert(True)
    (one,) = exchange(first, second, TxFrame(frame(), vlan_tci=7, outer_tci=0xA005))
    assert one.data == frame((0x88A8, 0xA005), (0x8100, 7))


def test_outer_tag_is_in_every_segment(bench: Bench) -> None:
    first, second = bench.start()
    first.settings.set_outer_insert(0x88A8)
    packet = bytes(
        Ether(src=MACS[0], dst=MACS[1])
        / IP(src="10.0.0.1", dst="10.0.0.2")
        / TCP(sport=1, dport=2)
        / Raw(bytes(3000))
    )
    asked = TxFrame.offloaded(packet, mss=1000)
    got = exchange(first, second, TxFrame(**{**vars(asked), "outer_tci": 9}))
    assert [len(one.data) for one in got] == [1058] * 3
    assert {one.data[12:16].hex() for one in got} == {"88a80009"}
    assert all(one.checksums_good for one in got)


# Stripping


@pytest.mark.parametrize("rxdid", Rxdid)
@pytest.mark.parametrize("tpid", TPIDS)
def test_outermost_tag_goes_to_l2tag2(bench: Bench, rxdid: Rxdid, tpid: int) -> None:
    first, second = bench.start(rxdid=rxdid)
    second.settings.set_outer_strip(tpid)
    tagged, deep = frame((tpid, 0x6064)), frame((tpid, 0x2001), (0x8100, 9))
    alone, both, plain = exchange(first, second, tagged, deep, frame())
    assert (alone.data, alone.outer_tci, alone.vlan_tci) == (frame(), 0x6064, None)
    assert (both.data, both.outer_tci, both.vlan_tci) == (frame((0x8100, 9)), 0x2001, None)
    assert (plain.data, plain.outer_tci, plain.vlan_tci) == (frame(), None, None)
    assert alone.checksums_good
    assert both.checksums_good


@pytest.mark.parametrize("rxdid", Rxdid)
def test_both_tags_leave_the_frame(bench: Bench, rxdid: Rxdid) -> None:
    first, second = bench.start(rxdid=rxdid)
    second.settings.set_outer_strip(0x88A8)
    second.settings.set_vlan_strip(True)
    got = exchange(
        first,
        second,
        frame((0x88A8, 0xE005), (0x8100, 0x3007), size=1400),
        frame((0x8100, 7)),
        frame((0x88A8, 5), (0x88A8, 6)),
        frame((0x9100, 5), (0x8100, 6)),
    )
    found = [(one.data, one.outer_tci, one.vlan_tci) for one in got]
    assert found == [
        (frame(size=1400), 0xE005, 0x3007),
        (frame(), None, 7),
        (frame((0x88A8, 6)), 5, None),
        (frame((0x9100, 5), (0x8100, 6)), None, None),
    ]


def test_frame_of_ethertype_0_has_no_outer_tag(bench: Bench) -> None:
    first, second = bench.start()
    second.settings.set_vlan_strip(True)
    odd = frame()[:12] + bytes(2) + frame()[14:]
    (one,) = exchange(first, second, odd)
    assert (one.data, one.outer_tci) == (odd, None)


@pytest.mark.parametrize("order", list(itertools.permutations(TPIDS)))
def test_one_outer_tpid_at_a_time(bench: Bench, order: tuple[int, ...]) -> None:
    first, second = bench.start()
    for tpid in order:
        second.settings.set_outer_strip(tpid)
    got = exchange(first, second, *(frame((tpid, 5)) for tpid in TPIDS))
    assert [one.outer_tci for one in got] == [5 if tpid == order[-1] else None for tpid in TPIDS]
    second.settings.set_outer_strip(0)
    got = exchange(first, second, *(frame((tpid, 5)) for tpid in TPIDS))
    assert [one.data for one in got] == [frame((tpid, 5)) for tpid in TPIDS]


def test_tags_from_descriptor_to_descriptor_survive_a_reset(bench: Bench) -> None:
    first, second = bench.start()
    first.settings.set_outer_insert(0x9100)
    first.settings.set_vlan_insert(True)
    second.settings.set_outer_strip(0x9100)
    second.settings.set_vlan_strip(True)
    second.settings.add_vlans(5, tpid=0x9100)
    for driver in (first, second):
        driver.reset()
    (one,) = exchange(first, second, TxFrame(frame(), vlan_tci=7, outer_tci=5))
    assert (one.data, one.outer_tci, one.vlan_tci) == (frame(), 5, 7)


# Filters


def test_filter_is_of_a_tpid_and_of_the_outermost_tag(bench: Bench) -> None:
    first, second = bench.start()
    second.settings.add_vlans(5, tpid=0x88A8)
    second.settings.add_vlans(6)
    tags = [
        ((0x88A8, 5),),
        ((0x8100, 5),),
        ((0x9100, 5),),
        ((0x88A8, 5), (0x8100, 9)),
        ((0x8100, 6),),
        ((0x88A8, 6),),
        ((0x88A8, 9), (0x8100, 6)),
        ((0x8100, 0),),
        (),
    ]
    got = exchange(first, second, *(frame(*one) for one in tags))
    assert [one.data for one in got] == [frame(*tags[i]) for i in (0, 3, 4, 7, 8)]
    second.settings.remove_vlans(5, tpid=0x88A8)
    second.settings.remove_vlans(6)
    assert len(exchange(first, second, *(frame(*one) for one in tags))) == len(tags)


# Version 1


@pytest.mark.parametrize("rxdid", Rxdid)
def test_version_1_strips_inserts_and_filters(bench: Bench, rxdid: Rxdid) -> None:
    first, second = bench.start(rxdid=rxdid, caps=VERSION_1)
    assert second.caps & (Cap.VLAN | Cap.VLAN_V2) == Cap.VLAN
    got = exchange(first, second, TxFrame(frame(), vlan_tci=5), frame((0x88A8, 5)))
    assert [(one.data, one.vlan_tci) for one in got] == [(frame(), 5), (frame((0x88A8, 5)), None)]
    second.settings.set_vlan_strip(False)
    second.settings.add_vlans(5)
    got = exchange(first, second, frame((0x8100, 5)), frame((0x8100, 6)), frame())
    assert [one.data for one in got] == [frame((0x8100, 5)), frame()]
    second.settings.remove_vlans(5)
    second.settings.set_vlan_strip(True)
    assert exchange(first, second, frame((0x8100, 6)))[0].vlan_tci == 6


@pytest.mark.parametrize(
    ("offered", "granted"),
    [
        ("vlan", Cap.L2 | Cap.VLAN),
        ("vlan+rss_pf+req_queues", Cap.L2 | Cap.VLAN | Cap.RSS_PF | Cap.REQ_QUEUES),
        ("l2", Cap.L2),
        ("-vlan_v2-crc", VERSION_1 & ~Cap.CRC),
        ("-vlan", VERSION_2),
    ],
)
def test_caps_option_limits_what_is_offered(bench: Bench, offered: str, granted: Cap) -> None:
    _, second = bench.start(caps=WANTED_CAPS | Cap.VLAN, options=f",caps={offered}")
    assert second.caps == granted


# The CRC


def fcs(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize("rxdid", Rxdid)
@pytest.mark.parametrize("caps", [VERSION_2, VERSION_1], ids=["v2", "v1"])
def test_frames_end_with_their_fcs(bench: Bench, rxdid: Rxdid, caps: Cap) -> None:
    first, second = bench.start(rxdid=rxdid, keep_crc=True, caps=caps)
    frames = [frame(size=size) for size in range(18, 200)] + [frame((0x8100, 5)), frame(size=1400)]
    before = second.stats()
    got = [
        one
        for at in range(0, len(frames), 32)
        for one in exchange(first, second, *frames[at : at + 32])
    ]
    assert [one.data for one in got] == [data + fcs(data) for data in frames]
    assert all(one.checksums_good for one in got)
    after = second.stats()
    # The markers have been received, too.
    marks = (len(frames) + 31) // 32
    assert after.rx_unicast - before.rx_unicast == len(frames)
    received = sum(len(data) + 4 for data in frames) + marks * (14 + len(MARK) + 4)
    assert after.rx_bytes - before.rx_bytes == received


@pytest.mark.parametrize("over", range(6))
def test_fcs_that_crosses_buffers(bench: Bench, over: int) -> None:
    first, second = bench.start(keep_crc=True, buf_size=128)
    data = frame(size=256 - 42 - over)
    assert len(data) == 256 - over
    (one,) = exchange(first, second, data)
    assert one.data == data + fcs(data)


def test_segments_and_computed_checksums_are_under_the_fcs(bench: Bench) -> None:
    first, second = bench.start(keep_crc=True)
    packet: Packet = Ether(src=MACS[0], dst=MACS[1]) / IP(src="10.0.0.1", dst="10.0.0.2")
    large = bytes(packet / TCP(sport=1, dport=2) / Raw(bytes(range(256)) * 12))
    small = bytes(packet / UDP(sport=1, dport=2) / Raw(bytes(range(99))))
    got = exchange(
        first, second, TxFrame.offloaded(large, mss=1000), TxFrame.offloaded(small), frame()
    )
    assert [len(one.data) for one in got] == [1058, 1058, 1058, 130, 145, 106]
    for one in got:
        assert one.data[-4:] == fcs(one.data[:-4])
    assert got[4].data[:-4] == small
    assert sum(len(Ether(one.data)[TCP].payload) for one in got[:4]) >= 3072


@pytest.mark.trap(39)
def test_crc_and_stripping_refuse_each_other(bench: Bench) -> None:
    first, second = bench.start(keep_crc=True)
    with pytest.raises(RequestRefused, match="NOT_SUPPORTED"):
        second.settings.set_outer_strip(0x88A8)
    with pytest.raises(RequestRefused, match="NOT_SUPPORTED"):
        second.settings.set_vlan_strip(True)
    first.stop()
    first.settings.set_vlan_strip(True)
    with pytest.raises(RequestRefused):
        first.start(1, keep_crc=True)


def test_inserted_tags_are_under_the_fcs(bench: Bench) -> None:
    first, second = bench.start(keep_crc=True)
    first.settings.set_outer_insert(0x88A8)
    (one,) = exchange(first, second, TxFrame(frame(), vlan_tci=7, outer_tci=5))
    data = frame((0x88A8, 5), (0x8100, 7))
    assert one.data == data + fcs(data)


def test_too_long_counts_without_the_fcs(bench: Bench) -> None:
    first, second = bench.start(keep_crc=True, run=False)
    first.start(1)
    second.start(1, keep_crc=True, max_frame=200)
    fits, long = frame(size=200 - 42), frame(size=201 - 42)
    got = exchange(first, second, fits, long)
    assert [one.data for one in got] == [fits + fcs(fits)]
    assert second.stats().rx_discards == 1


def test_dot1q_of_scapy_agrees_with_the_frames_here() -> None:
    built = Ether(src=MACS[0], dst=MACS[1]) / Dot1Q(vlan=5) / IP(frame()[14:])
    assert bytes(built) == frame((0x8100, 5))
