/* What every kernel in C begins with. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

/* What every kernel here needs at least. */
INLINE int has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

/* GOMP_parallel: runs a function on torch's threads. NULL: this thread alone. */
typedef void (*Run)(void (*)(void *), void *, unsigned, unsigned);

INLINE void on_threads(Run run, void (*work)(void *), void *argument, int threads) {
    if (run != NULL && threads > 1) run(work, argument, (unsigned)threads, 0);
    else work(argument);
}
