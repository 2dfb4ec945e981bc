"""ADD_RSS_CFG and DEL_RSS_CFG: what is accepted, what it takes the place of, what is refused."""

import pytest

from emuiavf.emudev.info import FlowBase, FlowWord, HashInput, RssConfig
from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import HashFunc, Op, Proto, Status
from tests.fakes.vf import FakeVf

KEY = bytes(range(52))
SUPPORTED = 0x7F9F_E000_0000
PLAIN = RssConfig(KEY, bytes(64), SUPPORTED)
TCP4, UDP4, SCTP4, OTHER4, FRAG4 = 3 << 32, 7 << 29, 1 << 34, 1 << 35, 1 << 36
PTYPE_TCP4, PTYPE_UDP4 = 26, 24
SRC, DST, PROTOCOL = 1, 2, 16

Stack = tuple[tuple[int, int], ...]
TCP4_PORTS: Stack = ((Proto.IPV4, SRC | DST), (Proto.TCP, SRC | DST))


def cfg(*headers: tuple[int, int], algorithm: int = 0, tunnel_level: int = 0) -> m.RssCfg:
    made = [m.ProtoHdr(kind, selector) for kind, selector in headers]
    return m.RssCfg.of(made, algorithm, tunnel_level)


def add(vf: FakeVf, *headers: tuple[int, int], algorithm: int = 0) -> RssConfig:
    assert vf.status(Op.ADD_RSS_CFG, cfg(*headers, algorithm=algorithm)) == Status.SUCCESS
    return now(vf)


def remove(vf: FakeVf, *headers: tuple[int, int], algorithm: int = 0) -> RssConfig:
    assert vf.status(Op.DEL_RSS_CFG, cfg(*headers, algorithm=algorithm)) == Status.SUCCESS
    return now(vf)


def now(vf: FakeVf) -> RssConfig:
    """What the data path does at present."""
    configs = [call[1] for call in vf.datapath.calls if call[0] == "set_rss"]
    return configs[-1] if configs else PLAIN


def empty() -> FakeVf:
    """A VF that hashes nothing, as DPDK makes it first."""
    vf = FakeVf().bring_up()
    assert vf.status(Op.SET_RSS_HENA, m.RssHena(0)) == Status.SUCCESS
    return vf


def test_default_stacks_of_dpdk_are_classes_of_hena_and_cost_nothing() -> None:
    vf = empty()
    for ip in (Proto.IPV4, Proto.IPV6):
        add(vf, (ip, SRC | DST))
        for l4 in (Proto.UDP, Proto.TCP):
            add(vf, (ip, SRC | DST | PROTOCOL), (l4, SRC | DST))
        add(vf, (ip, SRC | DST), (Proto.SCTP, SRC | DST))
    assert now(vf) == PLAIN


@pytest.mark.parametrize("level", [0, 1, 2])
def test_tunnel_level_tells_nothing_of_packets_without_tunnels(level: int) -> None:
    vf = empty()
    message = cfg(*TCP4_PORTS, tunnel_level=level)
    assert vf.status(Op.ADD_RSS_CFG, message) == Status.SUCCESS
    assert now(vf).hena == TCP4


def test_source_address_alone_is_one_word_for_tcp() -> None:
    vf = FakeVf().bring_up()
    made = add(vf, (Proto.IPV4, SRC), (Proto.TCP, 0))
    assert made.hena == SUPPORTED & ~TCP4
    assert made.inputs == {PTYPE_TCP4: HashInput((FlowWord(FlowBase.L3, 12),))}


def test_protocol_counts_only_where_packets_may_be_of_several() -> None:
    vf = FakeVf().bring_up()
    made = add(vf, (Proto.IPV4, SRC | PROTOCOL), (Proto.TCP, 0))
    assert made.inputs[PTYPE_TCP4] == HashInput((FlowWord(FlowBase.L3, 12),))
    made = add(vf, (Proto.IPV4, SRC | PROTOCOL))
    protocol = FlowWord(FlowBase.L3, 8, 0x00FF_0000)
    assert made.inputs[PTYPE_TCP4] == HashInput((FlowWord(FlowBase.L3, 12), protocol))


def test_ports_share_a_word_and_unselected_bits_are_masked() -> None:
    vf = FakeVf().bring_up()
    made = add(vf, (Proto.IPV4, 0), (Proto.UDP, DST))
    assert made.inputs == {PTYPE_UDP4: HashInput((FlowWord(FlowBase.L4, 0, 0xFFFF),))}


def test_ipv4_alone_is_for_all_of_ipv4_and_takes_the_place_of_its_l4() -> None:
    vf = FakeVf().bring_up()
    add(vf, (Proto.IPV4, SRC), (Proto.UDP, 0))
    made = add(vf, (Proto.IPV4, SRC | DST))
    addresses = HashInput((FlowWord(FlowBase.L3, 12), FlowWord(FlowBase.L3, 16)))
    assert made.hena == SUPPORTED & ~(TCP4 | UDP4 | SCTP4)
    assert made.inputs == dict.fromkeys((24, 26, 27), addresses)


