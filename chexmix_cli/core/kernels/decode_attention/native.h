/* What others need of the attention to a cache. */
#include "../compiled/native.h"

enum { LANES = 8, TO_NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

#define FOR_AVX2 __attribute__((target("avx2,fma")))

/* One call; native.py holds the same fields. Strides are in numbers; the last dimension lies without gaps. */
typedef struct {
    const void *q, *k, *v; /* (rows, heads, new, size), twice (rows, heads, places, size) */
    const uint8_t *attend; /* (rows or 1, new, places), or NULL */
    void *y;               /* (rows, new, heads, size); y_stride numbers from one position to the next */
    int64_t rows, heads, new, places, size;
    int64_t q_stride[3], k_stride[3], v_stride[3], attend_stride[2], y_stride;
    float scale;
    int32_t is_bfloat16, threads;
    Run run;
} Attention;

/* Return 0, or -1 if there is no memory for the scores. */
int chexmix_attend(const Attention *job);

/* Return exponentials of numbers up to 0, within 2 units in the last place; below -87 they are 0. */
FOR_AVX2 INLINE __m256 exponential(__m256 x) {
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), TO_NEAREST);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    const __m256 is_seen = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_NLT_UQ);
    return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(power)), is_seen);
}
