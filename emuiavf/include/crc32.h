/* The FCS of Ethernet (IEEE 802.3, CRC-32, reflected): eight bytes per step, one table for each. */
#ifndef EMUIAVF_CRC32_H
#define EMUIAVF_CRC32_H

#include <stddef.h>

#include "bytes.h"

#define CRC32_START 0xFFFFFFFFu
#define CRC32_POLYNOMIAL 0xEDB88320u

/* crc32_table[n][byte]: what `byte` with n bytes behind it adds. */
static uint32_t crc32_table[8][256];

/* Once, before crc32_add. */
static void crc32_prepare(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? CRC32_POLYNOMIAL : 0);
        crc32_table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int n = 1; n < 8; n++) {
            uint32_t crc = crc32_table[n - 1][byte];
            crc32_table[n][byte] = crc >> 8 ^ crc32_table[0][crc & 0xFF];
        }
}

/* The FCS is the complement of the last result, its lowest byte first. */
static uint32_t crc32_add(uint32_t crc, const uint8_t *src, size_t length)
{
    for (; length >= 8; length -= 8, src += 8) {
        uint64_t word = load_u64(src) ^ crc;
        crc = 0;
        for (int n = 0; n < 8; n++)
            crc ^= crc32_table[7 - n][word >> 8 * n & 0xFF];
    }
    for (; length; length--)
        crc = crc >> 8 ^ crc32_table[0][(crc ^ *src++) & 0xFF];
    return crc;
}

#endif
