STAMPED_SIZE: int
HEADER_SIZE: int

def flow_header(
    src_mac: bytes, dst_mac: bytes, src_ip: bytes, dst_ip: bytes, port: int
) -> bytes: ...
