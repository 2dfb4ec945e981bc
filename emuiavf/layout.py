"""Wire layouts declared once: the class body is the table of fields, in order.

    @wire(size=4)
    class EtherAddrList(Wire):
        vsi_id: U16
        num_elements: U16

All integers are little-endian and packed.  Padding is written behind the field it follows, as in
`Annotated[int, "H2x"]`.  The size that the specification gives is stated and checked at import.
"""

import inspect
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    Self,
    TypeVar,
    cast,
    dataclass_transform,
    get_type_hints,
)

from emuiavf.errors import PeerError

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
S32 = Annotated[int, "i"]
Mac = Annotated[bytes, "6s"]

Buffer = bytes | bytearray | memoryview


class Wire:
    """Base of every wire structure; `SIZE` is its size in bytes."""

    SIZE: ClassVar[int]
    _codec: ClassVar[struct.Struct]
    _names: ClassVar[tuple[str, ...]]

    def encode(self) -> bytes:
        """The structure as bytes, `SIZE` of them, padding zero."""
        return self._codec.pack(*[getattr(self, name) for name in self._names])

    @classmethod
    def decode(cls, data: Buffer, offset: int = 0) -> Self:
        """Read one structure at `offset`; PeerError when fewer than `SIZE` bytes are there."""
        if offset < 0 or len(data) - offset < cls.SIZE:
            raise PeerError(f"{cls.__name__}: {len(data) - offset} bytes, needs {cls.SIZE}")
        return cls(*cls._codec.unpack_from(data, offset))

    @classmethod
    def decode_list(cls, data: Buffer, offset: int, count: int) -> tuple[Self, ...]:
        """Read `count` structures one behind the other; PeerError when they are not all there."""
        if offset < 0 or count < 0 or (len(data) - offset) // cls.SIZE < count:
            raise PeerError(f"{cls.__name__}: {len(data) - offset} bytes, needs {count} elements")
        return tuple(cls.decode(data, offset + i * cls.SIZE) for i in range(count))


W = TypeVar("W", bound=type[Any])


@dataclass_transform(frozen_default=True)
def wire(*, size: int) -> Callable[[W], W]:
    """Class decorator: a frozen, slotted dataclass with a codec, `size` bytes long."""

    def build(cls: W) -> W:
        hints = get_type_hints(cls, include_extras=True)
        own = [name for name in inspect.get_annotations(cls) if name in hints]
        codec = struct.Struct("<" + "".join(hints[name].__metadata__[0] for name in own))
        assert codec.size == size, f"{cls.__name__}: {codec.size} bytes declared, {size} specified"
        made: Any = dataclass(frozen=True, slots=True)(cls)
        made.SIZE = size
        made._codec = codec
        made._names = tuple(own)
        return cast(W, made)

    return build
