/* Constant tables of the parser.  In C because Cython fills its arrays when a module is imported,
 * where no compiler can see through them. */
#ifndef EMUIAVF_PROTOCOLS_H
#define EMUIAVF_PROTOCOLS_H

#include <stdint.h>

#include "frame.h"

/* Kinds of IP packet: added to 22 (IPv4) or 88 (IPv6) they are Intel's packet types. */
enum {
    KIND_FRAGMENT = 0,
    KIND_OTHER = 1,
    KIND_UDP = 2,
    KIND_TCP = 4,
    KIND_SCTP = 5,
    KIND_ICMP = 6,
    KINDS = 7,
};

static const uint8_t KIND_L4[KINDS] = {
    [KIND_UDP] = L4_UDP, [KIND_TCP] = L4_TCP, [KIND_SCTP] = L4_SCTP,
};

/* Bits of hena (virtchnl) of the class in IPv4; those of IPv6 are ten higher.  UDP and TCP have
 * finer classes (29, 30 and 32) that are hashed alike. */
static const uint64_t KIND_HENA[KINDS] = {
    [KIND_FRAGMENT] = 1ull << 36, [KIND_OTHER] = 1ull << 35, [KIND_UDP] = 7ull << 29,
    [KIND_TCP] = 3ull << 32,      [KIND_SCTP] = 1ull << 34,  [KIND_ICMP] = 1ull << 35,
};

/* By Frame.l4_proto: the shortest header, the checksum's place in it, and the IP protocol. */
static const uint8_t L4_MIN[4] = {[L4_TCP] = 20, [L4_SCTP] = 12, [L4_UDP] = 8};
static const uint8_t L4_FIELD[4] = {[L4_TCP] = 16, [L4_SCTP] = 8, [L4_UDP] = 6};
static const uint8_t L4_IP[4] = {[L4_TCP] = 6, [L4_SCTP] = 132, [L4_UDP] = 17};

#endif
