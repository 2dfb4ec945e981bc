"""The host's face of a VF: what its owner may decide, do and break on purpose.

The words are those of `ip link set ... vf`; who calls, and over which socket, is not known here.
All calls come from the control thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from emuiavf.policy import VfPolicy


@dataclass(frozen=True)
class VfView:
    """A VF as it is now.  `driver` says how far the guest's driver is; `injected` names the faults
    that are still to come or under way; `answered` and `refused` count what drivers have asked,
    `rules` the frames that each flow director rule has matched, by the id the driver knows."""

    name: str
    mac: bytes
    driver: str
    link_up: bool
    queue_pairs: int
    policy: VfPolicy
    injected: tuple[str, ...] = ()
    answered: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    rules: Mapping[int, int] = field(default_factory=dict)


class Injections(Protocol):
    """Faults on purpose, for those who write drivers.

    Each ends by itself and leaves a VF that works: when it is used up, after `seconds`, or, where
    a driver may wait for ever for what was lost, `recover` seconds later (0: never).
    """

    def link_down(self, seconds: float) -> None:
        """The link is down for so long."""

    def pf_reset(self, seconds: float) -> None:
        """The PF resets the VF with a notice, and takes so long for it."""

    def vflr(self) -> None:
        """A function-level reset without a notice; configuration space is kept."""

    def adminq_drop(self, count: int, recover: float) -> None:
        """That many requests are lost; who then says nothing for `recover` seconds is reset."""

    def adminq_error(self, opcode: int, status: int, count: int) -> None:
        """That many requests of this opcode are refused with this status."""

    def irq_drop(self, count: int, recover: float) -> None:
        """That many interrupts are lost; each is repeated after `recover` seconds."""

    def rx_corrupt(self, count: int) -> None:
        """In that many received frames a bit is wrong."""

    def tx_hang(self, seconds: float) -> None:
        """The Tx queues that are enabled stand still for so long, or until they are reset."""


class VfHost(Protocol):
    """One VF in the host's hands."""

    @property
    def view(self) -> VfView: ...

    @property
    def inject(self) -> Injections: ...

    def set_policy(self, policy: VfPolicy) -> None:
        """Decide anew.  What a driver learns only by a reset resets the VF."""

    def reset(self) -> None:
        """Reset the VF as a PF does, with a notice before it."""
