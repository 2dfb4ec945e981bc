"""Events: their 16 bytes, when they come and when they must not."""

import pytest

from emuiavf.policy import LinkPolicy, VfPolicy
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from emuiavf.virtchnl.session import Reply
from emuiavf.virtchnl.state import Link
from tests.fakes.vf import ALL_CAPS, FakeVf

UP_100G = bytes.fromhex("01000000 a0860100 01 000000 00000000")
DOWN = bytes.fromhex("01000000 00000000 00 000000 00000000")


def test_link_event_follows_the_answer_of_get_vf_resources() -> None:
    posted = FakeVf().post(Op.GET_VF_RESOURCES, m.CapRequest(ALL_CAPS))
    assert [reply.opcode for reply in posted] == [Op.GET_VF_RESOURCES, Op.EVENT]  # type: ignore[union-attr]


@pytest.mark.trap(1)
def test_link_event_follows_the_answer_of_enable_queues() -> None:
    vf = FakeVf().bring_up().configure(0)
    posted = vf.post(Op.ENABLE_QUEUES, m.QueueSelect(1, 1, 1))
    assert posted == [Reply(Op.ENABLE_QUEUES), Reply(Op.EVENT, body=UP_100G)]


@pytest.mark.trap(2)
def test_link_event_follows_every_enable_queues() -> None:
    vf = FakeVf().bring_up().configure(0)
    vf.post(Op.ENABLE_QUEUES, m.QueueSelect(1, 1, 1))
    assert len(vf.post(Op.ENABLE_QUEUES, m.QueueSelect(1, 1, 1))) == 2


def test_refused_enable_queues_has_no_link_event() -> None:
    posted = FakeVf().bring_up().post(Op.ENABLE_QUEUES, m.QueueSelect(1, 1, 1))
    assert posted == [Reply(Op.ENABLE_QUEUES, Status.ERR_PARAM)]


@pytest.mark.trap(3)
def test_no_event_before_get_vf_resources() -> None:
    vf = FakeVf()
    assert vf.post(Op.VERSION, m.Version(1, 1)) == [
        Reply(Op.VERSION, body=m.Version(1, 1).encode())
    ]
    assert vf.session.link_event() == []
    assert vf.session.set_link(Link(up=False)) == []
    assert vf.session.reset_impending() == []


@pytest.mark.trap(3)
def test_no_event_between_a_reset_and_get_vf_resources() -> None:
    vf = FakeVf().bring_up()
    vf.session.reset()
    assert vf.session.link_event() == []


@pytest.mark.trap(4)
def test_events_are_16_bytes() -> None:
    vf = FakeVf().bring_up()
    posted = [*vf.session.link_event(), *vf.session.reset_impending()]
    assert [(reply.opcode, len(reply.body)) for reply in posted] == [(17, 16), (17, 16)]


def test_link_change_of_the_port_is_reported() -> None:
    vf = FakeVf().bring_up()
    assert vf.session.set_link(Link(up=False)) == [Reply(Op.EVENT, body=DOWN)]
    assert vf.session.set_link(Link(up=True)) == [Reply(Op.EVENT, body=UP_100G)]


@pytest.mark.parametrize(
    ("policy", "port_up", "body"),
    [
        (LinkPolicy.AUTO, True, UP_100G),
        (LinkPolicy.AUTO, False, DOWN),
        (LinkPolicy.ENABLE, False, UP_100G),
        (LinkPolicy.DISABLE, True, DOWN),
    ],
)
def test_link_policy_overrides_the_port(policy: LinkPolicy, port_up: bool, body: bytes) -> None:
    vf = FakeVf(VfPolicy(link_state=policy)).bring_up()
    assert vf.session.set_link(Link(up=port_up))[0].body == body


@pytest.mark.parametrize(
    ("mbps", "code"),
    [
        (10, 0),
        (100, 0x02),
        (1000, 0x04),
        (2500, 0x01),
        (5000, 0x80),
        (10000, 0x08),
        (20000, 0x20),
        (25000, 0x40),
        (40000, 0x10),
        (50000, 0x10),
        (100000, 0x10),
    ],
)
def test_speed_is_a_code_without_adv_link_speed(mbps: int, code: int) -> None:
    vf = FakeVf().bring_up(ALL_CAPS & ~Cap.ADV_LINK_SPEED)
    event = m.PfEvent.decode(vf.session.set_link(Link(speed_mbps=mbps))[0].body)
    assert (event.link_speed, event.link_status) == (code, 1)


@pytest.mark.parametrize("mbps", [1000, 25000, 400000])
def test_speed_is_in_mbps_with_adv_link_speed(mbps: int) -> None:
    vf = FakeVf().bring_up()
    event = m.PfEvent.decode(vf.session.set_link(Link(speed_mbps=mbps))[0].body)
    assert event.link_speed == mbps


def test_reset_notice_is_the_event_that_dpdk_waits_for() -> None:
    vf = FakeVf().bring_up()
    body = bytes.fromhex("02000000 00000000 00 000000 ff000000")
    assert vf.session.reset_impending() == [Reply(Op.EVENT, body=body)]


@pytest.mark.parametrize("policy", LinkPolicy)
def test_cut_link_is_down_whatever_was_decided(policy: LinkPolicy) -> None:
    vf = FakeVf(VfPolicy(link_state=policy)).bring_up()
    before = vf.session.link_event()
    assert vf.session.cut_link(True) == [Reply(Op.EVENT, body=DOWN)]
    assert vf.session.cut_link(False) == before
