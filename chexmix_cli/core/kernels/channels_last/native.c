/* Layers of the image tokenizer over (image, row, column, channel) in float32, for x86-64 CPUs: reference.py says what
 * is computed.
 *
 * The 3 x 3 convolution is Winograd's (Lavin and Gray 2016, F(4 x 4, 3 x 3)): a tile of 6 x 6 pixels becomes 36 numbers a
 * channel, these are multiplied by weights that were transformed alike, and 36 numbers an output channel become 4 x 4
 * pixels. 36 products in place of 144. Of the points 0, a, -a, b, -b and infinity that the polynomials are taken at,
 * a = 5/8 and b = 3/2 lose half as many digits as the usual 1 and 2: about as few as adding up 9 x in products in a row.
 * Tiles are taken TILES at a time, so that what is between stays in the cache. Every number is added up in one order,
 * whatever the number of threads, the instructions and the films beside a film.
 */
#include "../compiled/native.h"

enum { PANEL = 16, SIDE = 6, STEP = 4, POINTS = SIDE * SIDE, TILES = 48, ROWS = 6, CHUNK = 1 << 15 };
#define A_POINT 0.625f
#define B_POINT 1.5f
#define A_FACTOR (2.0 * A_POINT * A_POINT * (A_POINT * A_POINT - B_POINT * B_POINT))
#define B_FACTOR (2.0 * B_POINT * B_POINT * (B_POINT * B_POINT - A_POINT * A_POINT))

static const double G[SIDE][3] = {
    {1.0 / (A_POINT * A_POINT * B_POINT * B_POINT), 0, 0},
    {1 / A_FACTOR, A_POINT / A_FACTOR, A_POINT *A_POINT / A_FACTOR},
    {1 / A_FACTOR, -A_POINT / A_FACTOR, A_POINT *A_POINT / A_FACTOR},
    {1 / B_FACTOR, B_POINT / B_FACTOR, B_POINT *B_POINT / B_FACTOR},
    {1 / B_FACTOR, -B_POINT / B_FACTOR, B_POINT *B_POINT / B_FACTOR},
    {0, 0, 1},
};

/* One call each; native.py holds the same fields. in and out are multiples of 16. */
typedef struct {
    const float *x;      /* (images, height, width, in) */
    const float *weight; /* (out, in, 3, 3) in these strides */
    const float *bias;   /* (out) */
    const float *add;    /* as y, or NULL */
    const float *lines;  /* (images, 2, in): what x is multiplied by, and what is added to it, before swish; or NULL */
    float *y;            /* (images, height, width, out) */
    int64_t images, height, width, in, out, stride[4];
    int32_t bits, threads;
    Run run;
} Convolution;

typedef struct {
    const float *x;              /* (images, pixels, channels) */
    const float *weight, *bias;  /* (channels) */
    float *lines;                /* (images, 2, channels): what x is multiplied by, and what is added to it */
    float *y;                    /* as x, or NULL: then the lines are all that is asked for */
    int64_t images, pixels, channels, groups;
    double eps;
    int32_t has_swish, bits, threads;
    Run run;
} Norm;

typedef struct {
    int64_t image, y, x;
} Tile;

INLINE int64_t tiles_of(int64_t extent) { return (extent + STEP - 1) / STEP; }

INLINE Tile tile_of(const Convolution *job, int64_t tile) {
    const int64_t rows = tiles_of(job->height), columns = tiles_of(job->width);
    return (Tile){tile / (rows * columns), tile / columns % rows * STEP, tile % columns * STEP};
}

#define FOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define NAME(x) x##_512
#define LANES 16
#define AT_ONCE 4
#define vec __m512
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define SET1 _mm512_set1_ps
#define FMA _mm512_fmadd_ps
#define MIN _mm512_min_ps
#define MAX _mm512_max_ps
#define ROUND(x) _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define POWER(n) \
    _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23))
#include "layers.h"
#undef FOR
#undef NAME
#undef LANES
#undef AT_ONCE
#undef vec
#undef LOAD
#undef STORE
#undef SET1
#undef FMA
#undef MIN
#undef MAX
#undef ROUND
#undef POWER
#define FOR __attribute__((target("avx2,fma")))
#define NAME(x) x##_256
#define LANES 8
#define AT_ONCE 1
#define vec __m256
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define SET1 _mm256_set1_ps
#define FMA _mm256_fmadd_ps
#define MIN _mm256_min_ps
#define MAX _mm256_max_ps
#define ROUND(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define POWER(n) \
    _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23))
#include "layers.h"

/* The widest vectors of this CPU that there is code for: 512, 256, or 0. */
int chexmix_vector_bits(void) {
    if (!has_avx2()) return 0;
    const int has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return has_512 ? 512 : 256;
}

/* ---- the convolution on all threads ---- */

typedef struct {
    const Convolution *job;
    float *packed;
    int64_t next, tiles;
    int failed;
} Convolving;

