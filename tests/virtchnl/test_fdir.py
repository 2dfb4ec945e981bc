"""ADD_FDIR_FILTER and DEL_FDIR_FILTER: rules, limits, and the refusals of ice."""

from dataclasses import replace
from typing import Any

import pytest

from emuiavf.emudev.info import FlowAction, FlowBase, FlowRule, FlowWord
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.fdir import MAX_PATTERNS, MAX_RULES
from emuiavf.virtchnl.ops import Action, FdirStatus, Op, Proto, Status
from tests.fakes.vf import FakeVf

SRC, DST = 1, 2
QUEUE_3 = m.FilterAction(Action.QUEUE, 3)
DROP = m.FilterAction(Action.DROP)
PASS = m.FilterAction(Action.PASSTHRU)


def ipv4(fields: int, src: int = 0x0A000001, dst: int = 0x0A000002, **rest: int) -> m.ProtoHdr:
    fields_after_id = bytes([rest.get("ttl", 0), rest.get("proto", 0)])
    header = bytes([0, rest.get("tos", 0)]) + bytes(6) + fields_after_id
    addresses = src.to_bytes(4, "big") + dst.to_bytes(4, "big")
    return m.ProtoHdr(Proto.IPV4, fields, header + bytes(2) + addresses + bytes(44))


def l4(proto: Proto, fields: int, src: int = 0, dst: int = 0) -> m.ProtoHdr:
    return m.ProtoHdr(proto, fields, src.to_bytes(2, "big") + dst.to_bytes(2, "big") + bytes(60))


def ether(fields: int, ethertype: int = 0) -> m.ProtoHdr:
    return m.ProtoHdr(Proto.ETH, fields, bytes(12) + ethertype.to_bytes(2, "big") + bytes(50))


def bare(proto: Proto, fields: int = 1) -> m.ProtoHdr:
    return m.ProtoHdr(proto, fields, bytes(64))


TCP_80 = (ipv4(0), l4(Proto.TCP, DST, dst=80))


def ask(
    vf: FakeVf, headers: Any, *actions: m.FilterAction, **fields: int
) -> tuple[Status, m.FdirAdd | None]:
    """Status of the message, and the answer's data where it has any."""
    request = m.FdirAdd.of(headers, actions or (QUEUE_3,), **{"vsi_id": 1, **fields})
    answer = vf.send(Op.ADD_FDIR_FILTER, request)
    return answer.status, m.FdirAdd.decode(answer.body) if answer.body else None


def add(vf: FakeVf, headers: Any, *actions: m.FilterAction) -> int:
    """A rule that must be accepted; returns its id."""
    status, answer = ask(vf, headers, *actions)
    assert answer is not None
    assert (status, answer.status) == (Status.SUCCESS, FdirStatus.SUCCESS)
    return answer.flow_id


def outcome(vf: FakeVf, headers: Any, *actions: m.FilterAction) -> FdirStatus:
    """Why a sensible rule is not made; the message itself succeeds and nothing changes."""
    before = vf.snapshot()
    status, answer = ask(vf, headers, *actions)
    assert answer is not None
    assert status == Status.SUCCESS
    assert vf.snapshot() == before
    return FdirStatus(answer.status)


def remove(vf: FakeVf, flow_id: int) -> FdirStatus:
    answer = vf.send(Op.DEL_FDIR_FILTER, m.FdirDel(1, flow_id))
    assert answer.status == Status.SUCCESS
    return FdirStatus(m.FdirDel.decode(answer.body).status)


def rules(vf: FakeVf) -> tuple[FlowRule, ...]:
    calls = [call[1] for call in vf.datapath.calls if call[0] == "set_flows"]
    return calls[-1] if calls else ()


def test_rule_reaches_the_data_path_as_words_and_values() -> None:
    vf = FakeVf().bring_up()
    headers = (ether(0), ipv4(SRC | DST), l4(Proto.TCP, SRC | DST, 1000, 80))
    flow_id = add(vf, headers, QUEUE_3, m.FilterAction.mark(0xDEADBEEF))
    assert rules(vf) == (
        FlowRule(
            flow_id,
            frozenset({26}),
            (FlowWord(FlowBase.L3, 12), FlowWord(FlowBase.L3, 16), FlowWord(FlowBase.L4)),
            (0x0A000001, 0x0A000002, 1000 << 16 | 80),
            FlowAction.QUEUE,
            queue=3,
            mark=0xDEADBEEF,
        ),
    )