def test_l4_after_ipv4_is_narrower_and_its_removal_gives_the_packets_back() -> None:
    vf = empty()
    add(vf, (Proto.IPV4, SRC | DST))
    assert add(vf, *TCP4_PORTS).hena == TCP4 | OTHER4 | FRAG4
    made = remove(vf, *TCP4_PORTS)
    assert made.hena == OTHER4 | FRAG4
    assert set(made.inputs) == {24, 26, 27}
    assert remove(vf, (Proto.IPV4, SRC | DST)) == RssConfig(KEY, bytes(64), 0)


def test_fragments_are_hashed_by_their_id_where_asked() -> None:
    vf = FakeVf().bring_up()
    made = add(vf, (Proto.IPV4, SRC | DST), (Proto.IPV4_FRAG, 1))
    where = (FlowWord(FlowBase.L3, 12), FlowWord(FlowBase.L3, 16))
    assert made.inputs == {22: HashInput((*where, FlowWord(FlowBase.L3, 4, 0xFFFF_0000)))}
    assert made.hena == SUPPORTED & ~FRAG4


def test_symmetric_pairs_addresses_and_folds_ports() -> None:
    vf = FakeVf().bring_up()
    made = add(vf, *TCP4_PORTS, algorithm=HashFunc.SYMMETRIC_TOEPLITZ)
    assert made.inputs[PTYPE_TCP4].pairs == ((0, 1), (2, 2))
    assert made.symmetric is False


def test_symmetric_half_of_a_pair_stays_as_it_is() -> None:
    vf = FakeVf().bring_up()
    made = add(vf, (Proto.IPV4, SRC), (Proto.TCP, DST), algorithm=HashFunc.SYMMETRIC_TOEPLITZ)
    assert made.inputs[PTYPE_TCP4].pairs == ()


def test_hash_function_is_for_every_stack() -> None:
    vf = FakeVf().bring_up()
    add(vf, *TCP4_PORTS, algorithm=HashFunc.SYMMETRIC_TOEPLITZ)
    vf.send(Op.CONFIG_RSS_HFUNC, m.RssHfunc(1, HashFunc.SYMMETRIC_TOEPLITZ))
    assert now(vf) == RssConfig(KEY, bytes(64), SUPPORTED, symmetric=True)
    vf.send(Op.CONFIG_RSS_HFUNC, m.RssHfunc(1, HashFunc.TOEPLITZ))
    assert now(vf) == PLAIN


def test_xor_is_for_the_whole_vf_and_says_nothing_of_its_headers() -> None:
    vf = FakeVf().bring_up()
    made = add(vf, (Proto.GTPC, 1), algorithm=HashFunc.XOR)
    assert (made.xor, made.hena) == (True, 0)
    assert set(made.inputs) == {22, 23, 24, 26, 27, 28, 88, 89, 90, 92, 93, 94}
    assert remove(vf, algorithm=HashFunc.XOR) == PLAIN


def test_toeplitz_for_one_stack_ends_xor_for_all() -> None:
    vf = FakeVf().bring_up()
    add(vf, algorithm=HashFunc.XOR)
    assert add(vf, *TCP4_PORTS) == PLAIN


def test_hena_takes_the_place_of_all_stacks() -> None:
    vf = FakeVf().bring_up()
    add(vf, (Proto.IPV4, SRC), (Proto.TCP, 0))
    vf.send(Op.SET_RSS_HENA, m.RssHena(TCP4))
    assert now(vf) == RssConfig(KEY, bytes(64), TCP4)


def test_reset_forgets_stacks() -> None:
    vf = FakeVf().bring_up()
    add(vf, (Proto.IPV4, SRC), (Proto.TCP, 0))
    vf.session.reset()
    assert now(vf) == PLAIN


def test_removal_with_other_fields_changes_nothing_and_is_no_error() -> None:
    vf = FakeVf().bring_up()
    made = add(vf, (Proto.IPV4, SRC), (Proto.TCP, 0))
    assert remove(vf, *TCP4_PORTS) == made


def test_removal_of_what_hena_does_ends_it() -> None:
    vf = FakeVf().bring_up()
    addresses = HashInput((FlowWord(FlowBase.L3, 12), FlowWord(FlowBase.L3, 16)))
    made = remove(vf, *TCP4_PORTS)
    assert made == RssConfig(KEY, bytes(64), SUPPORTED & ~TCP4, inputs={PTYPE_TCP4: addresses})
    made = remove(vf, (Proto.IPV4, SRC | DST))
    assert made == RssConfig(KEY, bytes(64), SUPPORTED & ~(TCP4 | OTHER4 | FRAG4))


def test_packets_whose_stack_goes_away_are_hashed_by_addresses_as_before_it_came() -> None:
    vf = FakeVf().bring_up()
    add(vf, (Proto.IPV4, SRC), (Proto.TCP, 0))
    made = remove(vf, (Proto.IPV4, SRC), (Proto.TCP, 0))
    addresses = HashInput((FlowWord(FlowBase.L3, 12), FlowWord(FlowBase.L3, 16)))
    assert made.inputs == {PTYPE_TCP4: addresses}


