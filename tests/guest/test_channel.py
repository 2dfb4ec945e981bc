"""Admin queue, requests and settings of the driver against a PF made of registers."""

import os
import struct
from collections.abc import Iterator

import pytest

from emuiavf.guest.adminq import RING_LEN, AdminQueue, AdminQueueError
from emuiavf.guest.channel import LinkState, NoAnswer, RequestRefused, Virtchnl
from emuiavf.guest.memory import DmaMemory
from emuiavf.guest.settings import Settings
from emuiavf.virtchnl.messages import QueueRequest, QueueSelect
from emuiavf.virtchnl.ops import Op
from tests.fakes.pf import ARQBAL, ARQLEN, ATQBAL, ATQLEN, FakePf

LINK_UP = struct.pack("<iIBxxxi", 1, 100_000, 1, 0)
RESET_IMPENDING = struct.pack("<iIBxxxi", 2, 0, 0, 255)


@pytest.fixture
def pf(memory: DmaMemory) -> Iterator[FakePf]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield FakePf(memory, fd)
    os.close(fd)


@pytest.fixture
def channel(pf: FakePf, memory: DmaMemory) -> Virtchnl:
    channel = Virtchnl(AdminQueue(pf, memory, pf.irq_fd))  # type: ignore[arg-type]
    channel.open()
    return channel


@pytest.fixture
def settings(channel: Virtchnl) -> Settings:
    return Settings(channel, vsi_id=1)


def test_open_enables_both_rings_and_posts_buffers(pf: FakePf, channel: Virtchnl) -> None:
    assert pf.registers[ATQLEN] == RING_LEN | 1 << 31
    assert pf.registers[ARQLEN] == RING_LEN | 1 << 31
    assert pf.registers[0x7000] == RING_LEN - 1
    assert pf.registers[0x5000] == 1 << 30
    assert pf.registers[ATQBAL] != pf.registers[ARQBAL]


def test_request_sends_opcode_and_body_and_returns_the_data(pf: FakePf, channel: Virtchnl) -> None:
    pf.answers[Op.GET_STATS] = (0, b"\x07" * 96)

    assert channel.request(Op.GET_STATS, QueueSelect(1)) == b"\x07" * 96
    assert pf.requests == [(15, b"\x01" + bytes(11))]


def test_more_requests_than_the_ring_has_slots(pf: FakePf, channel: Virtchnl) -> None:
    for number in range(3 * RING_LEN):
        pf.answers[Op.GET_STATS] = (0, bytes([number]))
        assert channel.request(Op.GET_STATS, QueueSelect(1)) == bytes([number])


def test_refusal_names_opcode_and_status(pf: FakePf, channel: Virtchnl) -> None:
    pf.answers[Op.ENABLE_QUEUES] = (-5, b"")

    with pytest.raises(RequestRefused, match="ENABLE_QUEUES: refused with ERR_PARAM") as caught:
        channel.request(Op.ENABLE_QUEUES, QueueSelect(1, 1, 1))
    assert caught.value.status == -5


def test_silence_raises_after_the_deadline(pf: FakePf, channel: Virtchnl) -> None:
    pf.answers[Op.GET_STATS] = None

    with pytest.raises(NoAnswer, match="GET_STATS"):
        channel.request(Op.GET_STATS, QueueSelect(1), timeout_s=0.02)


def test_late_answer_is_not_taken_for_the_next(pf: FakePf, channel: Virtchnl) -> None:
    pf.answers[Op.GET_STATS] = None
    with pytest.raises(NoAnswer):
        channel.request(Op.GET_STATS, QueueSelect(1), timeout_s=0.01)
    pf.post(Op.GET_STATS, 0, b"late")
    pf.answers[Op.GET_STATS] = (0, b"fresh")

    assert channel.request(Op.GET_STATS, QueueSelect(1)) == b"fresh"


def test_link_event_is_kept(pf: FakePf, channel: Virtchnl) -> None:
    pf.events.append(LINK_UP)
    channel.request(Op.ENABLE_QUEUES, QueueSelect(1, 1, 1))

    assert channel.wait_link(0.1)
    assert channel.link == LinkState(True, 100_000)


def test_link_that_stays_down_is_reported(channel: Virtchnl) -> None:
    assert not channel.wait_link(0.02)


def test_announced_reset_is_remembered_until_reopened(pf: FakePf, channel: Virtchnl) -> None:
    pf.post(Op.EVENT, 0, RESET_IMPENDING)
    channel.poll()
    assert channel.reset_announced

    channel.open()

    assert not channel.reset_announced


def test_failed_descriptor_is_an_error(pf: FakePf, channel: Virtchnl) -> None:
    pf.retval = 14

    with pytest.raises(AdminQueueError, match="retval 14"):
        channel.request(Op.GET_STATS, QueueSelect(1))


def test_device_that_does_not_work_the_queue_is_an_error(
    pf: FakePf, channel: Virtchnl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pf, "_work", lambda: None)

    with pytest.raises(AdminQueueError, match="not completed"):
        channel.request(Op.GET_STATS, QueueSelect(1))


def test_refused_queue_request_says_so(pf: FakePf, channel: Virtchnl) -> None:
    with pytest.raises(RequestRefused, match="REQUEST_QUEUES"):
        channel.request_reset(QueueRequest(99), 1.0)


def test_reset_ends_the_queue_request(
    pf: FakePf, channel: Virtchnl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pf, "_on_request", lambda op, body: pf.reset())

    channel.request_reset(QueueRequest(4), 1.0)

    assert not channel.queue.is_enabled


def test_addresses_are_sent_as_a_padded_list(pf: FakePf, settings: Settings) -> None:
    settings.add_macs(b"\x02abcde")

    assert pf.requests == [
        (10, b"\x01\x00\x01\x00" + b"\x02abcde\x02\x00" + bytes(8)),
    ]


def test_vlans_are_outer_filters_of_0x8100(pf: FakePf, settings: Settings) -> None:
    settings.add_vlans(100)

    body = b"\x01\x00\x01\x00" + bytes(12) + b"\x64\x00\x00\x00\x00\x81" + bytes(18)
    assert pf.requests == [(52, body)]


def test_refused_setting_is_not_recorded(pf: FakePf, settings: Settings) -> None:
    pf.answers[Op.ADD_VLAN_V2] = (-5, b"")

    with pytest.raises(RequestRefused):
        settings.add_vlans(100)

    assert settings.vlans == set()


def test_replay_asks_for_everything_that_is_set_and_no_more(pf: FakePf, settings: Settings) -> None:
    settings.set_rss(bytes(52), bytes(64), 7)
    settings.add_macs(b"\x02abcde", b"\x02abcdf")
    settings.remove_macs(b"\x02abcdf")
    settings.add_vlans(5, 6)
    settings.remove_vlans(6)
    settings.set_promiscuous(unicast=True, multicast=False)
    settings.set_vlan_strip(True)
    settings.set_vlan_insert(True)
    settings.set_vlan_insert(False)
    pf.requests.clear()

    settings.replay()

    assert [op for op, _ in pf.requests] == [23, 24, 26, 10, 52, 14, 54]
    assert pf.requests[3][1][:12] == b"\x01\x00\x01\x00" + b"\x02abcde\x02\x00"
