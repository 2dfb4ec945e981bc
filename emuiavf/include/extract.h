/* Header words that the "comms" formats of a Rx writeback carry beside the frame: two of 16 bits,
 * each with a valid bit.
 *
 * They are of the frame as it came: tags that moved into the descriptor are told as well.  Of a
 * tunnel the outer headers count.  Read from the private head only, and only where it reaches.
 * Reference: DPDK's guide to net_ice, "proto_xtr"; its iavf driver reads them the same way.
 */
#ifndef EMUIAVF_EXTRACT_H
#define EMUIAVF_EXTRACT_H

#include "protocols.h"
#include "writeback.h"

/* Of qword 2 (status_error1): aux0, aux1 hold something.  Both stand above the FDIR id in qword 3. */
enum { RXF_AUX0_VALID = 0x4000, RXF_AUX1_VALID = 0x8000, RXF_AUX0_SHIFT = 32, RXF_AUX1_SHIFT = 48 };
/* ip_offset: no such header. */
enum { EXTRACT_NONE = 0xffff };
/* Packet types with an IPv4 header, then those with an IPv6 one, tunnels included. */
enum { EXTRACT_IPV4 = 22, EXTRACT_IPV6 = 88, EXTRACT_END = 154 };
enum { EXTRACT_TCP4 = EXTRACT_IPV4 + KIND_TCP, EXTRACT_TCP6 = EXTRACT_IPV6 + KIND_TCP };
enum { TCP_FIN_PSH = 0x09, TCP_CWR_ONLY = 0x80 };

static inline uint64_t extract_be16(const uint8_t *at)
{
    return (uint64_t)at[0] << 8 | at[1];
}

static inline int extract_is_tag(uint64_t type)
{
    return type == ETHER_VLAN || type == 0x88a8 || type == 0x9100;
}

static inline void extract_put(Writeback *made, uint64_t word0, uint64_t word1)
{
    made->qword[2] |= RXF_AUX0_VALID | RXF_AUX1_VALID;
    made->qword[3] |= word0 << RXF_AUX0_SHIFT | word1 << RXF_AUX1_SHIFT;
}

/* The tag nearest to the addresses, and the one behind it. */
static inline void extract_tags(Writeback *made, const Frame *frame)
{
    const uint8_t *tag = frame->head + ETHER_ADDRESSES;
    if (frame->head_len < ETHER_ADDRESSES + ETHER_TAG || !extract_is_tag(extract_be16(tag)))
        return;
    made->qword[2] |= RXF_AUX0_VALID;
    made->qword[3] |= extract_be16(tag + 2) << RXF_AUX0_SHIFT;
    tag += ETHER_TAG;
    if (frame->head_len < ETHER_ADDRESSES + 2 * ETHER_TAG || !extract_is_tag(extract_be16(tag)))
        return;
    made->qword[2] |= RXF_AUX1_VALID;
    made->qword[3] |= extract_be16(tag + 2) << RXF_AUX1_SHIFT;
}

/* Data offset and flags, of a segment as it is delivered: `at` is where its payload begins. */
static inline void extract_tcp(Writeback *made, const Frame *frame, uint32_t at)
{
    uint32_t l4 = (uint32_t)frame->l2_len + frame->l3_len;
    uint64_t word;
    if ((frame->ptype != EXTRACT_TCP4 && frame->ptype != EXTRACT_TCP6) || l4 + 20 > frame->head_len)
        return;
    word = extract_be16(frame->head + l4 + 12);
    if (frame->flags & FRAME_ASK_TSO) {
        if (frame->mss < frame->len - l4 - frame->l4_len - at)
            word &= ~(uint64_t)TCP_FIN_PSH;
        if (at)
            word &= ~(uint64_t)TCP_CWR_ONLY;
    }
    made->qword[2] |= RXF_AUX0_VALID;
    made->qword[3] |= word << RXF_AUX0_SHIFT;
}

/* What the format tells of a frame that is parsed; nothing of formats that extract nothing. */
static inline void writeback_extract(uint32_t rxdid, Writeback *made, const Frame *frame, uint32_t at)
{
    const uint8_t *ip = frame->head + frame->l2_len;
    uint32_t room = frame->head_len - frame->l2_len;
    int is_ipv4 = frame->ptype >= EXTRACT_IPV4 && frame->ptype < EXTRACT_IPV6 && room >= 20;
    int is_ipv6 = frame->ptype >= EXTRACT_IPV6 && frame->ptype < EXTRACT_END && room >= 40;
    switch (rxdid) {
    case RXDID_FLEX_VLAN:
        extract_tags(made, frame);
        break;
    case RXDID_FLEX_IPV4:
        if (is_ipv4)
            extract_put(made, (uint64_t)ip[8] << 8 | ip[9], extract_be16(ip));
        break;
    case RXDID_FLEX_IPV6:
        if (is_ipv6)
            extract_put(made, extract_be16(ip + 6), extract_be16(ip));
        break;
    case RXDID_FLEX_IPV6_FLOW:
        if (is_ipv6)
            extract_put(made, extract_be16(ip + 2), extract_be16(ip));
        break;
    case RXDID_FLEX_TCP:
        extract_tcp(made, frame, at);
        break;
    case RXDID_FLEX_IP_OFFSET:
        /* DPDK looks at the values, not at the valid bits. */
        extract_put(made, is_ipv4 ? frame->l2_len : EXTRACT_NONE,
                    is_ipv6 ? frame->l2_len : EXTRACT_NONE);
        break;
    }
}

#endif
