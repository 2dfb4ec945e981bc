"""DEVICE_SET_IRQS: the one command with a validation of its own size.

Specification: vfio-user, VFIO_USER_DEVICE_SET_IRQS; linux/vfio.h, VFIO_DEVICE_SET_IRQS.
"""

import errno
from collections.abc import Sequence
from typing import Protocol

from emuiavf.errors import PeerError
from emuiavf.vfio_user import wire
from emuiavf.vfio_user.codec import Message
from emuiavf.vfio_user.eventfd import adopt_eventfds
from emuiavf.vfio_user.wire import IrqIndex, IrqSet

_DATA = IrqSet.DATA_NONE | IrqSet.DATA_BOOL | IrqSet.DATA_EVENTFD
_ACTION = IrqSet.ACTION_MASK | IrqSet.ACTION_UNMASK | IrqSet.ACTION_TRIGGER
# A plain integer: `~` of an IntFlag clears unknown bits.
_KNOWN = int(_DATA | _ACTION)


class IrqOps(Protocol):
    """The part of a device that is asked; see `session.DeviceOps`."""

    def set_irq_eventfds(self, index: int, start: int, fds: Sequence[int | None]) -> None: ...
    def disable_irqs(self, index: int) -> None: ...
    def trigger_irqs(self, index: int, vectors: Sequence[int]) -> None: ...
    def mask_irqs(self, index: int, vectors: Sequence[int], masked: bool) -> None: ...


def set_irqs(ops: IrqOps, counts: Sequence[int], message: Message) -> None:
    """Execute one DEVICE_SET_IRQS; `counts` are the vectors of each interrupt index."""
    request = wire.SetIrqs.decode(message.payload)
    if request.argsz < wire.SetIrqs.SIZE:
        raise PeerError(f"argsz {request.argsz}, at least {wire.SetIrqs.SIZE}")
    if message.truncated:
        raise PeerError("descriptors were lost on the way", errno.EFAULT)
    data, action = _kind(request)
    _check_vectors(request, counts, data, action)
    _check_data(request, message, data)
    if request.count == 0:
        ops.disable_irqs(request.index)
    elif data is IrqSet.DATA_EVENTFD:
        _set_eventfds(ops, request, message, action)
    else:
        vectors = _vectors(request, message.payload, data)
        if action is IrqSet.ACTION_TRIGGER:
            ops.trigger_irqs(request.index, vectors)
        else:
            ops.mask_irqs(request.index, vectors, action is IrqSet.ACTION_MASK)


def _kind(request: wire.SetIrqs) -> tuple[IrqSet, IrqSet]:
    """The one DATA and the one ACTION flag."""
    data, action = IrqSet(request.flags & _DATA), IrqSet(request.flags & _ACTION)
    if data.bit_count() != 1 or action.bit_count() != 1 or request.flags & ~_KNOWN:
        raise PeerError(f"flags {request.flags:#x}")
    return data, action


def _check_vectors(
    request: wire.SetIrqs, counts: Sequence[int], data: IrqSet, action: IrqSet
) -> None:
    if request.index >= len(counts):
        raise PeerError(f"interrupt index {request.index}, there are {len(counts)}")
    if request.index in (IrqIndex.ERR, IrqIndex.REQ) and (
        action is not IrqSet.ACTION_TRIGGER or request.count > 1
    ):
        raise PeerError("ERR and REQ have one vector and no mask")
    if request.count == 0:
        # Also for an index without vectors: clients switch off what they never used.
        if request.start or data is not IrqSet.DATA_NONE or action is not IrqSet.ACTION_TRIGGER:
            raise PeerError("count 0 is only for NONE and TRIGGER from vector 0")
        return
    num_vectors = counts[request.index]
    if request.count > num_vectors or request.start > num_vectors - request.count:
        raise PeerError(
            f"vectors {request.start}+{request.count} of {num_vectors}, index {request.index}"
        )


def _check_data(request: wire.SetIrqs, message: Message, data: IrqSet) -> None:
    if data is IrqSet.DATA_BOOL:
        length = len(message.payload) - wire.SetIrqs.SIZE
        if length != request.count:
            raise PeerError(f"{length} bytes for {request.count} vectors")
    if not message.fds:
        return
    if data is not IrqSet.DATA_EVENTFD or len(message.fds) != request.count:
        raise PeerError(f"{len(message.fds)} descriptors, count {request.count}")
    adopt_eventfds(message.fds)


def _set_eventfds(ops: IrqOps, request: wire.SetIrqs, message: Message, action: IrqSet) -> None:
    if action is not IrqSet.ACTION_TRIGGER:
        # Masking INTx through an eventfd: nothing here listens; clients mask by message then.
        raise PeerError("eventfds serve TRIGGER only", errno.ENOTSUP)
    fds: Sequence[int | None] = message.take_fds() or [None] * request.count
    ops.set_irq_eventfds(request.index, request.start, fds)


def _vectors(request: wire.SetIrqs, payload: bytes, data: IrqSet) -> Sequence[int]:
    vectors = range(request.start, request.start + request.count)
    if data is IrqSet.DATA_NONE:
        return vectors
    chosen = payload[wire.SetIrqs.SIZE :]
    return [vector for vector, on in zip(vectors, chosen, strict=True) if on]
