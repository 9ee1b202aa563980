/* One tick of the lattice on the CPU, fp32: forward, and a backward that recomputes the message.
 *
 * Layout: state [B, X, Y, C, Z], weights [K, X, Y, Z], cells [6, X, Y, C, Z] (a_z b_z c_z a_h b_h c_h); z is contiguous.
 * Work is cut into columns (x, y) and, within one, tiles of 16 cells along z: the K weights of a tile are loaded once and
 * reused for all B samples and C channels, so that weights and parameters are read once per batch.
 *
 * Lanes whose neighbour lies outside the lattice get a zero weight once per tile; after that every neighbour load is an
 * unconditional 16-lane load.  It may read up to 16 floats beside its row, so state and scratch buffers carry 16 zeroed floats
 * before and after them (native.py allocates them so).  Parameters and weights are ordinary tensors and are read clipped.
 *
 * Every output element is written by exactly one thread and summed in a fixed order: results do not depend on the
 * number of threads.
 *
 * Compiled at first use with -DCHANNELS=C (native.py).  Vector types are the GCC/Clang extension; no intrinsics.
 */
#include <stdint.h>
#include <string.h>

#ifndef LANES
#define LANES 16
#endif
#define MAX_OFFSETS 128
#define UNROLL _Pragma("GCC unroll 32")
#ifndef CHANNELS
#error "compile with -DCHANNELS=<number of channels>"
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

typedef struct {
    int64_t batch, size_x, size_y, size_z, offsets;
    const int32_t *dx, *dy, *dz; /* [K] each */
    int32_t periodic;            /* wraps x and y; z always ends in walls */
} Geometry;

static inline vec load(const float *p) { return *(const vec_unaligned *)p; }
static inline void store(float *p, vec v) { *(vec_unaligned *)p = v; }

static inline vec load_clipped(const float *p, int64_t count) {
    if (count >= LANES) return load(p);
    vec v = {0};
    memcpy(&v, p, (size_t)count * sizeof(float));
    return v;
}
static inline void store_clipped(float *p, vec v, int64_t count) {
    if (count >= LANES) store(p, v);
    else memcpy(p, &v, (size_t)count * sizeof(float));
}

#if defined(__AVX512F__) && LANES == 16
#include <immintrin.h>
static inline vec vclamp(vec x, float limit) {
    return (vec)_mm512_max_ps(_mm512_min_ps((__m512)x, _mm512_set1_ps(limit)), _mm512_set1_ps(-limit));
}
#elif defined(__AVX__) && LANES == 8
#include <immintrin.h>
static inline vec vclamp(vec x, float limit) {
    return (vec)_mm256_max_ps(_mm256_min_ps((__m256)x, _mm256_set1_ps(limit)), _mm256_set1_ps(-limit));
}
#else
static inline vec vclamp(vec x, float limit) {
    const vec hi = (vec){0} + limit;
    ivec above = x > hi, below = x < -hi;
    x = (vec)(((ivec)x & ~above) | ((ivec)hi & above));
    return (vec)(((ivec)x & ~below) | ((ivec)(-hi) & below));
}
#endif

/* exp(x) for |x| <= 43 (clamped): range reduction and a degree-6 polynomial, relative error about 2e-7. */
static inline vec vexp(vec x) {
    x = vclamp(x, 43.0f);
    const vec shifted = x * 1.44269504088896341f + 12582912.0f; /* + 1.5 * 2^23 rounds to the nearest integer n */
    const vec n = shifted - 12582912.0f;
    const vec r = x - n * 0.693147180559945f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    return (vec)((ivec)p + ((ivec)shifted << 23)); /* the low bits of `shifted` hold n; its own bits leave by the shift */
}

/* *z = sigmoid(u), *h = tanh(v), with one division for both; |u|, |2v| are clamped to 43, beyond which fp32 is saturated. */
static inline void gates(vec u, vec v, vec *z, vec *h) {
    const vec a = 1.0f + vexp(-u), b = 1.0f + vexp(2.0f * v);
    const vec inverse = 1.0f / (a * b);
    *z = inverse * b;
    *h = 1.0f - 2.0f * (inverse * a);
}

/* 1 / sqrt(x) for normal x > 0: a bit-level first guess and three Newton steps (relative error about 1e-7). */
static inline vec vrsqrt(vec x) {
    vec y = (vec)(0x5f3759df - ((ivec)x >> 1));
    const vec half = x * 0.5f;
    for (int i = 0; i < 3; i++) y = y * (1.5f - half * y * y);
    return y;
}

/* The offsets that matter for one tile: masked weights, and where their neighbour row starts relative to this one. */
typedef struct {
    vec weight[MAX_OFFSETS];
    int64_t shift[MAX_OFFSETS]; /* in floats */
    int index[MAX_OFFSETS];
    int count;
} Tile;

static inline int64_t wrap(int64_t i, int64_t n) { return ((i % n) + n) % n; }

/* sign = +1: weights of this tile's own connections, neighbour i + o_k (forward).
 * sign = -1: weights of the connections that read this tile, owner i - o_k (the transpose, for the state gradient). */
