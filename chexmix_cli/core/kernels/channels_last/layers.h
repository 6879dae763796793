/* The layers for one set of instructions. native.c includes this once for each, having defined
 * NAME(x), FOR, LANES, vec, ivec, LOAD, STORE, SET1, FMA, MIN, MAX, ROUND, POWER, and AT_ONCE: panels a tile has at most. */

/* x / (1 + exp(-x)); exp is 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], to one unit in the last place. */
FOR INLINE vec NAME(swish)(vec x) {
    const vec t = MAX(MIN(SET1(0.0f) - x, SET1(88.0f)), SET1(-87.0f));
    const vec n = ROUND(t * SET1(1.44269504f));
    const vec r = FMA(n, SET1(-0x1.7f7d1cp-20f), FMA(n, SET1(-0x1.62e4p-1f), t));
    vec e = SET1(1.0f / 5040);
    e = FMA(e, r, SET1(1.0f / 720));
    e = FMA(e, r, SET1(1.0f / 120));
    e = FMA(e, r, SET1(1.0f / 24));
    e = FMA(e, r, SET1(1.0f / 6));
    e = FMA(e, r, SET1(0.5f));
    e = FMA(e, r, SET1(1.0f));
    e = FMA(e, r, SET1(1.0f));
    /* Far below 0 it is 0; in this order MAX hands a NaN on. */
    return MAX(SET1(-88.0f), x) / FMA(e, POWER(n), SET1(1.0f));
}

/* ---- convolution ---- */

/* B^T of one line of a tile, whose products are A_POINT and B_POINT with even and odd terms apart. */
FOR INLINE void NAME(spread)(const vec *x, vec *y) {
    const vec a2 = SET1(-A_POINT * A_POINT), b2 = SET1(-B_POINT * B_POINT);
    const vec sum = SET1(-(A_POINT * A_POINT + B_POINT * B_POINT)), product = SET1(A_POINT * A_POINT * B_POINT * B_POINT);
    const vec even_a = FMA(x[2], b2, x[4]), odd_a = FMA(x[1], b2, x[3]) * SET1(A_POINT);
    const vec even_b = FMA(x[2], a2, x[4]), odd_b = FMA(x[1], a2, x[3]) * SET1(B_POINT);
    y[0] = FMA(x[0], product, FMA(x[2], sum, x[4]));
    y[1] = even_a + odd_a;
    y[2] = even_a - odd_a;
    y[3] = even_b + odd_b;
    y[4] = even_b - odd_b;
    y[5] = FMA(x[1], product, FMA(x[3], sum, x[5]));
}

/* A^T of one line. */
FOR INLINE void NAME(gather)(const vec *x, vec *y) {
    const vec even_a = x[1] + x[2], odd_a = x[1] - x[2], even_b = x[3] + x[4], odd_b = x[3] - x[4];
    y[0] = x[0] + even_a + even_b;
    y[1] = FMA(odd_a, SET1(A_POINT), odd_b * SET1(B_POINT));
    y[2] = FMA(even_a, SET1(A_POINT * A_POINT), even_b * SET1(B_POINT * B_POINT));
    y[3] = FMA(odd_a, SET1(A_POINT * A_POINT * A_POINT), FMA(odd_b, SET1(B_POINT * B_POINT * B_POINT), x[5]));
}

/* A panel of weights, G w G^T in float64, to (36, panels, in, 16). */
FOR static void NAME(pack)(const Convolution *job, float *packed, int64_t panel) {
    for (int64_t c = 0; c < job->in; c++) {
        double w[9][PANEL], half[SIDE][3][PANEL];
        for (int o = 0; o < PANEL; o++)
            for (int k = 0; k < 9; k++)
                w[k][o] = job->weight[(panel * PANEL + o) * job->stride[0] + c * job->stride[1] + k / 3 * job->stride[2] + k % 3 * job->stride[3]];
        for (int i = 0; i < SIDE; i++)
            for (int k = 0; k < 3; k++)
                for (int o = 0; o < PANEL; o++)
                    half[i][k][o] = G[i][0] * w[k][o] + G[i][1] * w[3 + k][o] + G[i][2] * w[6 + k][o];
        for (int k = 0; k < POINTS; k++) {
            const double *g = G[k % SIDE];
            double(*h)[PANEL] = half[k / SIDE];
            float *to = packed + ((k * (job->out / PANEL) + panel) * job->in + c) * PANEL;
            for (int o = 0; o < PANEL; o++) to[o] = (float)(g[0] * h[0][o] + g[1] * h[1][o] + g[2] * h[2][o]);
        }
    }
}

