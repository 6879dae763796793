/* What a block computes between its two products, for a few positions behind a cache: reference.py says what.
 *
 * In torch it is some twenty calls, each of which finds its code and its numbers pushed out of the cache by the weights
 * that were read before it. Here it is one, and nothing but the keys and values is large.
 */
#include "../decode_attention/native.h"

/* One call; native.py holds the same fields. Strides are in numbers. */
typedef struct {
    const float *fused;     /* (rows, new, 3 x heads x size + mlp): queries, keys, values, and what gelu takes */
    const float *cos, *sin; /* (rows or 1, new, half) */
    float *keys, *values;   /* (rows, heads, places, size); the last dimension lies without gaps */
    const uint8_t *attend;  /* (rows or 1, new, start + new), or NULL */
    float *y;               /* (rows, new, heads x size + mlp) */
    int64_t rows, heads, new, start, size, half, mlp, table_stride;
    int64_t cache_stride[3], attend_stride[2];
    float scale;
    int32_t threads;
    Run run;
} Job;

typedef struct {
    const Job *job;
    float *queries; /* (rows, new, heads, size) */
    int64_t next;
} Work;

/* Products are rounded before they are added, as torch does it: -ffp-contract=off. */
FOR_AVX2 INLINE void rotate(const Job *job, const float *x, const float *cos, const float *sin, float *to) {
    const int64_t half = job->half;
    for (int64_t i = 0; i < half; i++) {
        to[i] = x[i] * cos[i] - x[half + i] * sin[i];
        to[half + i] = x[half + i] * cos[i] + x[i] * sin[i];
    }
    for (int64_t i = 2 * half; i < job->size; i++) to[i] = x[i];
}

/* gelu with tanh, as x times the logistic function of twice tanh's argument: tanh(u) = 2 / (1 + exp(-2 u)) - 1. */
FOR_AVX2 INLINE void gelu(const float *x, float *y, int64_t count) {
    const __m256 one = _mm256_set1_ps(1.0f), minus = _mm256_set1_ps(-0.0f);
    for (int64_t i = 0; i < count; i += LANES) {
        const __m256 own = _mm256_loadu_ps(x + i), cube = _mm256_mul_ps(_mm256_mul_ps(own, own), own);
        const __m256 inner = _mm256_fmadd_ps(cube, _mm256_set1_ps(0.044715f), own);
        const __m256 twice = _mm256_mul_ps(inner, _mm256_set1_ps(1.5957691216f));
        const __m256 power = exponential(_mm256_or_ps(twice, minus));
        const __m256 above = _mm256_blendv_ps(one, power, twice);
        _mm256_storeu_ps(y + i, _mm256_mul_ps(own, _mm256_div_ps(above, _mm256_add_ps(one, power))));
    }
}

FOR_AVX2 static void positions(void *argument) {
    Work *work = argument;
    const Job *job = work->job;
    const int64_t width = job->heads * job->size;
    int64_t place;
    while ((place = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < job->rows * job->new) {
        const int64_t row = place / job->new, t = place % job->new, table = row * job->table_stride + t * job->half;
        const float *fused = job->fused + place * (3 * width + job->mlp), *cos = job->cos + table, *sin = job->sin + table;
        const int64_t slot = row * job->cache_stride[0] + (job->start + t) * job->cache_stride[2];
        for (int64_t head = 0; head < job->heads; head++) {
            const int64_t in_fused = head * job->size, in_cache = slot + head * job->cache_stride[1];
            rotate(job, fused + in_fused, cos, sin, work->queries + place * width + in_fused);
            rotate(job, fused + width + in_fused, cos, sin, job->keys + in_cache);
            memcpy(job->values + in_cache, fused + 2 * width + in_fused, (size_t)job->size * sizeof(float));
        }
        gelu(fused + 3 * width, job->y + place * (width + job->mlp) + width, job->mlp);
    }
}

/* Return 0, or -1 if there is no memory for queries or scores. */
int chexmix_branches(const Job *job) {
    const int64_t width = job->heads * job->size, count = job->rows * job->new;
    Work work = {.job = job, .queries = malloc((size_t)(count * width) * sizeof(float))};
    if (work.queries == NULL) return -1;
    on_threads(job->run, positions, &work, count > 2 ? job->threads : 1);
    const Attention attention = {
        .q = work.queries, .k = job->keys, .v = job->values, .attend = job->attend, .y = job->y,
        .rows = job->rows, .heads = job->heads, .new = job->new, .places = job->start + job->new, .size = job->size,
        .q_stride = {job->new * width, job->size, width},
        .k_stride = {job->cache_stride[0], job->cache_stride[1], job->cache_stride[2]},
        .v_stride = {job->cache_stride[0], job->cache_stride[1], job->cache_stride[2]},
        .attend_stride = {job->attend_stride[0], job->attend_stride[1]}, .y_stride = width + job->mlp,
        .scale = job->scale, .threads = job->threads, .run = job->run,
    };
    const int code = chexmix_attend(&attention);
    free(work.queries);
    return code;
}
