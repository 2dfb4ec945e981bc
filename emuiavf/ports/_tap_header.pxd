"""What stands in front of each frame that a TAP reads or writes.  virtio 1.3, 5.1.6."""

from libc.stdint cimport uint8_t, uint16_t


cdef extern from "<linux/virtio_net.h>" nogil:
    ctypedef struct VnetHeader "struct virtio_net_hdr":
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset
    enum:
        VIRTIO_NET_HDR_F_NEEDS_CSUM
        VIRTIO_NET_HDR_F_DATA_VALID
        VIRTIO_NET_HDR_GSO_NONE
        VIRTIO_NET_HDR_GSO_TCPV4
        VIRTIO_NET_HDR_GSO_TCPV6
        VIRTIO_NET_HDR_GSO_ECN

cdef enum:
    GSO_UDP_L4 = 5              # VIRTIO_NET_HDR_GSO_UDP_L4, absent from older headers
    HEADER = 10                 # sizeof(struct virtio_net_hdr); tun.HEADER_SIZE

cdef extern from *:
    """
    #include <stdint.h>
    /* Where the checksum is behind the L4 header, by L4_*. */
    static const uint16_t TAP_CSUM_FIELD[4] = {0, 16, 8, 6};
    """
    const uint16_t[4] CSUM_FIELD "TAP_CSUM_FIELD"
