"""The VF's hardware interface as tables: the registers of BAR0 and the admin queue descriptor.

Both sides read it: the device model, and our own driver.  Names are those of the data sheet.
Pages 0x0000, 0x2000 and 0x3000 hold doorbells and may be mapped by the guest; whatever stands
there is hostile input to the data path.  Offsets that are not here read 0 and ignore writes.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from emuiavf.layout import S32, U16, U32, Wire, wire
from emuiavf.pci.regs import Register, array, read_only, read_write, table

BAR0_SIZE = 0x20000
PAGE_SIZE = 0x1000

ALL_BITS = 0xFFFF_FFFF


@dataclass(frozen=True)
class Bank:
    """`count` registers of one kind, four bytes apart."""

    name: str
    offset: int
    count: int
    writable: int = ALL_BITS

    def at(self, index: int) -> int:
        """Offset of register `index` in BAR0."""
        assert 0 <= index < self.count, f"{self.name}({index})"
        return self.offset + 4 * index

    @property
    def end(self) -> int:
        return self.offset + 4 * self.count

    def __contains__(self, offset: int) -> bool:
        return self.offset <= offset < self.end


MAX_QUEUE_PAIRS = 256
MAX_VECTORS = 65
NUM_ITR = 3
ITRN1_VECTORS = 16

# Doorbell pages.  ITRN1(i, v) stands at 0x2800 + 64 i + 4 v, v = vector - 1 (the drivers' layout).
QTX_TAIL1 = Bank("QTX_TAIL1_", 0x0000, MAX_QUEUE_PAIRS)
QRX_TAIL1 = Bank("QRX_TAIL1_", 0x2000, MAX_QUEUE_PAIRS)
VFINT_ITRN1 = Bank("VFINT_ITRN1_", 0x2800, NUM_ITR * ITRN1_VECTORS)
VFINT_DYN_CTLN1 = Bank("VFINT_DYN_CTLN1_", 0x3800, MAX_VECTORS - 1)

# Cleared by reading it.
VFINT_ICR01 = read_only("VFINT_ICR01", 0x4800)
VFINT_ITR01 = Bank("VFINT_ITR01_", 0x4C00, NUM_ITR, writable=0xFFF)
VFINT_ICR0_ENA1 = read_write("VFINT_ICR0_ENA1", 0x5000)
VFINT_STAT_CTL01 = read_write("VFINT_STAT_CTL01", 0x5400)
VFINT_DYN_CTL01 = read_write("VFINT_DYN_CTL01", 0x5C00)

# Base and length have to read back as written (Linux, DPDK and FreeBSD compare).
ARQBAH1 = read_write("ARQBAH1", 0x6000)
ATQH1 = read_write("ATQH1", 0x6400)
ATQLEN1 = read_write("ATQLEN1", 0x6800)
ARQBAL1 = read_write("ARQBAL1", 0x6C00)
ARQT1 = read_write("ARQT1", 0x7000)
ARQH1 = read_write("ARQH1", 0x7400)
ATQBAH1 = read_write("ATQBAH1", 0x7800)
ATQBAL1 = read_write("ATQBAL1", 0x7C00)
ARQLEN1 = read_write("ARQLEN1", 0x8000)
ATQT1 = read_write("ATQT1", 0x8400)

VFQF_HENA = Bank("VFQF_HENA", 0xC400, 2)
VFQF_HKEY = Bank("VFQF_HKEY", 0xCC00, 13)
VFQF_HLUT = Bank("VFQF_HLUT", 0xD000, 16)


class Rstat(IntEnum):
    """VFGEN_RSTAT, bits 1:0; all other bits stay 0 (VPP compares the whole word)."""

    IN_PROGRESS = 0
    COMPLETED = 1
    VFR_ACTIVE = 2


# As if a reset were in progress, which is when registers get their reset values.
VFGEN_RSTAT = Register("VFGEN_RSTAT", 0x8800, reset=Rstat.IN_PROGRESS, writable=0x3)

DOORBELL_BANKS = (QTX_TAIL1, QRX_TAIL1, VFINT_ITRN1, VFINT_DYN_CTLN1)
# Pages without a register that needs a trap: what a client may map.
DOORBELL_PAGES = (0x0000, 0x2000, 0x3000)
DOORBELLS_SIZE = 0x4000

BANKS = (*DOORBELL_BANKS, VFINT_ITR01, VFQF_HENA, VFQF_HKEY, VFQF_HLUT)
SINGLES = (
    VFINT_ICR01,
    VFINT_ICR0_ENA1,
    VFINT_STAT_CTL01,
    VFINT_DYN_CTL01,
    ARQBAH1,
    ATQH1,
    ATQLEN1,
    ARQBAL1,
    ARQT1,
    ARQH1,
    ATQBAH1,
    ATQBAL1,
    ARQLEN1,
    ATQT1,
    VFGEN_RSTAT,
)
REGISTERS = table(
    [
        *SINGLES,
        *(r for b in BANKS for r in array(b.name, b.offset, b.count, writable=b.writable)),
    ]
)


def itrn1(itr: int, vector: int) -> int:
    """Offset of VFINT_ITRN1 for ITR index `itr` of MSI-X vector `vector` (1..16)."""
    return VFINT_ITRN1.at(itr * ITRN1_VECTORS + vector - 1)


class Icr0(IntFlag):
    """Causes of vector 0: VFINT_ICR01 and VFINT_ICR0_ENA1."""

    INTEVENT = 1 << 0
    QUEUE_0 = 1 << 1
    LINK_STAT_CHANGE = 1 << 25
    ADMINQ = 1 << 30
    SWINT = 1 << 31


class DynCtl(IntFlag):
    """VFINT_DYN_CTL01 and VFINT_DYN_CTLN1; the interval is in units of 2 us."""

    INTENA = 1 << 0
    CLEARPBA = 1 << 1
    SWINT_TRIG = 1 << 2
    SW_ITR_INDX_ENA = 1 << 24
    WB_ON_ITR = 1 << 30
    INTENA_MSK = 1 << 31


DYN_CTL_ITR_SHIFT = 3
DYN_CTL_ITR_NONE = 3
DYN_CTL_INTERVAL_SHIFT = 5
ITR_UNIT_US = 2
ITR_MASK = 0xFFF


class AqLen(IntFlag):
    """ATQLEN1 and ARQLEN1 above their length in bits 9:0; VFE, OVFL and CRIT are never set."""

    VFE = 1 << 28
    OVFL = 1 << 29
    CRIT = 1 << 30
    ENABLE = 1 << 31


AQ_INDEX_MASK = 0x3FF


class AqFlag(IntFlag):
    """`flags` of an admin queue descriptor."""

    DD = 0x0001
    CMP = 0x0002
    ERR = 0x0004
    VFE = 0x0008
    LB = 0x0200
    RD = 0x0400
    VFC = 0x0800
    BUF = 0x1000
    SI = 0x2000
    EI = 0x4000
    FE = 0x8000


class AqOpcode(IntEnum):
    QUEUE_SHUTDOWN = 0x0003
    SEND_MSG_TO_PF = 0x0801
    SEND_MSG_TO_VF = 0x0802


class AqRet(IntEnum):
    """`retval` of a completed descriptor; 0 even when the virtchnl request is refused."""

    OK = 0
    ENOSYS = 17
    BAD_ADDR = 20
    EFBIG = 22


# Larger messages than this do not exist; drivers use buffers of this size.
AQ_BUFFER_SIZE = 4096
# Buffers larger than this carry the flag LB.
AQ_LARGE_BUFFER = 512


@wire(size=32)
class AqDescriptor(Wire):
    """One descriptor of ATQ or ARQ: virtchnl opcode and status travel in the cookies."""

    flags: U16
    opcode: U16
    datalen: U16
    retval: U16
    cookie_high: U32
    cookie_low: S32
    param0: U32
    param1: U32
    addr_high: U32
    addr_low: U32

    @property
    def address(self) -> int:
        """IOVA of the buffer."""
        return self.addr_high << 32 | self.addr_low
