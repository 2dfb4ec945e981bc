"""The mailbox of one VF: commands out of the ATQ, to the virtchnl session, its answers to the ARQ.

Knows the order in which things have to happen; knows no register beside the admin queues'.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from emuiavf.iavf.adminq import AdminQueue, Message
from emuiavf.iavf.budget import COMMANDS_AT_ONCE, COMMANDS_PER_S, Budget
from emuiavf.iavf.guestlog import GuestLog
from emuiavf.iavf.reset import Cause, ResetMachine, ResetState, Timer
from emuiavf.iavf.tampering import Tampering
from emuiavf.virtchnl.ops import Op
from emuiavf.virtchnl.session import Reply, ResetRequest

# Descriptors taken at once; more wait for the next turn of the loop, so that a guest that fills
# a ring of 1023 keeps no other device's requests waiting.  No driver has more than 8 under way.
TURN = 16


class Handler(Protocol):
    """What the mailbox asks of the virtchnl session."""

    def handle(self, opcode: int, body: bytes) -> list[Reply | ResetRequest]: ...
    def reset_impending(self) -> list[Reply]: ...


class Channel:
    """Joins one VF's admin queues, virtchnl session and resets."""

    def __init__(
        self,
        adminq: AdminQueue,
        session: Handler,
        resets: ResetMachine,
        call_later: Callable[[float, Callable[[], None]], Timer],
        log: GuestLog,
        budget: Budget | None = None,
        tampering: Tampering | None = None,
    ) -> None:
        self.session = session
        self._adminq = adminq
        self._resets = resets
        self._call_later = call_later
        self._log = log
        self._budget = budget or Budget(COMMANDS_PER_S, COMMANDS_AT_ONCE)
        self._tampering = tampering or Tampering(lambda: None)
        self._next_turn: Timer | None = None

    def run(self) -> None:
        """The guest has moved ATQT, or may be served again.

        Nothing is taken while a reset is in progress, nor beyond the device's budget.
        """
        if self._resets.state is ResetState.HELD:
            return
        before = self._adminq.taken
        for message in self._adminq.commands(min(TURN, self._budget.left)):
            self._handle(message)
        self._budget.spend(self._adminq.taken - before)
        if self._next_turn is None and self._adminq.has_commands:
            self._next_turn = self._call_later(self._budget.wait_s, self._on_next_turn)

    def deliver(self) -> None:
        """The guest has moved ARQT, or may be served again."""
        self._adminq.deliver()
        if self._resets.state is ResetState.IMPENDING and self._adminq.is_all_read:
            self._resets.notice_read()

    def post(self, replies: Iterable[Reply]) -> None:
        """Send messages to the VF in this order."""
        for reply in replies:
            if reply.fault:
                self._log.warning(f"virtchnl: {reply.fault}")
            self._adminq.post(Message(reply.opcode, reply.body, reply.status))

    def reset_by_host(self, hold_s: float = 0) -> None:
        """Reset the VF, with a notice for a driver that is there to read it.

        The reset reads as in progress for `hold_s` at least.
        """
        notice = self.session.reset_impending()
        if notice:
            self._resets.announce(Cause.HOST, hold_s)
            self.post(notice)
        else:
            self._resets.perform(Cause.HOST, hold_s)

    def close(self) -> None:
        """No turn is to follow any more."""
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None

    def _handle(self, message: Message) -> None:
        if self._tampering.is_lost(message.opcode):
            return
        refusal = self._tampering.refusal(message.opcode)
        if refusal is not None:
            self._adminq.post(Message(message.opcode, status=refusal))
            return
        for result in self.session.handle(message.opcode, message.body):
            if not isinstance(result, ResetRequest):
                self.post((result,))
            elif result.reason is Op.REQUEST_QUEUES:
                self._resets.announce(Cause.REQUEST_QUEUES)
            else:
                self._resets.perform(Cause.RESET_VF)

    def _on_next_turn(self) -> None:
        self._next_turn = None
        self.run()
