/* Products of float32 activations with weights of 8 or 4 bits, for x86-64 CPUs: reference.py says what is computed.
 *
 * Weights lie in panels of 16 outputs, and within a panel in groups of 32 inputs. A vector of 64 bytes holds four
 * neighbouring inputs of each of the 16 outputs, so that one integer dot product adds four inputs to 16 sums:
 *   8 bits: eight vectors a group, a byte is the number + 128;
 *   4 bits: four vectors a group, a nibble is the number + 8; the low ones are inputs 0 to 15, the high ones 16 to 31.
 * Activations become signed bytes with a scale for each group of each row. The offset of the weights times the sum of a
 * group's activations is taken off where a group's sums start. Every output is added up group by group in the same
 * order whatever the number of rows, the number of threads and the instructions, so its bits are always the same.
 */
#include "../compiled/native.h"

enum { PANEL = 16, GROUP = 32, MOST_512 = 6, MOST_256 = 3, ACTIVATION_BYTES = 768 << 10, AHEAD_BYTES = 4096 };
enum { AVX2 = 1, AVX_VNNI = 2, AVX512_VNNI = 3 };

#define FOR_AVX2 __attribute__((target("avx2,fma")))
#define FOR_AVX_VNNI __attribute__((target("avx2,fma,avxvnni")))
#define FOR_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))

/* One call; native.py holds the same fields. Outputs first to last - 1 go to y, (rows, last - first). */
typedef struct {
    const float *x;          /* (rows, inputs) */
    const uint8_t *weight;   /* (panels, groups, 16 x 32 numbers) */
    const void *scale;       /* 8 bits: float32 (panels, 16); 4 bits: bfloat16 (panels, groups, 16) */
    const float *bias;       /* (last - first), or NULL */
    float *y;
    int64_t rows, inputs, first, last;
    int32_t bits, level, threads;
    Run run;
} Job;

typedef struct {
    const Job *job;
    int8_t *steps; /* activations (rows, groups, 32) */
    float *step;   /* what one of them is worth (rows, groups) */
    int32_t *start; /* -offset times the sum of a group (rows, groups) */
    int64_t groups, next, chunk;
} Work;

/* Bit L: this CPU has level L. Levels are no ladder: AVX512-VNNI comes with AVX-VNNI and without, by maker and year. */
int chexmix_levels(void) {
    unsigned a, b, c, d;
    if (!has_avx2()) return 0;
    int levels = 1 << AVX2;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(1));
    if (a >> 4 & 1) levels |= 1 << AVX_VNNI;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
        levels |= 1 << AVX512_VNNI;
    return levels;
}

/* ---- activations to bytes ---- */

FOR_AVX2 static void quantize_group(const float *x, int8_t *steps, float *step, int32_t *start, int offset) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), clear = _mm256_set1_epi32(0x7fffffff);
    __m256 v[4];
    __m256i most = _mm256_setzero_si256(), q[4], sum;
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        /* Bits of amounts order as the amounts do, and those of infinities and NaN are above all. */
        most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(v[i]), clear));
    }
    __m128i half = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0xb1));
    const uint32_t bits = (uint32_t)_mm_cvtsi128_si32(half);
    const float amount = _mm_cvtss_f32(_mm_castsi128_ps(half));
    if (bits >= 0x7f800000u || amount < 1e-35f) {
        memset(steps, 0, GROUP);
        *step = bits >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
        *start = 0;
        return;
    }
    *step = amount / 127.0f;
    const __m256 inverse = _mm256_set1_ps(127.0f / amount);
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    sum = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)steps, _mm256_permutevar8x32_epi32(packed, order));
    half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    *start = -offset * _mm_cvtsi128_si32(half);
}

