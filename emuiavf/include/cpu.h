/* What the CPU at hand can do, for functions that are built more than once.
 *
 * A body that is always inlined, called from a function with a target, is built for that target.
 */
#ifndef EMUIAVF_CPU_H
#define EMUIAVF_CPU_H

#include <stdint.h>

#define BODY static inline __attribute__((always_inline))

/* What such functions are built for; `..._use(kind)` returns 0, and changes nothing, when the CPU at
 * hand is another. */
enum { CPU_BASE = 0, CPU_AVX2 = 1 };

/* 32 bytes at any alignment: one register where there is one so wide, else two. */
typedef uint8_t Wide __attribute__((vector_size(32), aligned(1), may_alias));

BODY void move_32(uint8_t *dst, const uint8_t *src) { *(Wide *)dst = *(const Wide *)src; }

BODY void move_64(uint8_t *dst, const uint8_t *src)
{
    move_32(dst, src);
    move_32(dst + 32, src + 32);
}

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET_AVX2 __attribute__((target("avx2,bmi,bmi2,pclmul")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512bw")))

static inline int cpu_has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("pclmul");
}

/* Only where it does not lower the clock: the CPUs that have VBMI2 (Ice Lake, Zen 4). */
static inline int cpu_likes_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2");
}
#endif

#endif