static void pack_weights(void *argument) {
    Convolving *work = argument;
    const Convolution *job = work->job;
    int64_t panel;
    while ((panel = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < job->out / PANEL)
        (job->bits == 512 ? pack_512 : pack_256)(job, work->packed, panel);
}

static void convolve_tiles(void *argument) {
    Convolving *work = argument;
    const Convolution *job = work->job;
    const size_t size_v = (size_t)(POINTS * (TILES * job->in + PANEL)), size_m = (size_t)(POINTS * (TILES * job->out + PANEL));
    float *memory = malloc((size_v + size_m) * sizeof *memory);
    if (memory == NULL) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    int64_t first;
    while ((first = __atomic_fetch_add(&work->next, TILES, __ATOMIC_RELAXED)) < work->tiles) {
        const int64_t last = first + TILES < work->tiles ? first + TILES : work->tiles;
        (job->bits == 512 ? tiles_512 : tiles_256)(job, work->packed, memory, memory + size_v, first, last);
    }
    free(memory);
}

/* Return 0, or -1 if there is no memory. */
int chexmix_convolution(const Convolution *job) {
    const size_t weights = (size_t)(POINTS * job->in * job->out);
    Convolving work = {.job = job, .tiles = job->images * tiles_of(job->height) * tiles_of(job->width)};
    work.packed = malloc(weights * sizeof *work.packed);
    if (work.packed == NULL) return -1;
    on_threads(job->run, pack_weights, &work, job->threads);
    work.next = 0;
    on_threads(job->run, convolve_tiles, &work, job->threads);
    free(work.packed);
    return work.failed ? -1 : 0;
}

/* ---- the norm on all threads ---- */

typedef struct {
    const Norm *job;
    double *sums; /* (images, chunks, 2, channels) */
    int64_t next, chunks, size; /* chunks of so many pixels an image */
} Norming;

INLINE int64_t pixels_of(const Norming *work, int64_t chunk) {
    const int64_t left = work->job->pixels - chunk % work->chunks * work->size;
    return left < work->size ? left : work->size;
}

INLINE int64_t start_of(const Norming *work, int64_t chunk) {
    const int64_t pixel = chunk / work->chunks * work->job->pixels + chunk % work->chunks * work->size;
    return pixel * work->job->channels;
}

static void sum_chunks(void *argument) {
    Norming *work = argument;
    const Norm *job = work->job;
    int64_t chunk;
    while ((chunk = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < job->images * work->chunks)
        (job->bits == 512 ? sum_up_512 : sum_up_256)(
            job, job->x + start_of(work, chunk), pixels_of(work, chunk), work->sums + chunk * 2 * job->channels);
}

static void apply_chunks(void *argument) {
    Norming *work = argument;
    const Norm *job = work->job;
    int64_t chunk;
    while ((chunk = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < job->images * work->chunks) {
        const int64_t at = start_of(work, chunk);
        const float *scale = job->lines + chunk / work->chunks * 2 * job->channels;
        (job->bits == 512 ? apply_512 : apply_256)(
            job, job->x + at, job->y + at, pixels_of(work, chunk), scale, scale + job->channels);
    }
}

/* By the instruction: libm is not linked. */
static double root(double x) {
    return _mm_cvtsd_f64(_mm_sqrt_sd(_mm_set_sd(x), _mm_set_sd(x)));
}

/* Mean and variance of each group, as what every channel is multiplied by and what is added to it. */
static void to_lines(const Norming *work) {
    const Norm *job = work->job;
    const int64_t C = job->channels, width = C / job->groups;
    const double count = (double)(width * job->pixels);
    for (int64_t group = 0; group < job->images * job->groups; group++) {
        const int64_t image = group / job->groups, from = group % job->groups * width;
        double first = 0, second = 0;
        for (int64_t chunk = image * work->chunks; chunk < (image + 1) * work->chunks; chunk++)
            for (int64_t c = from; c < from + width; c++) {
                first += work->sums[chunk * 2 * C + c];
                second += work->sums[(chunk * 2 + 1) * C + c];
            }
        const double mean = first / count, variance = second / count - mean * mean;
        const double factor = 1 / root((variance < 0 ? 0 : variance) + job->eps);
        float *scale = job->lines + image * 2 * C, *shift = scale + C;
        for (int64_t c = from; c < from + width; c++) {
            scale[c] = (float)(factor * job->weight[c]);
            shift[c] = (float)(job->bias[c] - mean * factor * job->weight[c]);
        }
    }
}

/* Return 0, or -1 if there is no memory. */
int chexmix_group_norm(const Norm *job) {
    Norming work = {.job = job, .size = CHUNK / job->channels > 0 ? CHUNK / job->channels : 1};
    work.chunks = (job->pixels + work.size - 1) / work.size;
    work.sums = malloc((size_t)(job->images * work.chunks * 2 * job->channels) * sizeof *work.sums);
    if (work.sums == NULL) return -1;
    on_threads(job->run, sum_chunks, &work, job->threads);
    to_lines(&work);
    work.next = 0;
    if (job->y != NULL) on_threads(job->run, apply_chunks, &work, job->threads);
    free(work.sums);
    return 0;
}