def test_ethernet_is_for_all_that_nothing_else_is_for() -> None:
    vf = FakeVf().bring_up()
    made = add(vf, (Proto.ETH, SRC | DST))
    assert made.hena == SUPPORTED
    assert set(made.inputs) == {1, 2, 6, 11}
    vf.send(Op.SET_RSS_HENA, m.RssHena(0))
    assert len(add(vf, (Proto.ETH, SRC | DST)).inputs) == 16


ACCEPTED: dict[str, Stack] = {
    "src port": ((Proto.IPV4, 0), (Proto.TCP, 1)),
    "IPv4 protocol": ((Proto.IPV4, 16),),
    "IPv4 checksum": ((Proto.IPV4, 32),),
    "IPv6 source of 64 bits": ((Proto.IPV6, 1 << 11),),
    "IPv6 both of 64 bits and protocol": ((Proto.IPV6, 3 << 11 | 16),),
    "IPv6 fragment": ((Proto.IPV6, 3), (Proto.IPV6_EH_FRAG, 1)),
    "TCP checksum": ((Proto.IPV6, 0), (Proto.TCP, 4)),
    "SCTP all": ((Proto.IPV6, 3), (Proto.SCTP, 7)),
    "behind tags": ((Proto.ETH, 0), (Proto.S_VLAN, 1), (Proto.C_VLAN, 1), (Proto.IPV4, 3)),
    "ethertype": ((Proto.ETH, 4),),
    "one selection counts, one does not": ((Proto.IPV4, 3), (Proto.TCP, 8)),
}
REFUSED: dict[str, Stack] = {
    "no header": (),
    "no field": ((Proto.IPV4, 0), (Proto.TCP, 0)),
    "TTL, which ice does not hash": ((Proto.IPV4, 8),),
    "TTL beside an address": ((Proto.IPV4, 9),),
    "prefix of 32 bits": ((Proto.IPV6, 1 << 5),),
    "ethertype beside an address": ((Proto.ETH, 5),),
    "TCP without IP": ((Proto.TCP, 3),),
    "two IP headers": ((Proto.IPV4, 3), (Proto.IPV6, 3)),
    "two IPv4 headers": ((Proto.IPV4, 3), (Proto.IPV4, 3)),
    "two L4 headers": ((Proto.IPV4, 3), (Proto.UDP, 3), (Proto.TCP, 3)),
    "Ethernet in IP": ((Proto.IPV4, 3), (Proto.ETH, 3)),
    "a fragment with ports": ((Proto.IPV4, 3), (Proto.IPV4_FRAG, 1), (Proto.UDP, 3)),
    "the other version's fragment": ((Proto.IPV4, 3), (Proto.IPV6_EH_FRAG, 1)),
    "type 0": ((Proto.NONE, 0), (Proto.IPV4, 3)),
    "unknown type": ((99, 1),),
    "negative type": ((-1, 1),),
    **{
        f"{proto.name}, which is not parsed": ((Proto.IPV4, 3), (proto, 1))
        for proto in Proto
        if proto >= Proto.GTPU_IP and proto not in (Proto.IPV4_FRAG, Proto.IPV6_EH_FRAG)
    },
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_stack_is_accepted_and_its_removal_restores(name: str) -> None:
    vf = empty()
    before = now(vf)
    assert add(vf, *ACCEPTED[name]) != before
    assert remove(vf, *ACCEPTED[name]) == before


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("op", [Op.ADD_RSS_CFG, Op.DEL_RSS_CFG])
def test_stack_is_refused_as_ice_does_and_changes_nothing(op: Op, name: str) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert vf.status(op, cfg(*REFUSED[name])) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.parametrize("count", [-1, 0, 33, 48, 0x7FFF_FFFF])
def test_count_of_headers_is_1_to_32(count: int) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    message = m.RssCfg(0, count, cfg(*TCP4_PORTS).headers, 0)
    assert vf.status(Op.ADD_RSS_CFG, message) == Status.ERR_PARAM
    assert vf.snapshot() == before


@pytest.mark.parametrize("algorithm", [-1, 4, 0x7FFF_FFFF])
def test_algorithm_that_does_not_exist_is_refused(algorithm: int) -> None:
    vf = FakeVf().bring_up()
    before = vf.snapshot()
    assert vf.status(Op.ADD_RSS_CFG, cfg(*TCP4_PORTS, algorithm=algorithm)) == Status.ERR_PARAM
    assert vf.snapshot() == before


def test_thirty_two_headers_are_looked_at() -> None:
    vf = FakeVf().bring_up()
    many = ((Proto.ETH, 0),) * 30 + ((Proto.IPV4, SRC), (Proto.TCP, 0))
    assert set(add(vf, *many).inputs) == {PTYPE_TCP4}
