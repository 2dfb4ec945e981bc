"""Any sequence of any bytes: no exception, at most one answer, and refusals change nothing."""

from hypothesis import given, settings
from hypothesis import strategies as st

from emuiavf.virtchnl import messages as m
from emuiavf.virtchnl.ops import MAX_MESSAGE, Op, Status
from emuiavf.virtchnl.session import RULES, Reply, ResetRequest
from tests.fakes.vf import FakeVf, valid_requests

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
