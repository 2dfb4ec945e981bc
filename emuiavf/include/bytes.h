/* Words of a packet or descriptor at any alignment: in host order, and big-endian (`be`). */
#ifndef EMUIAVF_BYTES_H
#define EMUIAVF_BYTES_H

#include <stdint.h>
#include <string.h>

static inline uint16_t load_u16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t load_u32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t load_u64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void store_u16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void store_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void store_u64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
static inline uint16_t swap_be16(uint16_t v) { return __builtin_bswap16(v); }
static inline uint32_t swap_be32(uint32_t v) { return __builtin_bswap32(v); }
#else
static inline uint16_t swap_be16(uint16_t v) { return v; }
static inline uint32_t swap_be32(uint32_t v) { return v; }
#endif

static inline uint16_t load_be16(const uint8_t *p) { return swap_be16(load_u16(p)); }
static inline uint32_t load_be32(const uint8_t *p) { return swap_be32(load_u32(p)); }
static inline void store_be16(uint8_t *p, uint16_t v) { store_u16(p, swap_be16(v)); }
static inline void store_be32(uint8_t *p, uint32_t v) { store_u32(p, swap_be32(v)); }

#endif