static void gather(Tile *tile, const Geometry *g, const float *weights, int64_t x, int64_t y, int64_t z0, int sign) {
    const int64_t X = g->size_x, Y = g->size_y, Z = g->size_z;
    const int64_t n = Z - z0 < LANES ? Z - z0 : LANES;
    tile->count = 0;
    for (int64_t k = 0; k < g->offsets; k++) {
        int64_t nx = x + sign * g->dx[k], ny = y + sign * g->dy[k], dz = sign * g->dz[k];
        if (g->periodic) {
            nx = wrap(nx, X);
            ny = wrap(ny, Y);
        } else if (nx < 0 || nx >= X || ny < 0 || ny >= Y)
            continue;
        int64_t first = z0 + dz < 0 ? -(z0 + dz) : 0;             /* first lane whose neighbour exists */
        int64_t last = z0 + dz + n > Z ? Z - z0 - dz : n;         /* one past the last such lane */
        if (first >= last) continue;
        const float *row = weights + k * X * Y * Z;
        row += sign > 0 ? (x * Y + y) * Z + z0 : (nx * Y + ny) * Z + z0 + dz;
        vec w = {0};
        if (first == 0 && last == LANES) w = load(row);
        else memcpy((float *)&w + first, row + first, (size_t)(last - first) * sizeof(float));
        tile->weight[tile->count] = w;
        tile->shift[tile->count] = ((nx - x) * Y + (ny - y)) * CHANNELS * Z + dz;
        tile->index[tile->count] = (int)k;
        tile->count++;
    }
}

/* m[c] += sum_k w_k * at[o_k][c]; the accumulators stay in registers over the whole sum. */
static inline void message(const Tile *tile, const float *at, int64_t Z, vec *m) {
    vec sum[CHANNELS];
    UNROLL for (int c = 0; c < CHANNELS; c++) sum[c] = m[c];
    for (int k = 0; k < tile->count; k++) {
        const vec w = tile->weight[k];
        const float *p = at + tile->shift[k];
        UNROLL for (int c = 0; c < CHANNELS; c++) sum[c] += w * load(p + c * Z);
    }
    UNROLL for (int c = 0; c < CHANNELS; c++) m[c] = sum[c];
}

/* Divides m by its root mean square over the channels; returns the factor. */
static inline vec normalise(vec *m, float epsilon) {
    vec square = {0};
    for (int c = 0; c < CHANNELS; c++) square += m[c] * m[c];
    vec factor = vrsqrt(square * (1.0f / CHANNELS) + epsilon);
    for (int c = 0; c < CHANNELS; c++) m[c] *= factor;
    return factor;
}

/* out = tick(state); then out[z = 0] += drive where drive [B, X, Y, C] is given (it is the next tick's input). */
void tick_forward(const Geometry *g, const float *state, const float *weights, const float *cells, const float *extra,
                  const float *drive, float epsilon, float *out) {
    const int64_t X = g->size_x, Y = g->size_y, Z = g->size_z, B = g->batch;
    const int64_t block = CHANNELS * Z, sample = X * Y * block;
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < X * Y; column++) {
        Tile tile;
        vec p[6][CHANNELS];
        for (int64_t z0 = 0; z0 < Z; z0 += LANES) {
            const int64_t n = Z - z0 < LANES ? Z - z0 : LANES;
            const int64_t base = column * block + z0;
            gather(&tile, g, weights, column / Y, column % Y, z0, +1);
            for (int v = 0; v < 6; v++)
                for (int c = 0; c < CHANNELS; c++) p[v][c] = load_clipped(cells + v * sample + base + c * Z, n);
            for (int64_t b = 0; b < B; b++) {
                const float *at = state + b * sample + base;
                vec m[CHANNELS];
                for (int c = 0; c < CHANNELS; c++)
                    m[c] = extra ? load_clipped(extra + b * sample + base + c * Z, n) : (vec){0};
                message(&tile, at, Z, m);
                normalise(m, epsilon);
                for (int c = 0; c < CHANNELS; c++) {
                    const vec s = load(at + c * Z);
                    vec z, h;
                    gates(p[0][c] * s + p[1][c] * m[c] + p[2][c], p[3][c] * s + p[4][c] * m[c] + p[5][c], &z, &h);
                    vec next = s + z * (h - s);
                    if (drive && z0 == 0) next[0] += drive[(b * X * Y + column) * CHANNELS + c];
                    store_clipped(out + b * sample + base + c * Z, next, n);
                }
            }
        }
    }
}

/* First half of the backward: everything of a cell that needs only its own output gradient.
 * Writes grad_message [B, X, Y, C, Z] and the direct part of grad_state; adds to grad_cells and, where given, grad_weights. */