static void quantize_rows(void *argument) {
    Work *work = argument;
    const Job *job = work->job;
    /* Without VNNI the offset of 8 bits is taken off the weights themselves. */
    const int offset = job->bits == 4 ? 8 : job->level == AVX2 ? 0 : 128;
    int64_t row;
    while ((row = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < job->rows)
        for (int64_t group = 0; group < work->groups; group++) {
            const int64_t at = row * work->groups + group, left = job->inputs - group * GROUP;
            const float *x = job->x + row * job->inputs + group * GROUP;
            float part[GROUP] = {0};
            if (left < GROUP) x = memcpy(part, x, (size_t)left * sizeof *x);
            quantize_group(x, work->steps + at * GROUP, work->step + at, work->start + at, offset);
        }
}

/* ---- tiles: rows x panels ---- */

INLINE void store(const Job *job, float *sums, int64_t row, int64_t panel) {
    const int64_t at = panel * PANEL - job->first, width = job->last - job->first;
    float *y = job->y + row * width + at;
    const float *bias = job->bias + at;
    if (job->bits == 8)
        for (int lane = 0; lane < PANEL; lane++) sums[lane] *= ((const float *)job->scale)[panel * PANEL + lane];
    if (at >= 0 && at + PANEL <= width) {
        for (int lane = 0; lane < PANEL; lane++) y[lane] = job->bias ? sums[lane] + bias[lane] : sums[lane];
        return;
    }
    for (int lane = 0; lane < PANEL; lane++)
        if (at + lane >= 0 && at + lane < width) y[lane] = job->bias ? sums[lane] + bias[lane] : sums[lane];
}

/* The first rows that pass over weights bring them into the cache; for the rows after them it would be wasted. */
INLINE void fetch_ahead(const uint8_t *weight, int64_t size) {
    for (int64_t at = 0; at < size; at += 64) _mm_prefetch((const char *)weight + at + AHEAD_BYTES, _MM_HINT_T0);
}

#define VECTORS(bits) (bits == 8 ? GROUP / 4 : GROUP / 8)

FOR_AVX512 INLINE void tile_512(const Work *work, int64_t row, int64_t panel, int rows, int panels, int bits, int is_first) {
    const Job *job = work->job;
    const int64_t groups = work->groups, size = (int64_t)VECTORS(bits) * 64;
    const __m512i low = _mm512_set1_epi8(15);
    __m512 sums[MOST_512][2];
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int n = 0; n < panels; n++) sums[m][n] = _mm512_setzero_ps();
    for (int64_t group = 0; group < groups; group++) {
        const int8_t *steps = work->steps + (row * groups + group) * GROUP;
        const uint8_t *weight = job->weight + (panel * groups + group) * size;
        if (is_first)
            for (int n = 0; n < panels; n++) fetch_ahead(weight + n * groups * size, size);
        __m512i dots[MOST_512][2];
        UNROLL for (int m = 0; m < rows; m++)
            UNROLL for (int n = 0; n < panels; n++) dots[m][n] = _mm512_set1_epi32(work->start[(row + m) * groups + group]);
        for (int j = 0; j < VECTORS(bits); j++) {
            __m512i w[2];
            UNROLL for (int n = 0; n < panels; n++) w[n] = _mm512_loadu_si512(weight + n * groups * size + j * 64);
            UNROLL for (int part = 0; part < 8 / bits; part++)
                UNROLL for (int m = 0; m < rows; m++) {
                    int32_t four;
                    memcpy(&four, steps + m * groups * GROUP + part * 16 + j * 4, 4);
                    UNROLL for (int n = 0; n < panels; n++) {
                        const __m512i own = bits == 8 ? w[n] : _mm512_and_si512(part ? _mm512_srli_epi16(w[n], 4) : w[n], low);
                        dots[m][n] = _mm512_dpbusd_epi32(dots[m][n], own, _mm512_set1_epi32(four));
                    }
                }
        }
        UNROLL for (int n = 0; n < panels; n++) {
            __m512 scale;
            if (bits == 4) {
                const uint16_t *at = (const uint16_t *)job->scale + ((panel + n) * groups + group) * PANEL;
                scale = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at)), 16));
            }
            UNROLL for (int m = 0; m < rows; m++) {
                __m512 dot = _mm512_cvtepi32_ps(dots[m][n]);
                if (bits == 4) dot = _mm512_mul_ps(dot, scale);
                sums[m][n] = _mm512_fmadd_ps(dot, _mm512_set1_ps(work->step[(row + m) * groups + group]), sums[m][n]);
            }
        }
    }
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int n = 0; n < panels; n++) {
            float out[PANEL];
            _mm512_storeu_ps(out, sums[m][n]);
            store(job, out, row + m, panel + n);
        }
}

