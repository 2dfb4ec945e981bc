"""Faults on purpose in one VF: what happens is done by the device, how it ends is decided here."""

from collections.abc import Callable
from typing import Protocol

from emuiavf.iavf.reset import Timer
from emuiavf.iavf.tampering import Tampering
from emuiavf.virtchnl.ops import Op

# How soon a lost interrupt is looked for.
_LOOK_S = 0.1


class Sabotage(Protocol):
    """What the data path does wrong on request.

    `lose_interrupts(n)` and `corrupt_received(n)` say how many are to come, `*_left` how many still
    are; `repeat_interrupts` sends what was lost.  `hang_tx(False)` ends what True began.
    """

    @property
    def interrupts_left(self) -> int: ...
    @property
    def corruptions_left(self) -> int: ...
    @property
    def interrupts_missing(self) -> bool: ...
    @property
    def tx_hangs(self) -> bool: ...
    def lose_interrupts(self, count: int) -> None: ...
    def repeat_interrupts(self) -> None: ...
    def corrupt_received(self, count: int) -> None: ...
    def hang_tx(self, hang: bool) -> None: ...


class Steps(Protocol):
    """What the device does for an injection."""

    @property
    def sabotage(self) -> Sabotage | None: ...
    @property
    def requests(self) -> int:
        """Requests that the guest has made since the device is there."""

    def wake(self) -> None:
        """Have the data path look at its rings."""

    def cut_link(self, cut: bool) -> None: ...
    def reset_by_host(self, hold_s: float = 0) -> None: ...
    def reset_without_notice(self) -> None: ...


class Injector:
    """The injections of one VF; see emudev.host.Injections.  A second of one kind replaces the
    first."""

    def __init__(
        self, steps: Steps, call_later: Callable[[float, Callable[[], None]], Timer]
    ) -> None:
        self.tampering = Tampering(self._on_lost)
        self._steps = steps
        self._call_later = call_later
        self._timers: dict[str, Timer] = {}
        self._recover = {"adminq-drop": 0.0, "irq-drop": 0.0}

    @property
    def active(self) -> tuple[str, ...]:
        """What is under way or still to come, in the words of the command line."""
        sabotage, tampering = self._steps.sabotage, self.tampering
        found = ["link-down"] if "link-down" in self._timers else []
        if tampering.lose:
            found.append(f"adminq-drop {tampering.lose}")
        found += [
            f"adminq-error {_op_name(opcode)} {status} {count}"
            for opcode, (status, count) in tampering.refuse.items()
        ]
        if sabotage is not None:
            if sabotage.interrupts_left:
                found.append(f"irq-drop {sabotage.interrupts_left}")
            if sabotage.corruptions_left:
                found.append(f"rx-corrupt {sabotage.corruptions_left}")
            if sabotage.tx_hangs:
                found.append("tx-hang")
        return tuple(found)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    # emudev.host.Injections

    def link_down(self, seconds: float) -> None:
        self._steps.cut_link(True)
        self._at("link-down", seconds, lambda: self._steps.cut_link(False))

    def pf_reset(self, seconds: float) -> None:
        self._steps.reset_by_host(seconds)

    def vflr(self) -> None:
        self._steps.reset_without_notice()

    def adminq_drop(self, count: int, recover: float) -> None:
        self.tampering.lose = count
        self._recover["adminq-drop"] = recover

    def adminq_error(self, opcode: int, status: int, count: int) -> None:
        self.tampering.refuse[opcode] = (status, count)

    def irq_drop(self, count: int, recover: float) -> None:
        sabotage = self._steps.sabotage
        if sabotage is not None:
            sabotage.lose_interrupts(count)
            self._recover["irq-drop"] = recover
            if recover:
                self._at("irq-drop", min(recover, _LOOK_S), self._look_for_lost)

    def rx_corrupt(self, count: int) -> None:
        if self._steps.sabotage is not None:
            self._steps.sabotage.corrupt_received(count)

    def tx_hang(self, seconds: float) -> None:
        if self._steps.sabotage is not None:
            self._steps.sabotage.hang_tx(True)
            self._at("tx-hang", seconds, self._end_hang)

    # Ends

    def _at(self, kind: str, seconds: float, call: Callable[[], None]) -> None:
        def due() -> None:
            del self._timers[kind]
            call()

        if kind in self._timers:
            self._timers[kind].cancel()
        self._timers[kind] = self._call_later(seconds, due)

    def _on_lost(self) -> None:
        """A request is lost.  Linux waits for its answer for ever and sends nothing meanwhile."""
        recover, seen = self._recover["adminq-drop"], self._steps.requests
        if recover:
            self._at("adminq-drop", recover, lambda: self._end_drops(seen))

    def _end_drops(self, seen: int) -> None:
        if self._steps.requests == seen:
            self.tampering.lose = 0
            self._steps.reset_by_host()

    def _look_for_lost(self) -> None:
        sabotage, recover = self._steps.sabotage, self._recover["irq-drop"]
        if sabotage is None:
            return
        if sabotage.interrupts_missing:
            self._at("irq-drop", recover, self._repeat)
        elif sabotage.interrupts_left:
            self._at("irq-drop", min(recover, _LOOK_S), self._look_for_lost)

    def _repeat(self) -> None:
        if self._steps.sabotage is not None:
            self._steps.sabotage.repeat_interrupts()
            self._look_for_lost()

    def _end_hang(self) -> None:
        if self._steps.sabotage is not None:
            self._steps.sabotage.hang_tx(False)
            self._steps.wake()


def _op_name(opcode: int) -> str:
    return Op(opcode).name if opcode in list(Op) else str(opcode)
