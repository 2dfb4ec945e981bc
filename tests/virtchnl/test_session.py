"""Dispatch: who may send what when, refusals that change nothing, answers before events."""

import pytest

from emuiavf.errors import MemoryFault
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import Cap, Op, Status
from emuiavf.virtchnl.resources import GRANTED
from emuiavf.virtchnl.session import RULES, Reply, ResetRequest, Session
from emuiavf.virtchnl.state import VfState
from tests.fakes.vf import ALL_CAPS, LIMITS, POLICY, FakeDatapath, FakeVf, caps_for, valid_requests

ANY_TIME = {Op.VERSION, Op.RESET_VF, Op.GET_VF_RESOURCES}
NEEDS = {
    Cap.L2: {Op.ADD_ETH_ADDR, Op.DEL_ETH_ADDR, Op.CONFIG_PROMISCUOUS_MODE},
    Cap.REQ_QUEUES: {Op.REQUEST_QUEUES},
    Cap.ADV_RSS_PF: {Op.ADD_RSS_CFG, Op.DEL_RSS_CFG},
    Cap.FDIR_PF: {Op.ADD_FDIR_FILTER, Op.DEL_FDIR_FILTER},
    Cap.RX_FLEX_DESC: {Op.GET_SUPPORTED_RXDIDS},
    Cap.LARGE_NUM_QPAIRS: {
        Op.GET_MAX_RSS_QREGION,
        Op.ENABLE_QUEUES_V2,
        Op.DISABLE_QUEUES_V2,
        Op.MAP_QUEUE_VECTOR,
    },
    Cap.RSS_PF: {
        Op.CONFIG_RSS_KEY,
        Op.CONFIG_RSS_LUT,
        Op.GET_RSS_HENA_CAPS,
        Op.SET_RSS_HENA,
        Op.CONFIG_RSS_HFUNC,
    },
    Cap.QOS: {
        Op.GET_QOS_CAPS,
        Op.CONFIG_QUEUE_TC_MAP,
        Op.CONFIG_QUEUE_BW,
        Op.CONFIG_QUANTA,
    },
    Cap.PTP: {Op.PTP_GET_CAPS, Op.PTP_GET_TIME},
    Cap.VLAN: {Op.ADD_VLAN, Op.DEL_VLAN, Op.ENABLE_VLAN_STRIPPING},
    Cap.VLAN_V2: {
        Op.GET_OFFLOAD_VLAN_V2_CAPS,
        Op.ADD_VLAN_V2,
        Op.DEL_VLAN_V2,
        Op.ENABLE_VLAN_STRIPPING_V2,
        Op.DISABLE_VLAN_STRIPPING_V2,
        Op.ENABLE_VLAN_INSERTION_V2,
        Op.DISABLE_VLAN_INSERTION_V2,
    },
}
WITH_NEED = [(op, cap) for cap, ops in NEEDS.items() for op in ops]
NO_ANSWER = {Op.RESET_VF, Op.REQUEST_QUEUES}
ANSWERED = [op for op in RULES if op not in NO_ANSWER]
NOT_SERVED = [*sorted(set(range(140)) - set(RULES)), 0x7FFF_FFFF, 0xFFFF_FFFF]


def refusal(op: int, status: Status) -> list[Reply]:
    return [Reply(op, status)]


def test_rules_layouts_and_examples_name_the_same_opcodes() -> None:
    assert RULES.keys() == m.LAYOUTS.keys() == valid_requests().keys()


@pytest.mark.parametrize("op", sorted(RULES.keys() - ANY_TIME))
def test_before_get_vf_resources_is_not_supported(op: Op) -> None:
    vf = FakeVf()
    vf.send(Op.VERSION, m.Version(1, 1))
    before = vf.snapshot()
    assert vf.post(op, *valid_requests()[op]) == refusal(op, Status.NOT_SUPPORTED)
    assert vf.snapshot() == before


@pytest.mark.parametrize("op", ["VERSION", "GET_VF_RESOURCES"])
def test_first_messages_are_served_at_first(op: str) -> None:
    assert FakeVf().status(Op[op], *valid_requests()[Op[op]]) == Status.SUCCESS


@pytest.mark.parametrize("op", ANSWERED)
@pytest.mark.trap(37)
def test_active_vf_gets_one_answer_with_its_opcode(op: Op) -> None:
    vf = FakeVf().bring_up(caps_for(op)).configure(0)
    posted = vf.post(op, *valid_requests()[op])
    assert [a.opcode for a in posted if isinstance(a, Reply) and a.opcode != Op.EVENT] == [op]
    assert posted[0] == Reply(op, Status.SUCCESS, posted[0].body)  # type: ignore[union-attr]


