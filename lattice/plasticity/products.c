/* Products of connected cells on the CPU, event-driven: out_k[i] += sum over m of pre_m[i + o_k] * post_m[i], fp32.
 *
 * Layout: fields [B, X, Y, M, Z] (as states), out [K, X, Y, Z]; z is contiguous.  An event is a tile of 16 cells of one (sample,
 * value m) in which something is not silent; `mark` finds them once, a bit each, and `products` only visits connections of
 * which both ends have one.  Where every tile is busy a word of bits tells so, and the loop is the plain one.
 *
 *     columns (x, y), shared out among the threads
 *       tiles of 16 cells along z
 *         connections: samples x values with an event at both ends, summed in registers
 *
 * Every output element is written by exactly one thread and summed in a fixed order: results do not depend on the number of
 * threads.
 */
#include "tiles.h"

#define WORD 64

static inline int64_t words(int64_t values) { return (values + WORD - 1) / WORD; }

static inline float total(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

static inline vec magnitude(vec v) { return (vec)((ivec)v & 0x7fffffff); }

/* loudness[B, X, Y, M, tiles] = sum of |field| over the tile's cells. */
void loudness(const Geometry *g, const float *field, int64_t values, float *loud) {
    const int64_t Z = g->size_z, tiles = (Z + LANES - 1) / LANES, rows = g->batch * g->size_x * g->size_y * values;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t t = 0; t < tiles; t++)
            loud[row * tiles + t] = total(magnitude(load_lanes(field + row * Z + t * LANES, 0, lanes(g, t * LANES))));
}

/* events[B, X, Y, tiles, words]: bit m is set where the loudness of value m is above `floor`. */
void mark(const Geometry *g, const float *loud, int64_t values, float floor, uint64_t *events) {
    const int64_t tiles = (g->size_z + LANES - 1) / LANES, columns = g->batch * g->size_x * g->size_y, W = words(values);
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < columns; column++)
        for (int64_t t = 0; t < tiles; t++)
            for (int64_t w = 0; w < W; w++) {
                uint64_t bits = 0;
                for (int64_t m = w * WORD; m < values && m < (w + 1) * WORD; m++)
                    bits |= (uint64_t)(loud[(column * values + m) * tiles + t] > floor) << (m - w * WORD);
                events[(column * tiles + t) * W + w] = bits;
            }
}

/* Sum over the values listed of post * pre, both at the tile's first cell; lanes [first, last) only. */
static inline __attribute__((always_inline)) vec paired(const float *post, const float *pre, const uint8_t *list, int count,
                                                        int64_t Z, int first, int last) {
    vec a = {0}, b = {0}, c = {0}, d = {0}; /* four sums: one would wait for itself */
    int i = 0;
#define AT(p, i) load_lanes((p) + list[i] * Z, first, last)
    for (; i + 4 <= count; i += 4) {
        a += AT(post, i) * AT(pre, i);
        b += AT(post, i + 1) * AT(pre, i + 1);
        c += AT(post, i + 2) * AT(pre, i + 2);
        d += AT(post, i + 3) * AT(pre, i + 3);
    }
    for (; i < count; i++) a += AT(post, i) * AT(pre, i);
#undef AT
    return (a + b) + (c + d);
}

/* Adds to out [K, X, Y, Z]; returns how many products of two tiles were computed. */
int64_t products(const Geometry *g, const float *pre, const float *post, const uint64_t *pre_events,
                 const uint64_t *post_events, int64_t values, float *out) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, block = values * Z, sample = columns * block;
    const int64_t tiles = (Z + LANES - 1) / LANES, W = words(values);
    uint8_t every[WORD];
    for (int i = 0; i < WORD; i++) every[i] = (uint8_t)i;
    int64_t done = 0;
#pragma omp parallel for schedule(static) reduction(+ : done)
    for (int64_t column = 0; column < columns; column++) {
        Column around;
        look_around(&around, g, column, (int)values, +1);
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t z0 = t * LANES;
            for (int64_t k = 0; k < g->offsets; k++) {
                int first, last;
                lanes_inside(g, z0, g->dz[k], &first, &last);
                if (around.neighbour[k] < 0 || first >= last) continue;
                const int64_t near = (z0 + g->dz[k] + first) / LANES, far = (z0 + g->dz[k] + last - 1) / LANES;
                vec sum = {0};
                for (int64_t b = 0; b < g->batch; b++) {
                    const uint64_t *own = post_events + ((b * columns + column) * tiles + t) * W;
                    const uint64_t *there = pre_events + (b * columns + around.neighbour[k]) * tiles * W;
                    for (int64_t w = 0; w < W; w++) {
                        uint64_t both = own[w] & (there[near * W + w] | there[far * W + w]);
                        if (!both) continue;
                        const int64_t here = b * sample + column * block + w * WORD * Z + z0;
                        const float *p = post + here, *q = pre + here + around.shift[k];
                        uint8_t some[WORD];
                        const uint8_t *list = every;
                        const int count = __builtin_popcountll(both);
                        if (both & (both + 1)) { /* not a run from 0 on */
                            for (int i = 0; both; both &= both - 1) some[i++] = (uint8_t)__builtin_ctzll(both);
                            list = some;
                        }
                        done += count;
                        sum += first == 0 && last == LANES ? paired(p, q, list, count, Z, 0, LANES)
                                                           : paired(p, q, list, count, Z, first, last);
                    }
                }
                float *place = out + (k * columns + column) * Z + z0;
                const int n = lanes(g, z0);
                store_lanes(place, load_lanes(place, 0, n) + sum, n);
            }
        }
    }
    return done;
}