def test_answer_is_zero_but_for_id_and_status() -> None:
    vf = FakeVf().bring_up()
    add(vf, TCP_80)
    request = m.FdirAdd.of((ipv4(0), l4(Proto.TCP, DST, dst=81)), (DROP,), 1)
    assert vf.send(Op.ADD_FDIR_FILTER, request).body == bytes(4) + b"\1\0\0\0" + bytes(2608)


def test_fields_that_are_not_selected_do_not_matter() -> None:
    vf = FakeVf().bring_up()
    add(vf, (ipv4(SRC, src=5, dst=99), l4(Proto.UDP, DST, src=7, dst=80)))
    (rule,) = rules(vf)
    assert rule.words == (FlowWord(FlowBase.L3, 12), FlowWord(FlowBase.L4, 0, 0xFFFF))
    assert rule.values == (5, 80)


def test_small_fields_of_ip() -> None:
    vf = FakeVf().bring_up()
    add(vf, (ipv4(4 | 8 | 16, tos=0xFF, ttl=64, proto=89),))
    (rule,) = rules(vf)
    assert rule.words == (
        FlowWord(FlowBase.L3, 8, 0xFFFF_0000),
        FlowWord(FlowBase.L3, 0, 0x00FC_0000),
    )
    assert rule.values == (64 << 24 | 89 << 16, 0x00FC_0000)
    assert rule.ptypes == frozenset(range(22, 29))


def test_ethertype_is_for_what_is_not_ip() -> None:
    vf = FakeVf().bring_up()
    add(vf, (ether(4, 0x88B5),))
    (rule,) = rules(vf)
    assert (rule.words, rule.values) == ((FlowWord(FlowBase.L3, -4, 0xFFFF),), (0x88B5,))
    assert rule.ptypes == frozenset({1, 2, 6, 11})


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ((DROP,), {"action": FlowAction.DROP}),
        ((PASS,), {"action": FlowAction.PASS}),
        ((PASS, m.FilterAction.mark(0)), {"action": FlowAction.PASS, "mark": 0}),
        ((QUEUE_3, m.FilterAction(Action.COUNT)), {"action": FlowAction.QUEUE, "queue": 3}),
        (
            (m.FilterAction(Action.Q_REGION, 2, 1),),
            {"action": FlowAction.QUEUE, "queue": 2, "region": 1},
        ),
    ],
)
def test_actions(actions: tuple[m.FilterAction, ...], expected: dict[str, int]) -> None:
    vf = FakeVf().bring_up()
    add(vf, TCP_80, *actions)
    (rule,) = rules(vf)
    assert {name: getattr(rule, name) for name in expected} == expected


def test_raw_rule_compares_the_bits_of_its_mask() -> None:
    vf = FakeVf().bring_up()
    spec, mask = bytes(range(38)), bytes(12) + b"\xff\xff" + bytes(20) + b"\xf0\x00\x0f\xff"
    add(vf, m.raw_pattern(spec, mask))
    (rule,) = rules(vf)
    assert rule.ptypes is None
    assert rule.words == (
        FlowWord(FlowBase.FRAME, 12, 0xFFFF_0000),
        FlowWord(FlowBase.FRAME, 32, 0x0000_F000),
        FlowWord(FlowBase.FRAME, 36, 0x0FFF_0000),
    )
    assert rule.values == (0x0C0D_0000, 0x0000_2000, 0x0425_0000)


RAW_REFUSED = {
    "empty": m.raw_pattern(b"", b""),
    "longer than there is room": (1025).to_bytes(2, "little") + bytes(2048),
    "no bit counts": m.raw_pattern(bytes(64), bytes(64)),
    "beyond the head": m.raw_pattern(bytes(200), bytes(128) + b"\1"),
}
REFUSED: dict[str, tuple[m.ProtoHdr, ...]] = {
    "TCP without IP": (l4(Proto.TCP, DST, dst=80),),
    "two IP headers": (ipv4(SRC), ipv4(SRC)),
    "VLAN": (bare(Proto.C_VLAN), ipv4(SRC)),
    "fragment": (ipv4(SRC), bare(Proto.IPV4_FRAG)),
    "type 0": (bare(Proto.NONE), ipv4(SRC)),
    "unknown type": (m.ProtoHdr(99, 1, bytes(64)),),
    **{
        f"{proto.name}, which is not parsed": (ipv4(SRC), bare(proto))
        for proto in Proto
        if proto >= Proto.GTPU_IP and proto not in (Proto.IPV4_FRAG, Proto.IPV6_EH_FRAG)
    },
}