def test_requests_are_counted_by_opcode_as_answered_or_refused() -> None:
    vf = FakeVf()
    vf.session.handle(Op.GET_STATS, b"")
    vf.bring_up()
    vf.session.handle(Op.PTP_GET_CAPS + 7000, b"")
    vf.session.handle(Op.RESET_VF, b"")
    vf.session.handle(Op.VERSION, b"")
    assert vf.session.answered == {Op.VERSION: 1, Op.GET_VF_RESOURCES: 1, Op.RESET_VF: 1}
    assert vf.session.refused == {Op.GET_STATS: 1, Op.UNKNOWN: 1}


@pytest.mark.parametrize("op", RULES)
def test_between_reset_request_and_reset_nothing_is_answered(op: Op) -> None:
    vf = FakeVf().bring_up()
    vf.post(Op.RESET_VF)
    before = vf.snapshot()
    assert vf.post(op, *valid_requests()[op]) == []
    assert vf.session.link_event() == []
    assert vf.snapshot() == before


@pytest.mark.parametrize("op", sorted(RULES.keys() - ANY_TIME))
def test_after_a_reset_is_not_supported_until_get_vf_resources(op: Op) -> None:
    vf = FakeVf().bring_up()
    vf.post(Op.RESET_VF)
    vf.session.reset()
    assert vf.post(op, *valid_requests()[op]) == refusal(op, Status.NOT_SUPPORTED)


@pytest.mark.parametrize(("op", "cap"), WITH_NEED)
def test_without_its_capability_is_not_supported(op: Op, cap: Cap) -> None:
    vf = FakeVf().bring_up(ALL_CAPS & ~cap)
    before = vf.snapshot()
    assert vf.post(op, *valid_requests()[op]) == refusal(op, Status.NOT_SUPPORTED)
    assert vf.snapshot() == before


@pytest.mark.parametrize(("op", "cap"), WITH_NEED)
@pytest.mark.trap(17)
def test_with_its_capability_alone_is_served(op: Op, cap: Cap) -> None:
    vf = FakeVf().bring_up(cap).configure(0)
    posted = vf.post(op, *valid_requests()[op])
    assert not [a for a in posted if isinstance(a, Reply) and a.status != Status.SUCCESS]


@pytest.mark.parametrize("op", sorted(RULES.keys() - ANY_TIME - {o for o, _ in WITH_NEED}))
def test_base_opcode_needs_no_capability(op: Op) -> None:
    vf = FakeVf().bring_up(0).configure(0)
    assert vf.status(op, *valid_requests()[op]) == Status.SUCCESS


@pytest.mark.parametrize("opcode", NOT_SERVED)
def test_opcode_not_served_is_not_supported(opcode: int) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert vf.session.handle(opcode, bytes(64)) == refusal(opcode, Status.NOT_SUPPORTED)
    assert vf.snapshot() == before


@pytest.mark.trap(17)
def test_capability_is_granted_only_with_opcodes_that_are_served() -> None:
    without_opcodes = (
        Cap.WB_ON_ITR
        | Cap.ADV_LINK_SPEED
        | Cap.RX_POLLING
        | Cap.RSS_PCTYPE_V2
        | Cap.TC_U32
        | Cap.CRC
        | Cap.ENCAP
        | Cap.ENCAP_CSUM
        | Cap.USO
    )  # answered by the data path, the link event, an echo, or the flow director
    served = Cap.NONE
    for rule in RULES.values():
        served |= rule.needs
    assert served | without_opcodes == GRANTED


def test_refusal_names_the_fault_but_not_to_the_guest() -> None:
    vf = FakeVf().bring_up()
    answer = vf.send(Op.DISABLE_QUEUES, m.QueueSelect(7, 1, 1))
    assert answer.fault == "vsi_id=7, this VF has 1"
    assert answer.body == b""


def test_memory_fault_of_the_data_path_is_a_refusal() -> None:
    vf = FakeVf().bring_up().configure(0)

    def refuse(rx: int, tx: int) -> None:
        raise MemoryFault("ring is not mapped")

    vf.datapath.enable_queues = refuse  # type: ignore[method-assign]
    before = vf.snapshot()
    assert vf.post(Op.ENABLE_QUEUES, m.QueueSelect(1, 1, 1)) == refusal(8, Status.ERR_PARAM)
    assert vf.snapshot() == before


def test_reset_vf_is_not_answered() -> None:
    vf = FakeVf().bring_up()
    assert vf.post(Op.RESET_VF) == [ResetRequest(Op.RESET_VF)]
    assert vf.session.vf.state is VfState.RESETTING


def test_reset_vf_is_served_before_anything_else() -> None:
    assert FakeVf().post(Op.RESET_VF) == [ResetRequest(Op.RESET_VF)]


def test_new_session_tells_the_data_path_its_defaults() -> None:
    assert FakeVf().datapath.names() == [
        "set_rx_filter",
        "set_rss",
        "set_flows",
        "set_vlan_offload",
        "set_tx_shaping",
    ]


def test_rss_key_is_random_unless_given() -> None:
    keys = [Session(POLICY, LIMITS, FakeDatapath()).vf.config.rss.key for _ in range(2)]
    assert [len(key) for key in keys] == [52, 52]
    assert keys[0] != keys[1]