/* The same with vectors of 32 bytes: a panel is two halves. */
FOR_AVX_VNNI INLINE void tile_avx_vnni(const Work *work, int64_t row, int64_t panel, int rows, int bits, int is_first) {
    const Job *job = work->job;
    const int64_t groups = work->groups, size = (int64_t)VECTORS(bits) * 64;
    const __m256i low = _mm256_set1_epi8(15);
    __m256 sums[MOST_256][2];
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int n = 0; n < 2; n++) sums[m][n] = _mm256_setzero_ps();
    for (int64_t group = 0; group < groups; group++) {
        const int8_t *steps = work->steps + (row * groups + group) * GROUP;
        const uint8_t *weight = job->weight + (panel * groups + group) * size;
        if (is_first) fetch_ahead(weight, size);
        __m256i dots[MOST_256][2];
        UNROLL for (int m = 0; m < rows; m++)
            UNROLL for (int n = 0; n < 2; n++) dots[m][n] = _mm256_set1_epi32(work->start[(row + m) * groups + group]);
        for (int j = 0; j < VECTORS(bits); j++) {
            UNROLL for (int n = 0; n < 2; n++) {
                const __m256i w = _mm256_loadu_si256((const void *)(weight + j * 64 + n * 32));
                UNROLL for (int part = 0; part < 8 / bits; part++) {
                    const __m256i own =
                        bits == 8 ? w : _mm256_and_si256(part ? _mm256_srli_epi16(w, 4) : w, low);
                    UNROLL for (int m = 0; m < rows; m++) {
                        int32_t four;
                        memcpy(&four, steps + m * groups * GROUP + part * 16 + j * 4, 4);
                        dots[m][n] = _mm256_dpbusd_avx_epi32(dots[m][n], own, _mm256_set1_epi32(four));
                    }
                }
            }
        }
        UNROLL for (int n = 0; n < 2; n++) {
            __m256 scale = _mm256_setzero_ps();
            if (bits == 4) {
                const uint16_t *at = (const uint16_t *)job->scale + (panel * groups + group) * PANEL + n * 8;
                scale = _mm256_castsi256_ps(
                    _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)at)), 16));
            }
            UNROLL for (int m = 0; m < rows; m++) {
                __m256 dot = _mm256_cvtepi32_ps(dots[m][n]);
                if (bits == 4) dot = _mm256_mul_ps(dot, scale);
                sums[m][n] =
                    _mm256_fmadd_ps(dot, _mm256_set1_ps(work->step[(row + m) * groups + group]), sums[m][n]);
            }
        }
    }
    UNROLL for (int m = 0; m < rows; m++) {
        float out[PANEL];
        _mm256_storeu_ps(out, sums[m][0]);
        _mm256_storeu_ps(out + 8, sums[m][1]);
        store(job, out, row + m, panel);
    }
}

/* Without VNNI. Of 8 bits the amount of a weight is the unsigned factor and its sign goes to the activation, so that the
 * 16-bit sum of two products, at most 2 x 127 x 127, does not overflow. Of 4 bits that of a whole group does not, at most
 * 8 x 2 x 15 x 127 = 30480, and is widened once a group. */
