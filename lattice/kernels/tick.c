/* One tick of the lattice on the CPU, fp32: forward, and a backward that recomputes the message.
 *
 * Layout: state [B, X, Y, C, Z], weights [K, X, Y, Z], cells [6, X, Y, C, Z] (a_z b_z c_z a_h b_h c_h); z is contiguous.
 * All functions loop alike:
 *
 *     columns (x, y), shared out among the threads
 *       tiles of 16 cells along z: gather the tile's connections (tiles.h)
 *         samples: weights and parameters are in the first-level cache by now, read from memory once per batch
 *           connections x channels: the C sums of the message stay in registers
 *
 * Every output element is written by exactly one thread and summed in a fixed order: results do not depend on the number of
 * threads.  Compiled at first use with -DCHANNELS=C (native.py).
 */
#include "tiles.h"

#ifndef CHANNELS
#error "compile with -DCHANNELS=<number of channels>"
#endif
#define UNROLL _Pragma("GCC unroll 32")

/* Channels summed at once: as many accumulators as registers hold (a vec takes one with AVX-512, two or four without). */
#ifdef __AVX512F__
#define GROUP 24
#else
#define GROUP 6
#endif

/* m[c] += sum_k w_k * at[o_k][c] for the tile whose first cell is at[0]. */
static inline void add_message(const Tile *tile, const float *at, int64_t Z, vec *m) {
    UNROLL for (int from = 0; from < CHANNELS; from += GROUP) {
        const int to = from + GROUP < CHANNELS ? from + GROUP : CHANNELS;
        vec sum[GROUP];
        UNROLL for (int c = from; c < to; c++) sum[c - from] = m[c];
        for (int k = 0; k < tile->count; k++) {
            const vec w = tile->weight[k];
            const float *p = at + tile->shift[k];
            UNROLL for (int c = from; c < to; c++) sum[c - from] += w * load(p + c * Z);
        }
        UNROLL for (int c = from; c < to; c++) m[c] = sum[c - from];
    }
}

/* The message of one tile and sample, divided by its root mean square over the channels; returns the factor. */
static inline vec message(const Tile *tile, const float *at, const float *extra, int64_t Z, int n, float epsilon, vec *m) {
    for (int c = 0; c < CHANNELS; c++) m[c] = extra ? load_lanes(extra + c * Z, 0, n) : (vec){0};
    add_message(tile, at, Z, m);
    vec square = {0};
    for (int c = 0; c < CHANNELS; c++) square += m[c] * m[c];
    const vec factor = vrsqrt(square * (1.0f / CHANNELS) + epsilon);
    for (int c = 0; c < CHANNELS; c++) m[c] *= factor;
    return factor;
}

/* Asks for the rows of one [C, Z] block that the next tile will read; the hardware does not see so many streams coming. */
static inline void prefetch_rows(const float *next, int64_t Z) {
    UNROLL for (int c = 0; c < CHANNELS; c++) __builtin_prefetch(next + c * Z);
}

/* From the tile at z0 to the one after it in the same column, or the first of the next column; in floats. */
static inline int64_t to_next_tile(int64_t z0, int64_t Z) { return z0 + LANES < Z ? LANES : CHANNELS * Z - z0; }

/* out = tick(state); then out[z = 0] += drive where drive [B, X, Y, C] is given (it is the next tick's input). */
void tick_forward(const Geometry *g, const Connections *net, const float *state, const float *cells, const float *extra,
                  const float *drive, float epsilon, float *out) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, block = CHANNELS * Z, sample = columns * block;
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < columns; column++) {
        Column around;
        Tile tile;
        look_around(&around, g, column, CHANNELS, +1);
        for (int64_t z0 = 0; z0 < Z; z0 += LANES) {
            const int n = lanes(g, z0);
            const int64_t base = column * block + z0, next = base + to_next_tile(z0, Z);
            gather_heard(&tile, &around, g, net, z0);
            for (int v = 0; v < 6; v++) prefetch_rows(cells + v * sample + next, Z);
            for (int64_t b = 0; b < g->batch; b++) {
                const int64_t here = b * sample + base;
                const float *at = state + here;
                vec m[CHANNELS];
                message(&tile, at, extra ? extra + here : 0, Z, n, epsilon, m);
                UNROLL for (int c = 0; c < CHANNELS; c++) {
                    const float *p = cells + base + c * Z;
                    const vec s = load(at + c * Z);
                    const vec u = load_lanes(p, 0, n) * s + load_lanes(p + sample, 0, n) * m[c] + load_lanes(p + 2 * sample, 0, n);
                    p += 3 * sample;
                    const vec v = load_lanes(p, 0, n) * s + load_lanes(p + sample, 0, n) * m[c] + load_lanes(p + 2 * sample, 0, n);
                    vec z, h;
                    gates(u, v, &z, &h);
                    vec after = s + z * (h - s);
                    if (drive && z0 == 0) after[0] += drive[(b * columns + column) * CHANNELS + c];
                    store_lanes(out + here + c * Z, after, n);
                }
            }
        }
    }
}

/* p[0 .. n) += v, or = v where nothing is there yet. */
static inline void add_lanes(float *p, vec v, int n, int fresh) {
    store_lanes(p, fresh ? v : v + load_lanes(p, 0, n), n);
}

/* The backward of one tile and sample as far as it needs only the tile's own output gradient.  `fresh` is a constant where this
 * is inlined: the parameter gradients are then written, not added to. */
