"""Rules of ADV_RSS and of the flow director: headers, actions, answers."""

from collections.abc import Sequence
from typing import Annotated, Self

from emuiavf.layout import S32, U16, U32, Wire, wire
from emuiavf.virtchnl.ops import Action


@wire(size=72)
class ProtoHdr(Wire):
    """One protocol header of a rule; `buffer` is a header in network order, for its values."""

    type: S32
    field_selector: U32
    buffer: Annotated[bytes, "64s"] = b""


@wire(size=2444)
class RssCfg(Wire):
    """ADD_RSS_CFG, DEL_RSS_CFG: `count` of `ProtoHdr` in `headers`."""

    tunnel_level: Annotated[int, "B3x"]
    count: S32
    headers: Annotated[bytes, "2304s"]
    algorithm: Annotated[int, "i128x"]

    @classmethod
    def of(cls, headers: Sequence[ProtoHdr], algorithm: int = 0, tunnel_level: int = 0) -> Self:
        """As a driver sends it; `headers` from the outermost on."""
        packed = b"".join(header.encode() for header in headers)
        return cls(tunnel_level, len(headers), packed.ljust(2304, b"\0"), algorithm)


@wire(size=36)
class FilterAction(Wire):
    """One action of a flow director rule: what the fields mean goes by `Action`.

    QUEUE and Q_REGION have an index, the latter also the binary logarithm of the number of
    queues; MARK has its id in the place of both.
    """

    type: S32
    index: U16 = 0
    region: Annotated[int, "H28x"] = 0

    @classmethod
    def mark(cls, mark_id: int) -> Self:
        return cls(Action.MARK, mark_id & 0xFFFF, mark_id >> 16)

    @property
    def mark_id(self) -> int:
        return self.region << 16 | self.index


@wire(size=2616)
class FdirAdd(Wire):
    """ADD_FDIR_FILTER, both ways; the answer has `flow_id` and `status`."""

    vsi_id: U16
    validate_only: U16
    flow_id: U32
    tunnel_level: Annotated[int, "B3x"]
    count: S32
    headers: Annotated[bytes, "2304s"]
    action_count: S32
    actions: Annotated[bytes, "288s"]
    status: S32

    @classmethod
    def of(
        cls,
        headers: Sequence[ProtoHdr] | bytes,
        actions: Sequence[FilterAction],
        vsi_id: int = 0,
        validate_only: int = 0,
    ) -> Self:
        """As a driver sends it; `headers` as bytes is a raw pattern."""
        raw = isinstance(headers, bytes)
        packed = headers if isinstance(headers, bytes) else b"".join(h.encode() for h in headers)
        return cls(
            vsi_id=vsi_id,
            validate_only=validate_only,
            flow_id=0,
            tunnel_level=0,
            count=0 if raw else len(headers),
            headers=packed.ljust(2304, b"\0"),
            action_count=len(actions),
            actions=b"".join(action.encode() for action in actions).ljust(288, b"\0"),
            status=0,
        )


def raw_pattern(spec: bytes, mask: bytes) -> bytes:
    """A raw pattern: bits of `mask` tell which of `spec` a frame must have, from its start on."""
    return len(spec).to_bytes(2, "little") + spec.ljust(1024, b"\0") + mask.ljust(1024, b"\0")


@wire(size=12)
class FdirDel(Wire):
    """DEL_FDIR_FILTER, both ways; the answer has `status`."""

    vsi_id: Annotated[int, "H2x"]
    flow_id: U32
    status: S32 = 0
