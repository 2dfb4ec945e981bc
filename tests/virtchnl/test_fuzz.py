"""Any sequence of any bytes: no exception, at most one answer, and refusals change nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import MAX_MESSAGE, Op, Status
from emuiavf.virtchnl.session import RULES, Reply, ResetRequest
from emuiavf.virtchnl.state import VfLimits
from tests.fakes.vf import FakeVf, valid_requests

LARGE_OPS = [Op.ENABLE_QUEUES_V2, Op.DISABLE_QUEUES_V2, Op.MAP_QUEUE_VECTOR, Op.CONFIG_RSS_LUT]
VALID = [(int(op), m.encode(op, *request)) for op, request in valid_requests().items()]

opcodes = st.one_of(st.sampled_from(list(Op)), st.integers(0, 0xFFFF_FFFF))
noise = st.tuples(opcodes, st.binary(max_size=300))


@st.composite
def bent(draw: st.DrawFn) -> tuple[int, bytes]:
    """A valid request with a few bytes changed and perhaps cut or lengthened."""
    opcode, body = draw(st.sampled_from(VALID))
    data = bytearray(body)
    interesting = st.sampled_from([0, 1, 2, 4, 16, 0x7F, 0x80, 0xFF])
    for _ in range(draw(st.integers(0, 3)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(interesting)
    end = draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    return opcode, bytes(data[:end]) + draw(st.binary(max_size=3))


def judge(vf: FakeVf, opcode: int, body: bytes) -> None:
    before = vf.snapshot()
    posted = vf.session.handle(opcode, body)
    replies = [p for p in posted if isinstance(p, Reply)]
    events = [r for r in replies if r.opcode == Op.EVENT and r.status == Status.SUCCESS]
    answers = [r for r in replies if r not in events]
    assert len(answers) <= 1
    assert [answer.opcode for answer in answers] in ([], [opcode])
    assert all(len(event.body) == 16 for event in events)
    assert all(len(answer.body) <= MAX_MESSAGE for answer in answers)
    if answers and answers[0].status != Status.SUCCESS:
        assert posted == answers
        assert answers[0].body == b"" or opcode == Op.ADD_FDIR_FILTER
        assert vf.snapshot() == before
    if any(isinstance(p, ResetRequest) for p in posted):
        assert answers == []
        vf.session.reset()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(bent(), noise), max_size=30))
def test_any_message_to_an_active_vf_keeps_the_promises(requests: list[tuple[int, bytes]]) -> None:
    vf = FakeVf().bring_up().configure(0)
    for opcode, body in requests:
        judge(vf, opcode, body)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(bent(), noise), max_size=20))
def test_any_message_to_a_new_vf_keeps_the_promises(requests: list[tuple[int, bytes]]) -> None:
    vf = FakeVf()
    for opcode, body in requests:
        judge(vf, opcode, body)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(RULES)), st.binary(max_size=MAX_MESSAGE + 100))
def test_any_body_of_an_opcode_that_is_served_keeps_the_promises(op: Op, body: bytes) -> None:
    judge(FakeVf().bring_up().configure(0), op, body)


@st.composite
def large_list(draw: st.DrawFn) -> tuple[int, bytes]:
    """A message of a large VF: fields near their limits, counts that lie, any padding."""
    edge = st.sampled_from([0, 1, 15, 16, 17, 64, 65, 66, 255, 256, 257, 0x7FFF, 0xFFFF])
    wide = st.sampled_from([0, 1, 2, 3, 4, 255, 0x7FFF_FFFF, -1, -(1 << 31)])
    op = draw(st.sampled_from(LARGE_OPS))
    if op is Op.MAP_QUEUE_VECTOR:
        entries = st.builds(m.QueueVector, edge, edge, wide, wide)
    else:
        entries = st.builds(m.QueueChunk, wide, edge, edge)
    items = draw(st.lists(entries, max_size=40))
    body = bytearray(b"".join([bytes(8), *(item.encode() for item in items)]))
    body[0:2] = draw(st.sampled_from([b"\1\0", b"\0\0"]))
    at = 4 if op in (Op.ENABLE_QUEUES_V2, Op.DISABLE_QUEUES_V2) else 2
    count = draw(st.one_of(st.just(len(items)), edge))
    body[at : at + 2] = count.to_bytes(2, "little")
    return op, bytes(body) + draw(st.binary(max_size=20))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(large_list(), bent()), max_size=20))
def test_any_message_to_a_large_vf_keeps_the_promises(requests: list[tuple[int, bytes]]) -> None:
    vf = FakeVf(limits=VfLimits(256, 256, 65)).bring_up().configure(0, 15, 16, 64, 255)
    vf.datapath.num_vectors = 65
    for opcode, body in requests:
        judge(vf, opcode, body)
