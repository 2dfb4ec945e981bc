"""ADD_FDIR_FILTER, DEL_FDIR_FILTER: what becomes of packets that match a rule.

As in ice: at most 128 rules; a selected field must have its value and all else is left open; all
rules for one kind of packet select the same fields, and a kind within another (TCP over IPv4
within IPv4) has no rules beside it.  Raw rules, which compare any bits of the first 128 bytes, are
free of that.  Rules are tried in the order in which their first like was made.
"""

from dataclasses import replace

from emuiavf.emudev.info import FlowAction, FlowBase, FlowRule, FlowWord
from emuiavf.virtchnl import flows
from emuiavf.virtchnl.flows import Field, Filter, Stack
from emuiavf.virtchnl.messages import FdirAdd, FdirDel, FilterAction, ProtoHdr, VirtchnlError
from emuiavf.virtchnl.ops import Action, FdirStatus, Proto, Status
from emuiavf.virtchnl.state import Vf, check

MAX_RULES = 128
MAX_PATTERNS = 32
"""Different selections of fields: each costs the data path a look into a table."""
MAX_ACTIONS = 8
MAX_RAW = 1024
RAW_REACH = 128
"""Bytes of a frame that a raw rule can compare: what the data path copies first."""
MAX_REGION = 7

# Of the fields that a header selects ice compares these and leaves the others out.
_COMPARED = {
    Field.ETHERTYPE,
    Field.IP_SRC,
    Field.IP_DST,
    Field.DSCP,
    Field.TTL,
    Field.PROTOCOL,
    Field.SRC_PORT,
    Field.DST_PORT,
}
_HEADERS = {Proto.ETH, *flows.IP_PROTOCOL, *flows.L4_KINDS}
_DESTINATIONS = {
    Action.DROP: FlowAction.DROP,
    Action.PASSTHRU: FlowAction.PASS,
    Action.QUEUE: FlowAction.QUEUE,
    Action.Q_REGION: FlowAction.QUEUE,
}


def on_add_fdir_filter(vf: Vf, msg: FdirAdd) -> bytes:
    """ADD_FDIR_FILTER: the answer has the new rule's id, or why there is none."""
    filters = vf.config.fdir
    check(len(filters) < MAX_RULES, f"{MAX_RULES} flow director rules")
    vf.check_vsi(msg.vsi_id)
    try:
        made = _parsed(vf, msg)
    except VirtchnlError as error:
        body = _answer(FdirStatus.FAILURE_RULE_INVALID)
        raise VirtchnlError(str(error), Status.ERR_PARAM, body) from None
    if msg.validate_only:
        return _answer(FdirStatus.SUCCESS)
    found = _objection(made, list(filters.values()))
    if found is not FdirStatus.SUCCESS:
        return _answer(found)
    flow_id = next(number for number in range(MAX_RULES) if number not in filters)
    made = replace(made, rule=replace(made.rule, id=flow_id))
    _apply(vf, {**filters, flow_id: made})
    return _answer(FdirStatus.SUCCESS, flow_id)


def on_del_fdir_filter(vf: Vf, msg: FdirDel) -> bytes:
    """DEL_FDIR_FILTER: an unknown id is told so, which is no error of the message."""
    vf.check_vsi(msg.vsi_id)
    filters = dict(vf.config.fdir)
    if filters.pop(msg.flow_id, None) is None:
        return FdirDel(0, 0, FdirStatus.FAILURE_RULE_NONEXIST).encode()
    _apply(vf, filters)
    return FdirDel(0, 0, FdirStatus.SUCCESS).encode()


def _apply(vf: Vf, filters: dict[int, Filter]) -> None:
    vf.datapath.set_flows(tuple(made.rule for made in filters.values()))
    vf.update(fdir=filters)


def _answer(status: FdirStatus, flow_id: int = 0) -> bytes:
    return replace(FdirAdd.of((), ()), flow_id=flow_id, status=status).encode()


def _objection(made: Filter, others: list[Filter]) -> FdirStatus:
    """Why a rule that makes sense cannot stand beside those that hold."""
    if not made.rule.words:
        return FdirStatus.FAILURE_RULE_CONFLICT
    for other in others:
        if made.stack is None or other.stack is None:
            continue
        if made.stack == other.stack and made.rule.words != other.rule.words:
            return FdirStatus.FAILURE_RULE_CONFLICT
        if made.stack != other.stack and _within(made.stack, other.stack):
            return FdirStatus.FAILURE_RULE_CONFLICT
    if any(made.pattern == old.pattern and made.rule.values == old.rule.values for old in others):
        return FdirStatus.FAILURE_RULE_EXIST
    patterns = {other.pattern for other in others}
    if made.pattern not in patterns and len(patterns) == MAX_PATTERNS:
        return FdirStatus.FAILURE_RULE_NORESOURCE
    return FdirStatus.SUCCESS