static inline __attribute__((always_inline)) void backward_tile(
    const Tile *tile, const float *at, const float *p, const float *extra, const float *grad_out, float epsilon, int64_t Z,
    int64_t sample, int n, const int fresh, float *grad_message, float *grad_state, float *grad_p, float *grad_weights) {
    vec m[CHANNELS], grad_m[CHANNELS];
    const vec factor = message(tile, at, extra, Z, n, epsilon, m);
    vec projection = {0};
    for (int c = 0; c < CHANNELS; c++, p += Z, grad_p += Z) {
        const vec s = load(at + c * Z), grad = load_lanes(grad_out + c * Z, 0, n);
        const vec a_z = load_lanes(p, 0, n), b_z = load_lanes(p + sample, 0, n), c_z = load_lanes(p + 2 * sample, 0, n);
        const vec a_h = load_lanes(p + 3 * sample, 0, n), b_h = load_lanes(p + 4 * sample, 0, n);
        const vec c_h = load_lanes(p + 5 * sample, 0, n);
        vec z, h;
        gates(a_z * s + b_z * m[c] + c_z, a_h * s + b_h * m[c] + c_h, &z, &h);
        const vec dz = grad * (h - s) * z * (1.0f - z), dh = grad * z * (1.0f - h * h);
        add_lanes(grad_p, dz * s, n, fresh);
        add_lanes(grad_p + sample, dz * m[c], n, fresh);
        add_lanes(grad_p + 2 * sample, dz, n, fresh);
        add_lanes(grad_p + 3 * sample, dh * s, n, fresh);
        add_lanes(grad_p + 4 * sample, dh * m[c], n, fresh);
        add_lanes(grad_p + 5 * sample, dh, n, fresh);
        grad_m[c] = dz * b_z + dh * b_h;
        projection += grad_m[c] * m[c];
        store_lanes(grad_state + c * Z, grad * (1.0f - z) + dz * a_z + dh * a_h, n);
    }
    projection *= 1.0f / CHANNELS;
    for (int c = 0; c < CHANNELS; c++) {
        grad_m[c] = factor * (grad_m[c] - m[c] * projection);
        store_lanes(grad_message + c * Z, grad_m[c], n);
    }
    if (!grad_weights) return;
    for (int k = 0; k < tile->count; k++) {
        const float *q = at + tile->shift[k];
        vec sum = {0};
        UNROLL for (int c = 0; c < CHANNELS; c++) sum += grad_m[c] * load(q + c * Z);
        add_lanes(grad_weights + tile->place[k], keep_lanes(sum, tile->first[k], tile->last[k]), n, fresh);
    }
    if (fresh)
        for (int k = 0; k < tile->silent; k++) store_lanes(grad_weights + tile->silent_place[k], (vec){0}, n);
}

/* First half of the backward.  Writes grad_message [B, X, Y, C, Z] and the direct part of grad_state, which may be grad_out;
 * adds to grad_cells and, where given, grad_weights, or writes them where `fresh`. */
void tick_backward_cells(const Geometry *g, const Connections *net, const float *state, const float *cells, const float *extra,
                         const float *grad_out, float epsilon, int32_t fresh, float *grad_message, float *grad_state,
                         float *grad_cells, float *grad_weights) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, block = CHANNELS * Z, sample = columns * block;
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < columns; column++) {
        Column around;
        Tile tile;
        look_around(&around, g, column, CHANNELS, +1);
        for (int64_t z0 = 0; z0 < Z; z0 += LANES) {
            const int n = lanes(g, z0);
            const int64_t base = column * block + z0, next = base + to_next_tile(z0, Z);
            gather_heard(&tile, &around, g, net, z0);
            for (int v = 0; v < 6; v++) prefetch_rows(cells + v * sample + next, Z);
            for (int64_t b = 0; b < g->batch; b++) {
                const int64_t here = b * sample + base;
#define BACKWARD_TILE(FRESH) backward_tile(&tile, state + here, cells + base, extra ? extra + here : 0, grad_out + here, epsilon, \
                                           Z, sample, n, FRESH, grad_message + here, grad_state + here, grad_cells + base,        \
                                           grad_weights)
                if (fresh && b == 0) BACKWARD_TILE(1);
                else BACKWARD_TILE(0);
            }
        }
    }
}

/* Second half: grad_state[j] += sum_k w_k[j - o_k] * grad_message[j - o_k], gathered so that no two threads write one cell.
 * Where given, grad_drive [B, X, Y, C] += grad_state[z = 0]. */
void tick_backward_state(const Geometry *g, const Connections *net, const float *grad_message, float *grad_state,
                         float *grad_drive) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, block = CHANNELS * Z, sample = columns * block;
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < columns; column++) {
        Column around;
        Tile tile;
        look_around(&around, g, column, CHANNELS, -1);
        for (int64_t z0 = 0; z0 < Z; z0 += LANES) {
            const int n = lanes(g, z0);
            const int64_t base = column * block + z0;
            gather_hearing(&tile, &around, g, net, z0);
            for (int64_t b = 0; b < g->batch; b++) {
                float *grad = grad_state + b * sample + base;
                vec sum[CHANNELS];
                for (int c = 0; c < CHANNELS; c++) sum[c] = load_lanes(grad + c * Z, 0, n);
                add_message(&tile, grad_message + b * sample + base, Z, sum);
                for (int c = 0; c < CHANNELS; c++) {
                    if (grad_drive && z0 == 0) grad_drive[(b * columns + column) * CHANNELS + c] += sum[c][0];
                    store_lanes(grad + c * Z, sum[c], n);
                }
            }
        }
    }
}
