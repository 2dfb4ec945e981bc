"""One iavf device in the host's hands: satisfies `emudev.host.VfHost`."""

from emuiavf.emudev.host import Injections, VfView
from emuiavf.iavf.device import IavfDevice
from emuiavf.policy import VfPolicy
from emuiavf.virtchnl.link import is_link_up
from emuiavf.virtchnl.state import VfState


class IavfHost:
    """What `ip link set ... vf` does to a VF of ice, and faults on purpose."""

    def __init__(self, device: IavfDevice) -> None:
        self._device = device

    @property
    def inject(self) -> Injections:
        return self._device.inject

    @property
    def view(self) -> VfView:
        session = self._device.session
        return VfView(
            self._device.name,
            session.mac,
            self._driver(),
            is_link_up(session.vf),
            session.num_queue_pairs,
            session.vf.policy,
            self._device.inject.active,
            {op.name: count for op, count in session.answered.items()},
            {op.name: count for op, count in session.refused.items()},
            control.flow_hits() if (control := self._device.control) is not None else {},
        )

    def set_policy(self, policy: VfPolicy) -> None:
        """Link, spoof check and rates at once; all else resets the VF, as in ice."""
        device = self._device
        events, has_to_reset = device.session.set_policy(policy)
        if any(policy.mac):
            device.emu.record_attr("mac", policy.mac.hex(":"))
        if device.control is not None:
            device.control.set_policy(policy)
        device.post(events)
        if has_to_reset:
            device.reset_by_host()

    def reset(self) -> None:
        self._device.reset_by_host()

    def _driver(self) -> str:
        if not self._device.has_client:
            return "none"
        if self._device.in_reset:
            return "in reset"
        return "ready" if self._device.session.vf.state is VfState.ACTIVE else "not ready"
