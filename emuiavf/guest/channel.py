"""virtchnl from the VF's side: one request, one answer, and the events in between."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from emuiavf.errors import EmuIavfError, PeerError
from emuiavf.guest.adminq import AdminQueue, AqMessage
from emuiavf.layout import Wire
from emuiavf.virtchnl.messages import PfEvent, QueueRequest, encode
from emuiavf.virtchnl.ops import EventCode, Op, Status

TIMEOUT_S = 2.0


class RequestRefused(EmuIavfError):
    """The PF answered a request with an error."""

    def __init__(self, op: Op, status: int) -> None:
        known = [one.name for one in Status if one == status]
        super().__init__(f"{op.name}: refused with {known[0] if known else status}")
        self.op = op
        self.status = status


class NoAnswer(EmuIavfError):
    """The PF did not answer in time."""


@dataclass(frozen=True)
class LinkState:
    """Last link event: `speed` in Mbps with ADV_LINK_SPEED, else a `LinkSpeed` code."""

    up: bool
    speed: int


class Virtchnl:
    """Requests over one admin queue."""

    def __init__(self, queue: AdminQueue) -> None:
        self.queue = queue
        self.link = LinkState(False, 0)
        self.reset_announced = False

    def open(self) -> None:
        """Begin on fresh admin queues."""
        self.queue.open()
        self.link = LinkState(False, 0)
        self.reset_announced = False

    def request(
        self,
        op: Op,
        head: Wire | None = None,
        items: Sequence[Wire] | bytes = (),
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> bytes:
        """Send `op` and return the data of its answer.  RequestRefused, NoAnswer."""
        return self.request_raw(op, encode(op, head, items), timeout_s=timeout_s)

    def request_raw(self, op: Op, body: bytes, *, timeout_s: float = TIMEOUT_S) -> bytes:
        """The same with a body as it is, however wrong."""
        self.poll()
        self.queue.send(op, body)
        deadline = time.monotonic() + timeout_s
        while True:
            for message in self.queue.receive():
                if message.opcode == Op.EVENT:
                    self._on_event(message)
                elif message.opcode == op:
                    if message.status != Status.SUCCESS:
                        raise RequestRefused(op, message.status)
                    return message.body
            if not self.queue.wait(deadline):
                raise NoAnswer(f"{op.name}: no answer within {timeout_s:g} s")

    def post(self, op: Op, head: Wire | None = None) -> None:
        """Send a request that gets no answer (RESET_VF, REQUEST_QUEUES that succeeds)."""
        self.queue.send(op, encode(op, head))

    def request_reset(self, head: QueueRequest, timeout_s: float) -> None:
        """REQUEST_QUEUES: returns when the reset has begun or is announced.

        RequestRefused when the PF answers instead, which it does when it has not that many.
        """
        self.poll()
        self.queue.send(Op.REQUEST_QUEUES, encode(Op.REQUEST_QUEUES, head))
        deadline = time.monotonic() + timeout_s
        while self.queue.is_enabled:
            for message in self.queue.receive():
                if message.opcode == Op.EVENT:
                    self._on_event(message)
                elif message.opcode == Op.REQUEST_QUEUES:
                    raise RequestRefused(Op.REQUEST_QUEUES, message.status)
            if not self.queue.wait(deadline):
                raise NoAnswer(f"REQUEST_QUEUES: no reset within {timeout_s:g} s")

    def poll(self) -> None:
        """Take in events; late answers are dropped."""
        for message in self.queue.receive():
            if message.opcode == Op.EVENT:
                self._on_event(message)

    def wait_link(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Wait until the link is up; False when it stays down."""
        deadline = time.monotonic() + timeout_s
        self.poll()
        while not self.link.up and self.queue.wait(deadline):
            self.poll()
        return self.link.up

    def _on_event(self, message: AqMessage) -> None:
        if len(message.body) != PfEvent.SIZE:
            raise PeerError(f"EVENT: {len(message.body)} bytes, {PfEvent.SIZE} expected")
        event = PfEvent.decode(message.body)
        if event.event == EventCode.LINK_CHANGE:
            self.link = LinkState(event.link_status == 1, event.link_speed)
        elif event.event == EventCode.RESET_IMPENDING:
            self.reset_announced = True
