from typing import TypeAlias

Readable: TypeAlias = bytes | bytearray | memoryview

KERNELS: dict[str, int]
HASHES: dict[str, int]
ASK_IP_CSUM: int
ASK_L4_CSUM: int
ASK_TSO: int
IPV4: int
IPV6: int
FRAGMENT: int
IP_BAD: int
TAGGED: int
TUNNEL: int
HEAD_MAX: int
TUNNEL_NONE: int
TUNNEL_UDP: int
TUNNEL_GRE: int
TUNNEL_KEEP_ID: int
TUNNEL_ASK_IP_CSUM: int
TUNNEL_L4_SHIFT: int
L4_NONE: int
L4_TCP: int
L4_SCTP: int
L4_UDP: int

def use_kernel(name: str) -> bool: ...
def use_hash(name: str) -> bool: ...
def csum(*pieces: Readable) -> int: ...
def csum_copy(dst: bytearray | memoryview, src: Readable, piece: int) -> int: ...
def copy(dst: bytearray | memoryview, src: Readable) -> None: ...
def crc32c(data: Readable, *, table: bool = False) -> int: ...
def toeplitz(key: Readable, addresses: Readable, ports: Readable | None = None) -> int: ...
def toeplitz_burst(key: Readable, flows: Readable, symmetric: bool = False) -> list[int]: ...
def ns_per_frame(data: bytes, key: Readable, rounds: int) -> float: ...

class Probe:
    data: bytes
    def __init__(
        self,
        data: bytes,
        *,
        head_len: int | None = None,
        flags: int = 0,
        l2_len: int = 0,
        l3_len: int = 0,
        l4_len: int = 0,
        l4_proto: int = 0,
        mss: int = 0,
        filler: int = 0,
        tunnel: int = 0,
        tunnel_len: int = 0,
    ) -> None: ...
    def parse(self) -> dict[str, int]: ...
    def check_request(self) -> bool: ...
    def check_tunnel(self, inner_l3_len: int) -> bool: ...
    def hash(self, key: Readable, hena: int) -> int | None: ...
    def judge(self, key: Readable, hena: int) -> tuple[int | None, bool | None]: ...
    def l4_range(self) -> tuple[int, int, int] | None: ...
    def pseudo(self, l4_bytes: int) -> int: ...
    def segment_header(self, at: int) -> tuple[bytes, int]: ...
    def fill_ip_csum(self) -> bytes: ...
    def settle(self) -> tuple[bytes, bool | None]: ...
    def emit(
        self,
        sources: list[int],
        pieces: list[int],
        *,
        strip: int = 0,
        judge: bool = True,
        at: int | None = None,
    ) -> tuple[bytes, bool | None]: ...
    def seed_partial(self) -> bytes: ...
