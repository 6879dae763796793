/* Attention of a few new positions to a cache, for x86-64 CPUs with AVX2: reference.py says what is computed.
 *
 * One row of queries a head would be a matrix with one row to a library; read by itself it goes at the memory's speed.
 * A head is computed in three passes: scores of all positions, their exponentials, the sum of the values. Keys and
 * values are read once for all queries. A score is a sum in one order, and the values of 32 positions are added up
 * before they join the others, so a query's bits depend neither on the queries beside it nor on threads.
 */
#include "native.h"

enum { BLOCK = 32, MOST_VECTORS = 5 };

typedef struct {
    const Attention *job;
    int64_t next;
    int32_t is_short_of_memory;
} Work;

INLINE const void *at(const Attention *job, const void *base, int64_t place) {
    return (const char *)base + place * (job->is_bfloat16 ? 2 : 4);
}

/* Return rows of numbers as float32, and how far apart they are: where they lie, or widened. */
FOR_AVX2 INLINE const float *widened(const Attention *job, const void *from, int64_t *stride, int64_t count, float *to) {
    if (!job->is_bfloat16) return from;
    for (int64_t n = 0; n < count; n++)
        for (int64_t i = 0; i < job->size; i += LANES) {
            const __m128i half = _mm_loadu_si128((const void *)((const uint16_t *)from + n * *stride + i));
            _mm256_storeu_si256((void *)(to + n * job->size + i), _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
        }
    *stride = job->size;
    return to;
}

FOR_AVX2 INLINE float sum_of(__m256 x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

/* Scores of a query and some keys. */
FOR_AVX2 INLINE void score(
    const float *q, const float *keys, int64_t stride, int64_t size, int count, float scale, float *scores) {
    __m256 sums[4];
    UNROLL for (int n = 0; n < count; n++) sums[n] = _mm256_setzero_ps();
    for (int64_t i = 0; i < size; i += LANES) {
        const __m256 own = _mm256_loadu_ps(q + i);
        UNROLL for (int n = 0; n < count; n++)
            sums[n] = _mm256_fmadd_ps(own, _mm256_loadu_ps(keys + n * stride + i), sums[n]);
    }
    UNROLL for (int n = 0; n < count; n++) scores[n] = sum_of(sums[n]) * scale;
}

/* Make scores exponentials, 0 where a place is not attended to; return one over their sum, or 0 if none is. */
FOR_AVX2 INLINE float normalise(float *scores, const uint8_t *attend, int64_t places, int64_t padded) {
    int is_any = attend == NULL;
    if (attend != NULL)
        for (int64_t s = 0; s < places; s++) {
            is_any |= attend[s];
            scores[s] = attend[s] ? scores[s] : -__builtin_inff();
        }
    if (!is_any) {
        memset(scores, 0, (size_t)padded * sizeof *scores);
        return 0.0f;
    }
    for (int64_t s = places; s < padded; s++) scores[s] = -__builtin_inff();
    __m256 most = _mm256_set1_ps(-__builtin_inff()), total = _mm256_setzero_ps();
    for (int64_t s = 0; s < padded; s += LANES) most = _mm256_max_ps(_mm256_loadu_ps(scores + s), most);
    float lanes[LANES], peak = -__builtin_inff();
    _mm256_storeu_ps(lanes, most);
    for (int lane = 0; lane < LANES; lane++) peak = lanes[lane] > peak ? lanes[lane] : peak;
    for (int64_t s = 0; s < padded; s += LANES) {
        const __m256 value = exponential(_mm256_sub_ps(_mm256_loadu_ps(scores + s), _mm256_set1_ps(peak)));
        _mm256_storeu_ps(scores + s, value);
        total = _mm256_add_ps(total, value);
    }
    return 1.0f / sum_of(total);
}

/* Add the weighted values of a block to what came before, of one query or of two neighbours. */
FOR_AVX2 INLINE void mix_vectors(
    const float *share, int64_t padded, const float *values, int64_t stride, int count, float *mixed, int64_t size,
    int queries, int vectors) {
    __m256 sums[2][MOST_VECTORS];
    UNROLL for (int t = 0; t < queries; t++)
        UNROLL for (int n = 0; n < vectors; n++) sums[t][n] = _mm256_setzero_ps();
    for (int s = 0; s < count; s++) {
        /* What no query attends to is not read: nothing times not-a-number is not a number. */
        if (share[s] == 0.0f && (queries == 1 || share[padded + s] == 0.0f)) continue;
        UNROLL for (int n = 0; n < vectors; n++) {
            const __m256 value = _mm256_loadu_ps(values + s * stride + n * LANES);
            UNROLL for (int t = 0; t < queries; t++)
                sums[t][n] = _mm256_fmadd_ps(_mm256_set1_ps(share[t * padded + s]), value, sums[t][n]);
        }
    }
    UNROLL for (int t = 0; t < queries; t++)
        UNROLL for (int n = 0; n < vectors; n++) {
            float *to = mixed + t * size + n * LANES;
            _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), sums[t][n]));
        }
}

#define MIX(n)                                                                                                          \
    case n:                                                                                                             \
        if (queries == 2) mix_vectors(share, padded, values, stride, count, mixed, size, 2, n);                         \
        else mix_vectors(share, padded, values, stride, count, mixed, size, 1, n);                                      \
        break;