FOR_AVX2 INLINE void tile_avx2(const Work *work, int64_t row, int64_t panel, int rows, int bits, int is_first) {
    const Job *job = work->job;
    const int64_t groups = work->groups, size = (int64_t)VECTORS(bits) * 64;
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi8(-128);
    /* Unknown to the compiler: with the loop unrolled it holds all factors of a group at once, in memory. */
    int vectors = VECTORS(bits);
    __asm__("" : "+r"(vectors));
    __m256 sums[MOST_256][2];
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int n = 0; n < 2; n++) sums[m][n] = _mm256_setzero_ps();
    for (int64_t group = 0; group < groups; group++) {
        const int8_t *steps = work->steps + (row * groups + group) * GROUP;
        const uint8_t *weight = job->weight + (panel * groups + group) * size;
        if (is_first) fetch_ahead(weight, size);
        __m256i dots[MOST_256][2];
        UNROLL for (int m = 0; m < rows; m++)
            UNROLL for (int n = 0; n < 2; n++) dots[m][n] = _mm256_setzero_si256();
        for (int j = 0; j < vectors; j++) {
            UNROLL for (int part = 0; part < 8 / bits; part++) {
                __m256i x[MOST_256];
                UNROLL for (int m = 0; m < rows; m++) {
                    int32_t four;
                    memcpy(&four, steps + m * groups * GROUP + part * 16 + j * 4, 4);
                    x[m] = _mm256_set1_epi32(four);
                }
                UNROLL for (int n = 0; n < 2; n++) {
                    const __m256i w = _mm256_loadu_si256((const void *)(weight + j * 64 + n * 32));
                    if (bits == 4) {
                        const __m256i own = _mm256_and_si256(part ? _mm256_srli_epi16(w, 4) : w, low);
                        UNROLL for (int m = 0; m < rows; m++)
                            dots[m][n] = _mm256_add_epi16(dots[m][n], _mm256_maddubs_epi16(own, x[m]));
                    } else {
                        const __m256i number = _mm256_xor_si256(w, offset), amount = _mm256_abs_epi8(number);
                        UNROLL for (int m = 0; m < rows; m++) {
                            const __m256i pairs = _mm256_maddubs_epi16(amount, _mm256_sign_epi8(x[m], number));
                            dots[m][n] = _mm256_add_epi32(dots[m][n], _mm256_madd_epi16(pairs, ones));
                        }
                    }
                }
            }
        }
        UNROLL for (int n = 0; n < 2; n++) {
            __m256 scale = _mm256_setzero_ps();
            if (bits == 4) {
                const uint16_t *at = (const uint16_t *)job->scale + (panel * groups + group) * PANEL + n * 8;
                const __m128i half = _mm_loadu_si128((const void *)at);
                scale = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
            }
            UNROLL for (int m = 0; m < rows; m++) {
                __m256i dot = dots[m][n];
                if (bits == 4) {
                    const __m256i start = _mm256_set1_epi32(work->start[(row + m) * groups + group]);
                    dot = _mm256_add_epi32(_mm256_madd_epi16(dot, ones), start);
                }
                __m256 value = _mm256_cvtepi32_ps(dot);
                if (bits == 4) value = _mm256_mul_ps(value, scale);
                sums[m][n] = _mm256_fmadd_ps(value, _mm256_set1_ps(work->step[(row + m) * groups + group]), sums[m][n]);
            }
        }
    }
    UNROLL for (int m = 0; m < rows; m++) {
        float out[PANEL];
        _mm256_storeu_ps(out, sums[m][0]);
        _mm256_storeu_ps(out + 8, sums[m][1]);
        store(job, out, row + m, panel);
    }
}

/* ---- all rows of a run of panels ---- */

#define CASE_512(rows, bits)                                                                                            \
    case rows:                                                                                                          \
        if (panels == 2) tile_512(work, row, panel, rows, 2, bits, row == 0);                                                     \
        else tile_512(work, row, panel, rows, 1, bits, row == 0);                                                                 \
        break;

#define ROWS_512(NAME, bits)                                                                                            \
    FOR_AVX512 static void NAME(const Work *work, int64_t row, int rows, int64_t panel, int panels) {                   \
        switch (rows) {                                                                                                 \
            CASE_512(1, bits) CASE_512(2, bits) CASE_512(3, bits) CASE_512(4, bits) CASE_512(5, bits) CASE_512(6, bits) \
        }                                                                                                               \
    }

