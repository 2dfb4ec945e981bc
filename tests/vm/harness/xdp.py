"""A small XDP program as the object file that `ip link set ... xdpgeneric object` loads.

Assembled by hand, so that no compiler for BPF is needed.  Instructions: the kernel's
Documentation/bpf/standardization; object file: ELF with EM_BPF.
"""

import struct

SECTION = "xdp"
_ABORTED, _DROP, _PASS = range(3)
_ICMP = 1
_RELOCATABLE, _BPF = 1, 247
_PROGBITS, _SYMTAB, _STRTAB = 1, 2, 3
_ALLOC, _EXECINSTR = 2, 4
_GLOBAL_FUNCTION = 0x12
_HEADER = 64


def _instruction(code: int, dst: int = 0, src: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("<BBhi", code, src << 4 | dst, offset, value)


def _drop_icmp() -> bytes:
    """Drops ICMP of IPv4 and passes all else; r0 is the verdict, r1 the context."""
    load_u32, load_u16, load_u8 = 0x61, 0x69, 0x71
    move, move_value, add_value = 0xBF, 0xB7, 0x07
    jump_above, jump_unless, leave = 0x2D, 0x55, 0x95
    return b"".join(
        (
            _instruction(move_value, dst=0, value=_PASS),
            _instruction(load_u32, dst=2, src=1, offset=4),  # the frame's end
            _instruction(load_u32, dst=1, src=1, offset=0),  # its begin
            _instruction(move, dst=3, src=1),
            _instruction(add_value, dst=3, value=34),
            _instruction(jump_above, dst=3, src=2, offset=5),  # too short for Ethernet and IPv4
            _instruction(load_u16, dst=3, src=1, offset=12),
            _instruction(jump_unless, dst=3, offset=3, value=0x0008),  # as bytes: 08 00
            _instruction(load_u8, dst=3, src=1, offset=23),
            _instruction(jump_unless, dst=3, offset=1, value=_ICMP),
            _instruction(move_value, dst=0, value=_DROP),
            _instruction(leave),
        )
    )


def drop_icmp() -> bytes:
    """The object file of the program, in section SECTION."""
    program = _drop_icmp()
    names = b"\0.strtab\0.symtab\0xdp\0license\0drop_icmp\0"

    def name(text: str) -> int:
        return names.index(b"\0" + text.encode() + b"\0") + 1

    symbols = bytes(24)
    symbols += struct.pack("<IBBHQQ", name("drop_icmp"), _GLOBAL_FUNCTION, 0, 1, 0, len(program))
    # Name, type, flags, contents, link, first global symbol, size of an entry.
    sections = (
        (SECTION, _PROGBITS, _ALLOC | _EXECINSTR, program, 0, 0, 0),
        ("license", _PROGBITS, _ALLOC, b"BSD\0", 0, 0, 0),
        (".symtab", _SYMTAB, 0, symbols, 4, 1, 24),
        (".strtab", _STRTAB, 0, names, 0, 0, 0),
    )
    body, heads = b"", bytes(_HEADER)
    for text, kind, flags, content, link, info, entry in sections:
        where = _HEADER + len(body)
        heads += struct.pack(
            "<IIQQQQIIQQ", name(text), kind, flags, 0, where, len(content), link, info, 8, entry
        )
        body += content + bytes(-len(content) % 8)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    count = len(sections) + 1
    return (
        ident
        + struct.pack("<HHIQQQ", _RELOCATABLE, _BPF, 1, 0, 0, _HEADER + len(body))
        + struct.pack("<IHHHHHH", 0, _HEADER, 0, 0, _HEADER, count, count - 1)
        + body
        + heads
    )
