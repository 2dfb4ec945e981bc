"""VERSION: what a client offers, what is agreed.

Specification: vfio-user, VFIO_USER_VERSION.  The JSON is judged by type, as its capabilities are
written there; unknown keys are ignored.
"""

from typing import Annotated

import msgspec

from emuiavf.errors import PeerError
from emuiavf.vfio_user import wire

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Migration(msgspec.Struct, omit_defaults=True):
    pgsize: _Count = 4096
    max_bitmap_size: _Count = 0


class TwinSocket(msgspec.Struct, omit_defaults=True):
    supported: bool = False
    fd_index: _Count = 0


class Capabilities(msgspec.Struct, omit_defaults=True):
    """What the sender of the JSON can take; defaults are the specification's."""

    max_msg_fds: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 1
    max_data_xfer_size: _Count = 1 << 20
    max_dma_maps: _Count = 65535
    pgsizes: _Count = 4096
    twin_socket: TwinSocket | None = None
    write_multiple: bool = False
    migration: Migration | None = None


class VersionData(msgspec.Struct):
    capabilities: Capabilities = msgspec.field(default_factory=Capabilities)


_decoder = msgspec.json.Decoder(VersionData)

# Every key is written, QEMU assumes others for some that are absent.  No write_multiple (QEMU
# then queues every send) and no twin_socket (nothing is sent to the client).  At most 193
# characters: QEMU takes no reply longer than its own request.
OUR_DATA = msgspec.json.encode(
    {
        "capabilities": {
            "max_msg_fds": wire.MAX_MSG_FDS,
            "max_data_xfer_size": wire.MAX_DATA_XFER,
            "max_dma_maps": wire.MAX_DMA_MAPS,
            "pgsizes": wire.PAGE_SIZES,
        }
    }
)


def parse(payload: bytes) -> tuple[wire.Version, Capabilities]:
    """Version and capabilities of a VERSION message, either way; PeerError when malformed."""
    version = wire.Version.decode(payload)
    text = payload[wire.Version.SIZE :]
    if not text:
        return version, Capabilities()
    if text[-1]:
        raise PeerError("version data does not end in NUL")
    try:
        data = _decoder.decode(text[: text.index(0)])
    except (msgspec.DecodeError, RecursionError) as fault:
        raise PeerError(f"version data: {fault}") from None
    return version, data.capabilities


def offer(minor: int = wire.MINOR) -> bytes:
    """The payload of our VERSION message, as request or as reply."""
    return wire.Version(wire.MAJOR, minor).encode() + OUR_DATA + b"\0"


def agree(payload: bytes) -> bytes:
    """Payload of the reply to a client's VERSION; PeerError when there is no agreement."""
    version, _ = parse(payload)
    if version.major != wire.MAJOR:
        raise PeerError(f"major version {version.major}, served is {wire.MAJOR}")
    return offer(min(version.minor, wire.MINOR))