ROWS_512(rows_512_8, 8)
ROWS_512(rows_512_4, 4)

#define ROWS_256(NAME, TARGET, TILE, bits)                                                                              \
    TARGET static void NAME(const Work *work, int64_t row, int rows, int64_t panel, int panels) {                       \
        for (; panels > 0; panels--, panel++) switch (rows) {                                                           \
                case 1: TILE(work, row, panel, 1, bits, row == 0); break;                                               \
                case 2: TILE(work, row, panel, 2, bits, row == 0); break;                                               \
                default: TILE(work, row, panel, MOST_256, bits, row == 0);                                              \
            }                                                                                                           \
    }

ROWS_256(rows_avx2_8, FOR_AVX2, tile_avx2, 8)
ROWS_256(rows_avx2_4, FOR_AVX2, tile_avx2, 4)
ROWS_256(rows_avx_vnni_8, FOR_AVX_VNNI, tile_avx_vnni, 8)
ROWS_256(rows_avx_vnni_4, FOR_AVX_VNNI, tile_avx_vnni, 4)

static void multiply(void *argument) {
    typedef void (*Rows)(const Work *, int64_t, int, int64_t, int);
    static const Rows ways[][2] = {
        {rows_avx2_8, rows_avx2_4}, {rows_avx_vnni_8, rows_avx_vnni_4}, {rows_512_8, rows_512_4}};
    Work *work = argument;
    const Job *job = work->job;
    const Rows rows_of = ways[job->level - AVX2][job->bits == 4];
    const int64_t end = (job->last + PANEL - 1) / PANEL;
    /* Activations of so many rows stay in the cache while all panels pass. */
    const int most = job->level == AVX512_VNNI ? MOST_512 : MOST_256;
    int64_t block = ACTIVATION_BYTES / (work->groups * GROUP) / most * most, panel;
    if (block < most) block = most;
    while ((panel = __atomic_fetch_add(&work->next, work->chunk, __ATOMIC_RELAXED)) < end) {
        const int64_t stop = panel + work->chunk < end ? panel + work->chunk : end;
        for (int64_t from = 0; from < job->rows; from += block) {
            const int64_t to = from + block < job->rows ? from + block : job->rows;
            for (int64_t pair = panel; pair < stop; pair += 2) {
                const int panels = pair + 2 <= stop ? 2 : 1;
                for (int64_t row = from; row < to;) {
                    /* Seven rows are better 4 + 3 than 6 + 1, or 3 + 2 + 2 than 3 + 3 + 1. */
                    const int64_t left = to - row, tiles = (left + most - 1) / most;
                    const int rows = (int)((left + tiles - 1) / tiles);
                    rows_of(work, row, rows, pair, panels);
                    row += rows;
                }
            }
        }
    }
}

/* Return 0, or -1 if there is no memory for the activations. */
int chexmix_product(const Job *job) {
    Work work = {.job = job, .groups = (job->inputs + GROUP - 1) / GROUP};
    const size_t count = (size_t)(job->rows * work.groups);
    uint8_t *memory = malloc(count * (GROUP + sizeof(float) + sizeof(int32_t)));
    if (memory == NULL) return -1;
    work.step = (float *)memory;
    work.start = (int32_t *)(work.step + count);
    work.steps = (int8_t *)(work.start + count);
    const int many = job->run != NULL && job->threads > 1;
    if (many && job->rows > 4 * MOST_512) job->run(quantize_rows, &work, (unsigned)job->threads, 0);
    else quantize_rows(&work);
    const int64_t from = job->first / PANEL, panels = (job->last + PANEL - 1) / PANEL - from;
    work.next = from;
    /* Several runs of panels a thread: one that is held up takes fewer. */
    work.chunk = (panels / (8 * (job->threads > 0 ? job->threads : 1)) + 1) & ~1;
    if (work.chunk < 2) work.chunk = 2;
    if (many && panels > 2) job->run(multiply, &work, (unsigned)job->threads, 0);
    else multiply(&work);
    free(memory);
    return 0;
}
