/* Work of items that threads take one after the other until there are none. */
#pragma once
#include <stdint.h>

/* GCC's and LLVM's OpenMP: calls `run(data)` on each of `threads` threads. */
typedef void (*Parallel)(void (*run)(void *), void *data, unsigned threads, unsigned flags);

typedef struct {
    int64_t count;
    _Atomic int64_t next, failed; /* failed: a thread had no memory */
} Items;

/* Gives whether all went well. `data` holds `items`. */
static inline int share_out(void (*run)(void *), void *data, Items *items, Parallel parallel, int threads) {
    if (parallel == 0 || threads == 1)
        run(data);
    else
        parallel(run, data, threads, 0);
    return !items->failed;
}