/* B^T d B of a tile of 6 x 6 pixels, to a row of each of the 36 matrices at v. Pixels outside the film are 0, after
 * norm and swish where there are such. */
FOR static void NAME(read_tile)(const Convolution *job, Tile at, float *v, int64_t stride) {
    const float *from[POINTS], *scale = job->lines == NULL ? NULL : job->lines + at.image * 2 * job->in;
    for (int k = 0; k < POINTS; k++) {
        const int64_t y = at.y - 1 + k / SIDE, x = at.x - 1 + k % SIDE;
        const int is_inside = y >= 0 && y < job->height && x >= 0 && x < job->width;
        from[k] = is_inside ? job->x + ((at.image * job->height + y) * job->width + x) * job->in : NULL;
    }
    for (int64_t c = 0; c < job->in; c += LANES) {
        vec t[SIDE][SIDE], line[SIDE], spread[SIDE];
        UNROLL for (int j = 0; j < SIDE; j++) {
            UNROLL for (int i = 0; i < SIDE; i++) {
                const float *pixel = from[i * SIDE + j];
                line[i] = pixel == NULL ? SET1(0.0f) : LOAD(pixel + c);
                if (scale != NULL && pixel != NULL)
                    line[i] = NAME(swish)(FMA(line[i], LOAD(scale + c), LOAD(scale + job->in + c)));
            }
            NAME(spread)(line, spread);
            UNROLL for (int i = 0; i < SIDE; i++) t[i][j] = spread[i];
        }
        UNROLL for (int i = 0; i < SIDE; i++) {
            NAME(spread)(t[i], spread);
            UNROLL for (int j = 0; j < SIDE; j++) STORE(v + (i * SIDE + j) * stride + c, spread[j]);
        }
    }
}

/* A^T m A of a tile: 4 x 4 pixels, those that lie in the film. */
FOR static void NAME(write_tile)(const Convolution *job, Tile at, const float *m, int64_t stride) {
    const int64_t rows = job->height - at.y < STEP ? job->height - at.y : STEP;
    const int64_t columns = job->width - at.x < STEP ? job->width - at.x : STEP;
    const int64_t first = ((at.image * job->height + at.y) * job->width + at.x) * job->out;
    for (int64_t o = 0; o < job->out; o += LANES) {
        vec t[STEP][SIDE], line[SIDE], gathered[STEP];
        UNROLL for (int j = 0; j < SIDE; j++) {
            UNROLL for (int i = 0; i < SIDE; i++) line[i] = LOAD(m + (i * SIDE + j) * stride + o);
            NAME(gather)(line, gathered);
            UNROLL for (int i = 0; i < STEP; i++) t[i][j] = gathered[i];
        }
        const vec bias = LOAD(job->bias + o);
        for (int64_t i = 0; i < rows; i++) {
            NAME(gather)(t[i], gathered);
            for (int64_t j = 0; j < columns; j++) {
                const int64_t to = first + (i * job->width + j) * job->out + o;
                vec pixel = gathered[j] + bias;
                if (job->add != NULL) pixel = pixel + LOAD(job->add + to);
                STORE(job->y + to, pixel);
            }
        }
    }
}

/* Rows of v times panels of weights, added up channel by channel. */
FOR INLINE void NAME(product)(const Convolution *job, const float *v, const float *packed, float *m, int panels) {
    enum { OF_PANEL = PANEL / LANES };
    vec sums[ROWS][AT_ONCE * OF_PANEL];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int n = 0; n < panels * OF_PANEL; n++) sums[r][n] = SET1(0.0f);
    for (int64_t c = 0; c < job->in; c++) {
        vec w[AT_ONCE * OF_PANEL];
        UNROLL for (int n = 0; n < panels * OF_PANEL; n++)
            w[n] = LOAD(packed + (n / OF_PANEL * job->in + c) * PANEL + n % OF_PANEL * LANES);
        UNROLL for (int r = 0; r < ROWS; r++) {
            const vec x = SET1(v[r * job->in + c]);
            UNROLL for (int n = 0; n < panels * OF_PANEL; n++) sums[r][n] = FMA(x, w[n], sums[r][n]);
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int n = 0; n < panels * OF_PANEL; n++) STORE(m + r * job->out + n * LANES, sums[r][n]);
}