void tick_backward_cells(const Geometry *g, const float *state, const float *weights, const float *cells, const float *extra,
                         const float *grad_out, float epsilon, float *grad_message, float *grad_state, float *grad_cells,
                         float *grad_weights) {
    const int64_t X = g->size_x, Y = g->size_y, Z = g->size_z, B = g->batch;
    const int64_t block = CHANNELS * Z, sample = X * Y * block;
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < X * Y; column++) {
        Tile tile;
        vec p[6][CHANNELS], grad_p[6][CHANNELS], grad_w[MAX_OFFSETS];
        for (int64_t z0 = 0; z0 < Z; z0 += LANES) {
            const int64_t n = Z - z0 < LANES ? Z - z0 : LANES;
            const int64_t base = column * block + z0;
            gather(&tile, g, weights, column / Y, column % Y, z0, +1);
            for (int v = 0; v < 6; v++)
                for (int c = 0; c < CHANNELS; c++) {
                    p[v][c] = load_clipped(cells + v * sample + base + c * Z, n);
                    grad_p[v][c] = (vec){0};
                }
            for (int k = 0; k < tile.count; k++) grad_w[k] = (vec){0};
            for (int64_t b = 0; b < B; b++) {
                const float *at = state + b * sample + base;
                vec m[CHANNELS], grad_m[CHANNELS];
                for (int c = 0; c < CHANNELS; c++)
                    m[c] = extra ? load_clipped(extra + b * sample + base + c * Z, n) : (vec){0};
                message(&tile, at, Z, m);
                const vec factor = normalise(m, epsilon);
                vec projection = {0};
                for (int c = 0; c < CHANNELS; c++) {
                    const vec s = load(at + c * Z), grad = load_clipped(grad_out + b * sample + base + c * Z, n);
                    vec z, h;
                    gates(p[0][c] * s + p[1][c] * m[c] + p[2][c], p[3][c] * s + p[4][c] * m[c] + p[5][c], &z, &h);
                    const vec dz = grad * (h - s) * z * (1.0f - z), dh = grad * z * (1.0f - h * h);
                    grad_p[0][c] += dz * s;
                    grad_p[1][c] += dz * m[c];
                    grad_p[2][c] += dz;
                    grad_p[3][c] += dh * s;
                    grad_p[4][c] += dh * m[c];
                    grad_p[5][c] += dh;
                    grad_m[c] = dz * p[1][c] + dh * p[4][c];
                    projection += grad_m[c] * m[c];
                    store_clipped(grad_state + b * sample + base + c * Z, grad * (1.0f - z) + dz * p[0][c] + dh * p[3][c], n);
                }
                projection *= 1.0f / CHANNELS;
                for (int c = 0; c < CHANNELS; c++) {
                    grad_m[c] = factor * (grad_m[c] - m[c] * projection);
                    store_clipped(grad_message + b * sample + base + c * Z, grad_m[c], n);
                }
                if (grad_weights)
                    for (int k = 0; k < tile.count; k++) {
                        const float *q = at + tile.shift[k];
                        vec sum = grad_w[k];
                        UNROLL for (int c = 0; c < CHANNELS; c++) sum += grad_m[c] * load(q + c * Z);
                        grad_w[k] = sum;
                    }
            }
            for (int v = 0; v < 6; v++)
                for (int c = 0; c < CHANNELS; c++) {
                    float *q = grad_cells + v * sample + base + c * Z;
                    store_clipped(q, load_clipped(q, n) + grad_p[v][c], n);
                }
            if (grad_weights)
                for (int k = 0; k < tile.count; k++) {
                    const int64_t dz = g->dz[tile.index[k]];
                    int64_t first = z0 + dz < 0 ? -(z0 + dz) : 0, last = z0 + dz + n > Z ? Z - z0 - dz : n;
                    float *q = grad_weights + (tile.index[k] * X * Y + column) * Z + z0;
                    for (int64_t i = first; i < last; i++) q[i] += grad_w[k][i];
                }
        }
    }
}

/* Second half: grad_state[j] += sum_k w_k[j - o_k] * grad_message[j - o_k], gathered so that no two threads write one cell.
 * Where given, grad_drive [B, X, Y, C] += grad_state[z = 0]. */
void tick_backward_state(const Geometry *g, const float *weights, const float *grad_message, float *grad_state,
                         float *grad_drive) {
    const int64_t X = g->size_x, Y = g->size_y, Z = g->size_z, B = g->batch;
    const int64_t block = CHANNELS * Z, sample = X * Y * block;
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < X * Y; column++) {
        Tile tile;
        for (int64_t z0 = 0; z0 < Z; z0 += LANES) {
            const int64_t n = Z - z0 < LANES ? Z - z0 : LANES;
            const int64_t base = column * block + z0;
            gather(&tile, g, weights, column / Y, column % Y, z0, -1);
            for (int64_t b = 0; b < B; b++) {
                vec sum[CHANNELS];
                for (int c = 0; c < CHANNELS; c++) sum[c] = load_clipped(grad_state + b * sample + base + c * Z, n);
                message(&tile, grad_message + b * sample + base, Z, sum);
                for (int c = 0; c < CHANNELS; c++) {
                    if (grad_drive && z0 == 0) grad_drive[(b * X * Y + column) * CHANNELS + c] += sum[c][0];
                    store_clipped(grad_state + b * sample + base + c * Z, sum[c], n);
                }
            }
        }
    }
}
