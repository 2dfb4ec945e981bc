/* Finds the next definition of each call: libc's, or that of another preloaded library. */
#include "real.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "shim.h"

static struct real table;
static atomic_bool ready;

const struct real *real(void)
{
    /* Two threads may both find the same addresses; it does not matter who writes them. */
    if (!atomic_load_explicit(&ready, memory_order_acquire)) {
#define X(result, name, arguments) *(void **)&table.name = dlsym(RTLD_NEXT, #name);
        REAL_CALLS(X)
#undef X
        atomic_store_explicit(&ready, true, memory_order_release);
    }
    return &table;
}