FOR static void NAME(products)(const Convolution *job, const float *v, const float *packed, float *m, int64_t panels) {
    switch (panels) {
        case 1: NAME(product)(job, v, packed, m, 1); break;
        case 2: NAME(product)(job, v, packed, m, AT_ONCE < 2 ? AT_ONCE : 2); break;
        case 3: NAME(product)(job, v, packed, m, AT_ONCE < 3 ? AT_ONCE : 3); break;
        default: NAME(product)(job, v, packed, m, AT_ONCE);
    }
}

/* Tiles first to last - 1 of the batch; v and m are this thread's. */
FOR static void NAME(tiles)(const Convolution *job, const float *packed, float *v, float *m, int64_t first, int64_t last) {
    const int64_t stride_v = TILES * job->in + PANEL, stride_m = TILES * job->out + PANEL, panels = job->out / PANEL;
    for (int64_t tile = first; tile < last; tile++)
        NAME(read_tile)(job, tile_of(job, tile), v + (tile - first) * job->in, stride_v);
    const int64_t rows = (last - first + ROWS - 1) / ROWS * ROWS;
    for (int k = 0; k < POINTS; k++) {
        memset(v + k * stride_v + (last - first) * job->in, 0, (size_t)((rows - last + first) * job->in) * sizeof *v);
        for (int64_t panel = 0; panel < panels; panel += AT_ONCE)
            for (int64_t row = 0; row < rows; row += ROWS)
                NAME(products)(job, v + k * stride_v + row * job->in, packed + (k * panels + panel) * job->in * PANEL,
                               m + k * stride_m + row * job->out + panel * PANEL, panels - panel);
    }
    for (int64_t tile = first; tile < last; tile++)
        NAME(write_tile)(job, tile_of(job, tile), m + (tile - first) * job->out, stride_m);
}

/* ---- GroupNorm and swish ---- */

FOR INLINE vec NAME(load_some)(const float *from, int64_t count) {
    float some[LANES] = {0};
    if (count >= LANES) return LOAD(from);
    memcpy(some, from, (size_t)count * sizeof *from);
    return LOAD(some);
}

FOR INLINE void NAME(store_some)(float *to, int64_t count, vec x) {
    float some[LANES];
    if (count >= LANES) {
        STORE(to, x);
        return;
    }
    STORE(some, x);
    memcpy(to, some, (size_t)count * sizeof *to);
}

/* Sums of x and x^2 of each channel over pixels, in float64: (2, channels). */
FOR static void NAME(sum_up)(const Norm *job, const float *x, int64_t pixels, double *sums) {
    for (int64_t c = 0; c < job->channels; c += LANES) {
        const int64_t count = job->channels - c < LANES ? job->channels - c : LANES;
        double first[LANES] = {0}, second[LANES] = {0};
        for (int64_t p = 0; p < pixels; p++) {
            float values[LANES];
            STORE(values, NAME(load_some)(x + p * job->channels + c, count));
            UNROLL for (int lane = 0; lane < LANES; lane++) {
                first[lane] += (double)values[lane];
                second[lane] += (double)values[lane] * (double)values[lane];
            }
        }
        memcpy(sums + c, first, (size_t)count * sizeof *sums);
        memcpy(sums + job->channels + c, second, (size_t)count * sizeof *sums);
    }
}

FOR static void NAME(apply)(const Norm *job, const float *x, float *y, int64_t pixels, const float *scale, const float *shift) {
    for (int64_t p = 0; p < pixels; p++, x += job->channels, y += job->channels)
        for (int64_t c = 0; c < job->channels; c += LANES) {
            const int64_t count = job->channels - c;
            vec z = FMA(NAME(load_some)(x + c, count), NAME(load_some)(scale + c, count), NAME(load_some)(shift + c, count));
            if (job->has_swish) z = NAME(swish)(z);
            NAME(store_some)(y + c, count, z);
        }
}