def refused(vf: FakeVf, headers: Any, *actions: m.FilterAction) -> None:
    before = vf.snapshot()
    status, answer = ask(vf, headers, *actions)
    assert answer is not None
    assert (status, answer.status) == (Status.ERR_PARAM, FdirStatus.FAILURE_RULE_INVALID)
    assert vf.snapshot() == before


@pytest.mark.parametrize("name", REFUSED)
def test_pattern_that_is_refused(name: str) -> None:
    refused(FakeVf().bring_up(), REFUSED[name])


@pytest.mark.parametrize("name", RAW_REFUSED)
def test_raw_pattern_that_is_refused(name: str) -> None:
    refused(FakeVf().bring_up(), RAW_REFUSED[name])


@pytest.mark.parametrize(
    "actions",
    [
        (m.FilterAction.mark(1),),
        (DROP, QUEUE_3),
        (PASS, m.FilterAction.mark(1), m.FilterAction.mark(2)),
        (m.FilterAction(Action.TC_REDIRECT),),
        (m.FilterAction(7),),
        (m.FilterAction(-1),),
        (m.FilterAction(Action.QUEUE, 4),),
        (m.FilterAction(Action.Q_REGION, 0, 3),),
        (m.FilterAction(Action.Q_REGION, 0, 8),),
        (m.FilterAction(Action.Q_REGION, 3, 1),),
        (m.FilterAction(Action.COUNT),),
    ],
)
def test_actions_that_are_refused(actions: tuple[m.FilterAction, ...]) -> None:
    refused(FakeVf().bring_up(), TCP_80, *actions)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": -1},
        {"count": 33},
        {"count": 48},
        {"tunnel_level": 1, "count": 0},
        {"action_count": -1},
        {"action_count": 0},
        {"action_count": 9},
    ],
)
def test_counts_beyond_their_lists_are_refused(changes: dict[str, int]) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    answer = vf.send(Op.ADD_FDIR_FILTER, replace(m.FdirAdd.of(TCP_80, (DROP,), 1), **changes))
    assert answer.status == Status.ERR_PARAM
    assert m.FdirAdd.decode(answer.body).status == FdirStatus.FAILURE_RULE_INVALID
    assert vf.snapshot() == before


def test_rule_for_another_vsi_is_refused_without_data() -> None:
    vf = FakeVf().bring_up()
    assert ask(vf, TCP_80, vsi_id=2) == (Status.ERR_PARAM, None)
    answer = vf.send(Op.DEL_FDIR_FILTER, m.FdirDel(2, 0))
    assert (answer.status, answer.body) == (Status.ERR_PARAM, b"")


def test_validation_makes_no_rule() -> None:
    vf = FakeVf().bring_up()
    status, answer = ask(vf, TCP_80, validate_only=1)
    assert answer is not None
    assert (status, answer.status, rules(vf)) == (Status.SUCCESS, FdirStatus.SUCCESS, ())


def test_same_rule_again_exists_whatever_its_action() -> None:
    vf = FakeVf().bring_up()
    add(vf, TCP_80)
    assert outcome(vf, TCP_80, DROP) is FdirStatus.FAILURE_RULE_EXIST
    add(vf, m.raw_pattern(bytes(20), b"\xff" * 20))
    raw = m.raw_pattern(bytes(20), b"\xff" * 20)
    assert outcome(vf, raw) is FdirStatus.FAILURE_RULE_EXIST


@pytest.mark.parametrize(
    "headers",
    [
        (ipv4(0), l4(Proto.TCP, SRC, src=80)),
        (ipv4(SRC), l4(Proto.TCP, DST, dst=80)),
        (ipv4(SRC),),
        (ipv4(0), l4(Proto.UDP, 0)),
        (ether(SRC | DST),),
    ],
    ids=["other port", "more fields", "IPv4 as a whole", "no field", "no field that is compared"],
)
def test_rule_that_conflicts_with_tcp_port_80(headers: tuple[m.ProtoHdr, ...]) -> None:
    vf = FakeVf().bring_up()
    add(vf, TCP_80)
    assert outcome(vf, headers) is FdirStatus.FAILURE_RULE_CONFLICT


