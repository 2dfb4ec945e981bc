/* Tx descriptors, qword 1 (AVF; reference: E810 datasheet, LAN transmit descriptors). */
#ifndef EMUIAVF_TXDESC_H
#define EMUIAVF_TXDESC_H

enum TxDesc {
    TXD_DTYPE_DATA = 0,
    TXD_DTYPE_CONTEXT = 1,
    TXD_DTYPE_DONE = 15,
    TXD_EOP = 0x10,
    TXD_RS = 0x20,
    TXD_IL2TAG1 = 0x80,
    TXD_IIPT_SHIFT = 9,
    TXD_L4T_SHIFT = 12,
    TXD_MACLEN_SHIFT = 16,
    TXD_IPLEN_SHIFT = 23,
    TXD_L4LEN_SHIFT = 30,
    TXD_BUFSZ_SHIFT = 34,
    TXD_L2TAG1_SHIFT = 48,
    /* of a context descriptor: qword 0 for a packet in a packet, else qword 1 */
    TXC_EIPT = 3,
    TXC_EIPLEN_SHIFT = 2,
    TXC_L4TUNT_SHIFT = 9,
    TXC_EIP_NOINC = 0x800,
    TXC_L4TUNLEN_SHIFT = 12,
    TXC_L4T_CS = 0x800000,
    TXC_TSO = 0x10,
    TXC_IL2TAG2 = 0x40,
    TXC_MSS_SHIFT = 50,
};

enum {
    TX_DESC_SIZE = 16,
    TXD_BUFSZ_MASK = 0x3FFF,
    /* Bits that decide whether a descriptor is a whole frame without requests: it then has but EOP
     * of them.  DTYPE, EOP, IL2TAG1, IIPT, L4T. */
    TXD_NOT_PLAIN = 0xF | TXD_EOP | TXD_IL2TAG1 | 3 << TXD_IIPT_SHIFT | 3 << TXD_L4T_SHIFT,
};

#endif
