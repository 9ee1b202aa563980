/* Products of connected cells on the CPU, event-driven: out_k[i] += sum over m of pre_m[i + o_k] * post_m[i], fp32.
 *
 * Layout: fields [B, X, Y, M, Z] (as states), out [kept, X, Y, Z]; z is contiguous.  Row s of `out` belongs to offset index[s,
 * x, y, tile], or to offset s if there is no index.  `loudness` measures every tile of TILE cells once, for each sample and
 * value m.  `products` then visits only connections whose two ends are loud enough together.  One comparison judges LANES
 * values, and if all of them pass, the loop is the plain one.
 *
 *     columns (x, y), shared out among the threads
 *       tiles of TILE cells along z
 *         connections: samples x values that are loud enough at both ends, summed in registers
 *
 * Every output element is written by exactly one thread and summed in a fixed order: results do not depend on the number of
 * threads.
 */
#include "connections.h"

static inline float total(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* loud[B, X, Y, tiles, M] = sum of |field| over the tile's cells. */
void loudness(const Geometry *g, const float *field, int64_t values, float *loud) {
    const int64_t Z = g->size_z, tiles = tiles_of_column(g), columns = g->batch * g->size_x * g->size_y;
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < columns; column++)
        for (int64_t t = 0; t < tiles; t++)
            for (int64_t m = 0; m < values; m++) {
                const float *row = field + (column * values + m) * Z + t * LANES;
                loud[(column * tiles + t) * values + m] = total(magnitude(load_lanes(row, 0, lanes(g, t * LANES))));
            }
}

/* One bit for each of `count` values: whether own * max(near, far) > floor, that is, it is loud enough. */
static inline uint32_t loud_enough(const float *own, const float *near, const float *far, int count, float floor) {
#ifdef __AVX512F__
    const __m512 there = _mm512_max_ps((__m512)load_lanes(near, 0, count), (__m512)load_lanes(far, 0, count));
    const __m512 both = _mm512_mul_ps((__m512)load_lanes(own, 0, count), there);
    return _mm512_cmp_ps_mask(both, _mm512_set1_ps(floor), _CMP_GT_OQ);
#else
    uint32_t bits = 0;
    for (int m = 0; m < count; m++) bits |= (uint32_t)(own[m] * (near[m] > far[m] ? near[m] : far[m]) > floor) << m;
    return bits;
#endif
}

/* Sum of post * pre over the listed values, in lanes [first, last).  Both pointers are at the tile's first cell. */
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

/* Adds the products to out [kept, X, Y, Z] if the product of both ends' loudness is above `floor`.  work[0] counts the products
 * of two tiles that were computed, work[1] those that there were. */
void products(const Geometry *g, const float *pre, const float *post, const float *pre_loud, const float *post_loud,
                 int64_t values, float floor, float *out, int64_t *work) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, block = values * Z, sample = columns * block;
    const int64_t tiles = tiles_of_column(g);
    uint8_t every[LANES];
    for (int i = 0; i < LANES; i++) every[i] = (uint8_t)i;
    int64_t done = 0, possible = 0;
#pragma omp parallel for schedule(static) reduction(+ : done, possible)
    for (int64_t column = 0; column < columns; column++) {
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t z0 = t * LANES;
            for (int64_t s = 0; s < g->kept; s++) {
                const int64_t k = offset_at(g, s, column, t);
                int first, last;
                paired_lanes(g, z0, g->dz[k], &first, &last);
                const int64_t beside = neighbour(g, column, k), shift = (beside - column) * block + g->dz[k];
                if (beside < 0 || first >= last) continue;
                possible += g->batch * values;
                const int64_t near = (z0 + g->dz[k] + first) / LANES, far = (z0 + g->dz[k] + last - 1) / LANES;
                vec sum = {0};
                for (int64_t b = 0; b < g->batch; b++) {
                    const float *own = post_loud + ((b * columns + column) * tiles + t) * values;
                    const float *there = pre_loud + (b * columns + beside) * tiles * values;
                    for (int64_t m = 0; m < values; m += LANES) {
                        const int n = values - m < LANES ? (int)(values - m) : LANES;
                        uint32_t busy = loud_enough(own + m, there + near * values + m, there + far * values + m, n, floor);
                        if (!busy) continue;
                        const int64_t here = b * sample + column * block + m * Z + z0;
                        const float *p = post + here, *q = pre + here + shift;
                        uint8_t some[LANES];
                        const uint8_t *list = every;
                        const int count = __builtin_popcount(busy);
                        if (busy & (busy + 1)) { /* not a run from 0 on */
                            for (int i = 0; busy; busy &= busy - 1) some[i++] = (uint8_t)__builtin_ctz(busy);
                            list = some;
                        }
                        done += count;
                        sum += first == 0 && last == LANES ? paired(p, q, list, count, Z, 0, LANES)
                                                           : paired(p, q, list, count, Z, first, last);
                    }
                }
                float *place = out + (s * columns + column) * Z + z0;
                const int n = lanes(g, z0);
                store_lanes(place, load_lanes(place, 0, n) + sum, n);
            }
        }
    }
    work[0] = done;
    work[1] = possible;
}