def test_conflict_ends_with_the_last_rule_of_its_kind() -> None:
    vf = FakeVf().bring_up()
    flow_id = add(vf, TCP_80)
    add(vf, (ipv4(0), l4(Proto.UDP, SRC, src=53)))
    assert remove(vf, flow_id) is FdirStatus.SUCCESS
    add(vf, (ipv4(0), l4(Proto.TCP, SRC, src=80)))


def test_raw_rules_conflict_with_nothing() -> None:
    vf = FakeVf().bring_up()
    add(vf, TCP_80)
    for at in range(5):
        add(vf, m.raw_pattern(bytes(40), bytes(at) + b"\xff"))


def test_no_more_than_128_rules() -> None:
    vf = FakeVf().bring_up()
    ids = [add(vf, (ipv4(0), l4(Proto.TCP, DST, dst=port))) for port in range(MAX_RULES)]
    assert ids == list(range(128))
    before = vf.snapshot()
    assert ask(vf, (ipv4(0), l4(Proto.TCP, DST, dst=999))) == (Status.ERR_PARAM, None)
    assert vf.snapshot() == before
    assert remove(vf, 77) is FdirStatus.SUCCESS
    assert add(vf, (ipv4(0), l4(Proto.TCP, DST, dst=999))) == 77


def test_no_more_than_32_patterns() -> None:
    vf = FakeVf().bring_up()
    for at in range(MAX_PATTERNS):
        add(vf, m.raw_pattern(bytes(64), bytes(at) + b"\xff"))
    fresh = m.raw_pattern(bytes(64), bytes(50) + b"\xff")
    assert outcome(vf, fresh) is FdirStatus.FAILURE_RULE_NORESOURCE
    add(vf, m.raw_pattern(b"\1" + bytes(63), b"\xff"))


@pytest.mark.parametrize("flow_id", [0, 127, 128, 0xFFFF_FFFF])
def test_removal_of_what_does_not_exist(flow_id: int) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert remove(vf, flow_id) is FdirStatus.FAILURE_RULE_NONEXIST
    assert vf.snapshot() == before


def test_reset_forgets_rules() -> None:
    vf = FakeVf().bring_up()
    add(vf, TCP_80)
    vf.session.reset()
    assert rules(vf) == ()
    assert vf.session.vf.config.fdir == {}


@pytest.mark.parametrize(
    ("asked", "granted"), [(1 << 28 | 1 << 11, 1 << 28 | 1 << 11), (1 << 11, 0)]
)
def test_raw_rules_of_tc_are_granted_with_the_flow_director_only(asked: int, granted: int) -> None:
    assert FakeVf().bring_up().resources(asked).vf_cap_flags == granted


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (m.FilterAction(3, 0x1122), "03000000 2211 0000" + "00" * 28),
        (m.FilterAction(4, 2, 3), "04000000 0200 03 00" + "00" * 28),
        (m.FilterAction.mark(0x11223344), "05000000 44332211" + "00" * 28),
        (m.FdirDel(1, 0x11223344, -2), "0100 0000 44332211 feffffff"),
        (m.ProtoHdr(4, 3, bytes([9] * 64)), "04000000 03000000" + "09" * 64),
    ],
)
def test_structure_bytes(made: Any, expected: str) -> None:
    assert made.encode() == bytes.fromhex(expected)


def test_parts_of_a_rule_stand_where_ice_reads_them() -> None:
    data = m.FdirAdd.of((ipv4(3),), (DROP, m.FilterAction.mark(7)), 1, 1).encode()
    assert data[:4] == bytes.fromhex("0100 0100")
    assert data[8:24] == bytes.fromhex("00000000 01000000 04000000 03000000")
    assert data[2320:2332] == bytes.fromhex("02000000 00000000 00000000")
    assert data[2324 + 36 : 2324 + 44] == bytes.fromhex("05000000 07000000")
    assert len(data) == 2616
