/* STDP's two sums for every connection on the CPU, straight from the spikes.  Traces and products.c give the same in more
 * passes.
 *
 * Layout: spikes [B, X, Y, Z] (bool) of each tick, sums [kept, X, Y, Z] fp32; z is contiguous.
 *
 *     pack: one word per cell, with bit t for a spike in tick t; one word per tile, with the ticks in which any of its cells fires
 *     columns (x, y), shared out among the threads
 *       tiles of TILE cells along z: for each tick, what a spike of a neighbour would add, from the cell's own spikes
 *         connections: what it adds, summed over the ticks in which the neighbour fires
 *
 * A pair of spikes counts the same whether the earlier one leaves a trace or the later one looks ahead.  So both traces are
 * made of the cell's own spikes, once for all its connections, and only 4 bytes of a neighbour are read.  A tick is skipped if
 * the neighbour's tile is silent in it, or if no spike of the own tile follows or precedes it.  Every sum is written by exactly
 * one thread and in a fixed order: results do not depend on the number of threads.
 */
#include "connections.h"

#if !defined MAX_TICKS || !defined MAX_BATCH
#error "compile with -DMAX_TICKS and -DMAX_BATCH, the ticks and sentences of a call"
#endif
_Static_assert(MAX_TICKS <= 32, "a spike train is a word of 32 bits");

static void pack(const Geometry *g, int64_t ticks, const uint8_t *const *spikes, int32_t *words, uint32_t *busy) {
    const int64_t Z = g->size_z, tiles = tiles_of_column(g);
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < g->batch * g->size_x * g->size_y; column++) {
        memset(words + column * Z, 0, (size_t)Z * sizeof(int32_t));
        memset(busy + column * tiles, 0, (size_t)tiles * sizeof(uint32_t));
        for (int64_t t = 0; t < ticks; t++)
            for (int64_t z = 0; z < Z; z++) words[column * Z + z] |= (int32_t)((uint32_t)spikes[t][column * Z + z] << t);
        for (int64_t z = 0; z < Z; z++) busy[column * tiles + z / LANES] |= (uint32_t)words[column * Z + z];
    }
}

/* All bits set in the lanes whose cell fires in tick t. */
static inline ivec fires(ivec words, int t) { return (words << (31 - t)) >> 31; }

/* Adds to both sums [kept, X, Y, Z], over all pairs of spikes: causal += left_plus^gap for a neighbour that fired `gap` ticks
 * before the cell, acausal += left_minus^gap for one that fired `gap` ticks after it.  batch <= MAX_BATCH, ticks <= MAX_TICKS.
 * words [B, X, Y, Z] and busy [B, X, Y, tiles] are buffers to work with.  work[0] counts the ticks of neighbours' tiles that
 * were added to a sum, work[1] those that there were. */
void pairs(const Geometry *g, int64_t ticks, const uint8_t *const *spikes, float left_plus, float left_minus, int32_t *words,
           uint32_t *busy, float *causal, float *acausal, int64_t *work) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, tiles = tiles_of_column(g);
    int64_t done = 0, possible = 0;
    pack(g, ticks, spikes, words, busy);
#pragma omp parallel for schedule(static) reduction(+ : done, possible)
    for (int64_t column = 0; column < columns; column++)
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t z0 = tile * LANES;
            const int n = lanes(g, z0);
            vec ahead[MAX_BATCH][MAX_TICKS], behind[MAX_BATCH][MAX_TICKS];
            uint32_t followed[MAX_BATCH], preceded[MAX_BATCH]; /* ticks that have own spikes after them, before them */
            for (int64_t b = 0; b < g->batch; b++) {
                const ivec own = (ivec)load_lanes((const float *)words + (b * columns + column) * Z + z0, 0, n);
                const uint32_t any = busy[(b * columns + column) * tiles + tile];
                const vec one = (vec){0} + 1.0f;
                vec later = {0}, earlier = {0};
                followed[b] = any ? (1u << (31 - __builtin_clz(any))) - 1 : 0;
                preceded[b] = any ? ~((any & -any) | ((any & -any) - 1)) : 0;
                for (int t = (int)ticks - 1; t >= 0; t--) {
                    ahead[b][t] = later;
                    later = left_plus * (later + (vec)((ivec)one & fires(own, t)));
                }
                for (int t = 0; t < ticks; t++) {
                    behind[b][t] = earlier;
                    earlier = left_minus * (earlier + (vec)((ivec)one & fires(own, t)));
                }
            }
            for (int64_t s = 0; s < g->kept; s++) {
                const int64_t k = offset_at(g, s, column, tile), beside = neighbour(g, column, k);
                int first, last;
                paired_lanes(g, z0, g->dz[k], &first, &last);
                if (beside < 0 || first >= last) continue;
                possible += 2 * g->batch * ticks;
                const int64_t near = (z0 + g->dz[k] + first) / LANES, far = (z0 + g->dz[k] + last - 1) / LANES;
                vec up = {0}, down = {0};
                for (int64_t b = 0; b < g->batch; b++) {
                    const int64_t there = b * columns + beside;
                    const uint32_t fired = busy[there * tiles + near] | busy[there * tiles + far];
                    const ivec pre = (ivec)load_lanes((const float *)words + there * Z + z0 + g->dz[k], first, last);
                    done += __builtin_popcount(fired & followed[b]) + __builtin_popcount(fired & preceded[b]);
                    for (uint32_t left = fired & (followed[b] | preceded[b]); left; left &= left - 1) {
                        const int t = __builtin_ctz(left);
                        up += (vec)((ivec)ahead[b][t] & fires(pre, t));
                        down += (vec)((ivec)behind[b][t] & fires(pre, t));
                    }
                }
                const int64_t at = (s * columns + column) * Z + z0;
                store_lanes(causal + at, load_lanes(causal + at, 0, n) + up, n);
                store_lanes(acausal + at, load_lanes(acausal + at, 0, n) + down, n);
            }
        }
    work[0] = done;
    work[1] = possible;
}