FOR_AVX2 static void mix(
    const float *share, int64_t padded, const float *values, int64_t stride, int count, float *mixed, int64_t size,
    int queries) {
    const int64_t vectors = size / LANES, parts = (vectors + MOST_VECTORS - 1) / MOST_VECTORS, step = (vectors + parts - 1) / parts;
    for (int64_t from = 0; from < vectors; from += step) {
        switch (vectors - from < step ? vectors - from : step) { MIX(1) MIX(2) MIX(3) MIX(4) MIX(5) }
        values += step * LANES;
        mixed += step * LANES;
    }
}

FOR_AVX2 INLINE void store(const Attention *job, const float *mixed, float share, void *y) {
    for (int64_t i = 0; i < job->size; i += LANES) {
        const __m256 value = _mm256_mul_ps(_mm256_loadu_ps(mixed + i), _mm256_set1_ps(share));
        if (!job->is_bfloat16) {
            _mm256_storeu_ps((float *)y + i, value);
            continue;
        }
        uint32_t bits[LANES];
        _mm256_storeu_ps((float *)bits, value);
        for (int lane = 0; lane < LANES; lane++) {
            const int is_nan = (bits[lane] & 0x7fffffffu) > 0x7f800000u;
            const uint32_t rounded = (bits[lane] + 0x7fffu + (bits[lane] >> 16 & 1)) >> 16;
            ((uint16_t *)y)[i + lane] = (uint16_t)(is_nan ? 0x7fc0u : rounded);
        }
    }
}

/* Memory of one thread, in float32. */
typedef struct {
    float *scores;  /* (new, padded) */
    float *mixed;   /* (new, size) */
    float *share;   /* (new) */
    float *queries; /* (new, size) */
    float *wide;    /* (BLOCK, size) */
    int64_t padded; /* places, up to whole vectors */
} Memory;

FOR_AVX2 static void head(const Attention *job, int64_t row, int64_t head, const Memory *memory) {
    const int64_t size = job->size, places = job->places, padded = memory->padded;
    const void *keys = at(job, job->k, row * job->k_stride[0] + head * job->k_stride[1]);
    const void *values = at(job, job->v, row * job->v_stride[0] + head * job->v_stride[1]);
    const uint8_t *attend = job->attend == NULL ? NULL : job->attend + row * job->attend_stride[0];
    int64_t apart = job->q_stride[2];
    const void *asked = at(job, job->q, row * job->q_stride[0] + head * job->q_stride[1]);
    const float *queries = widened(job, asked, &apart, job->new, memory->queries);
    for (int64_t s = 0; s < places; s += 4) {
        const int64_t count = places - s < 4 ? places - s : 4;
        int64_t stride = job->k_stride[2];
        const float *block = widened(job, at(job, keys, s * stride), &stride, count, memory->wide);
        for (int64_t t = 0; t < job->new; t++) {
            const float *q = queries + t * apart;
            float *to = memory->scores + t * padded + s;
            if (count == 4) score(q, block, stride, size, 4, job->scale, to);
            else
                for (int n = 0; n < count; n++) score(q, block + n * stride, stride, size, 1, job->scale, to + n);
        }
    }
    for (int64_t t = 0; t < job->new; t++) {
        const uint8_t *own = attend == NULL ? NULL : attend + t * job->attend_stride[1];
        memory->share[t] = normalise(memory->scores + t * padded, own, places, padded);
    }
    memset(memory->mixed, 0, (size_t)(job->new * size) * sizeof(float));
    for (int64_t s = 0; s < places; s += BLOCK) {
        const int count = places - s < BLOCK ? (int)(places - s) : BLOCK;
        int64_t stride = job->v_stride[2];
        const float *block = widened(job, at(job, values, s * stride), &stride, count, memory->wide);
        for (int64_t t = 0; t < job->new; t += 2) {
            const float *share = memory->scores + t * padded + s;
            mix(share, padded, block, stride, count, memory->mixed + t * size, size, job->new - t < 2 ? 1 : 2);
        }
    }
    for (int64_t t = 0; t < job->new; t++) {
        const int64_t place = (row * job->new + t) * job->y_stride + head * size;
        store(job, memory->mixed + t * size, memory->share[t], (char *)job->y + place * (job->is_bfloat16 ? 2 : 4));
    }
}

static void heads(void *argument) {
    Work *work = argument;
    const Attention *job = work->job;
    const int64_t size = job->size, padded = (job->places + LANES - 1) / LANES * LANES;
    float *first = malloc((size_t)(job->new * (padded + 2 * size + 1) + BLOCK * size) * sizeof *first);
    if (first == NULL) {
        work->is_short_of_memory = 1;
        return;
    }
    Memory memory = {.scores = first, .padded = padded};
    memory.mixed = memory.scores + job->new * padded;
    memory.queries = memory.mixed + job->new * size;
    memory.wide = memory.queries + job->new * size;
    memory.share = memory.wide + BLOCK * size;
    int64_t place;
    while ((place = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < job->rows * job->heads)
        head(job, place / job->heads, place % job->heads, &memory);
    free(first);
}

/* Whether this CPU has the instructions. */
int chexmix_attends(void) { return has_avx2(); }

/* Return 0, or -1 if there is no memory for the scores. */
int chexmix_attend(const Attention *job) {
    Work work = {.job = job};
    on_threads(job->run, heads, &work, job->rows * job->heads > 1 ? job->threads : 1);
    return work.is_short_of_memory ? -1 : 0;
}