def _within(one: Stack, other: Stack) -> bool:
    """Packets of one are packets of the other: an IP version and what it carries."""
    return one.version == other.version != 0 and Proto.NONE in (one.upper, other.upper)


def _parsed(vf: Vf, msg: FdirAdd) -> Filter:
    if msg.tunnel_level == 0 and msg.count == 0:
        stack, words, values = None, *_raw(msg.headers)
        ptypes = None
    else:
        found = flows.headers(msg.count, msg.headers)
        stack = flows.stack_of(header.type for header in found)
        check(all(header.type in _HEADERS for header in found), "a header that no rule can have")
        words, values = _values(found, stack)
        ptypes = _ptypes(stack)
    return Filter(stack, _with_actions(vf, msg, FlowRule(0, ptypes, words, values)))


def _raw(data: bytes) -> tuple[tuple[FlowWord, ...], tuple[int, ...]]:
    """Length, bytes and mask of a raw rule: the words of which some bit counts."""
    length = int.from_bytes(data[:2], "little")
    check(0 < length <= MAX_RAW, f"raw pattern of {length} bytes")
    spec, mask = data[2 : 2 + length], data[2 + MAX_RAW : 2 + MAX_RAW + length]
    check(not any(mask[RAW_REACH:]), f"raw pattern beyond byte {RAW_REACH}")
    words, values = [], []
    for at in range(0, min(length, RAW_REACH), 4):
        bits = int.from_bytes(mask[at : at + 4].ljust(4, b"\0"), "big")
        if bits:
            words.append(FlowWord(FlowBase.FRAME, at, bits))
            values.append(int.from_bytes(spec[at : at + 4].ljust(4, b"\0"), "big") & bits)
    check(bool(words), "raw pattern that compares nothing")
    return tuple(words), tuple(values)


def _values(
    found: tuple[ProtoHdr, ...], stack: Stack
) -> tuple[tuple[FlowWord, ...], tuple[int, ...]]:
    """Where to look and what must be there; no words when no field is selected."""
    fields: set[Field] = set()
    buffers: dict[FlowBase, bytes] = {}
    ether = b""
    for header in found:
        proto = Proto(header.type)
        for bit, field in flows.SELECTORS[proto].items():
            if header.field_selector >> bit & 1 and field in _COMPARED:
                fields.add(field)
        if proto is Proto.ETH:
            ether = header.buffer
        else:
            base = FlowBase.L3 if proto in flows.IP_PROTOCOL else FlowBase.L4
            buffers[base] = header.buffer
    words = flows.words_of(fields, stack)
    values = []
    for word in words:
        # The only field of an Ethernet header: the type, which ends where L3 begins.
        data, at = (ether, 14) if word.offset < 0 else (buffers[word.base], 0)
        at += word.offset
        values.append(int.from_bytes(data[at : at + 4], "big") & word.mask)
    return words, tuple(values)


def _ptypes(stack: Stack) -> frozenset[int]:
    if stack.version == 0:
        return flows.PTYPES_NO_IP
    base = flows.PTYPE_BASE[stack.version]
    if stack.upper in flows.L4_KINDS:
        return frozenset({base + flows.L4_KINDS[stack.upper]})
    return frozenset(range(base, base + flows.ICMP + 1))


def _with_actions(vf: Vf, msg: FdirAdd, rule: FlowRule) -> FlowRule:
    """Exactly one destination, at most one mark; ice knows no count, we do."""
    check(0 < msg.action_count <= MAX_ACTIONS, f"{msg.action_count} actions")
    destinations = marks = 0
    for action in FilterAction.decode_list(msg.actions, 0, msg.action_count):
        if action.type in _DESTINATIONS:
            destinations += 1
            rule = _with_destination(vf, rule, action)
        elif action.type == Action.MARK:
            marks += 1
            rule = replace(rule, mark=action.mark_id)
        else:
            check(action.type == Action.COUNT, f"action of type {action.type}")
    check(destinations == 1, f"{destinations} destinations")
    check(marks <= 1, f"{marks} marks")
    return rule


def _with_destination(vf: Vf, rule: FlowRule, action: FilterAction) -> FlowRule:
    rule = replace(rule, action=_DESTINATIONS[Action(action.type)])
    if rule.action is not FlowAction.QUEUE:
        return rule
    region = action.region & 0xFF if action.type == Action.Q_REGION else 0
    check(region <= MAX_REGION, f"region of 2^{region} queues")
    end = action.index + (1 << region)
    check(end <= vf.num_queue_pairs, f"queue {end - 1}, this VF has {vf.num_queue_pairs}")
    return replace(rule, queue=action.index, region=region)
