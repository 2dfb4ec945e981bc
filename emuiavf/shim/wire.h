/* vfio-user on the wire; what follows a fixed part is said with it.  All fields are little-endian
 * and unpadded.  Specification: vfio-user, with the structures of linux/vfio.h. */
#ifndef EMUIAVF_WIRE_H
#define EMUIAVF_WIRE_H

#include <stdint.h>

enum {
    WIRE_MINOR = 1,
    WIRE_VERSION = 1,
    WIRE_DMA_MAP = 2,
    WIRE_DMA_UNMAP = 3,
    WIRE_GET_INFO = 4,
    WIRE_GET_REGION_INFO = 5,
    WIRE_GET_IRQ_INFO = 7,
    WIRE_SET_IRQS = 8,
    WIRE_REGION_READ = 9,
    WIRE_REGION_WRITE = 10,
    WIRE_RESET = 13,

    WIRE_TYPE_MASK = 0xf,
    WIRE_TYPE_REPLY = 1,
    WIRE_ERROR = 0x20,
};

struct wire_header {
    uint16_t id;
    uint16_t command;
    uint32_t size;
    uint32_t flags;
    uint32_t error;
};

struct wire_version { /* then JSON and a NUL */
    uint16_t major;
    uint16_t minor;
};

struct wire_dma_map {
    uint32_t argsz;
    uint32_t flags;
    uint64_t offset;
    uint64_t address;
    uint64_t size;
};

struct wire_dma_unmap {
    uint32_t argsz;
    uint32_t flags;
    uint64_t address;
    uint64_t size;
};

struct wire_device_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t num_regions;
    uint32_t num_irqs;
};

struct wire_region_access { /* then the data */
    uint64_t offset;
    uint32_t region;
    uint32_t count;
};

_Static_assert(sizeof(struct wire_header) == 16, "header");
_Static_assert(sizeof(struct wire_dma_map) == 32, "DMA_MAP");
_Static_assert(sizeof(struct wire_dma_unmap) == 24, "DMA_UNMAP");
_Static_assert(sizeof(struct wire_device_info) == 16, "DEVICE_GET_INFO");
_Static_assert(sizeof(struct wire_region_access) == 16, "REGION_READ");

#endif
