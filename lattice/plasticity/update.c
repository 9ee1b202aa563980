/* One update of all connections on the CPU, fp32: the steps of lattice/plasticity/update.py in one pass over memory.
 *
 * Layout: weights and sums [kept, X, Y, Z], what belongs to cells [X, Y, Z]; z is contiguous.
 *
 *     strips of tiles that follow each other in memory, shared out among the threads
 *       for all connections of its tiles, one slot after the other: |w| + what the rule asks for, within bounds
 *       conserve, tile by tile, with a lane for each cell
 *       write |w| with the sign that it had
 *
 * Rows of different slots lie far apart, in three tensors.  Reading one line of each in turn would wait for memory every time,
 * so several tiles are read at once.  Counts are added up for each strip, and then over strips in order, so that nothing
 * depends on the number of threads.
 */
#include "connections.h"

#ifndef MAX_KEPT
#error "compile with -DMAX_KEPT=<connections that a cell may have>"
#endif
#define STRIP 8

typedef double wide __attribute__((vector_size(8 * LANES)));

typedef struct { /* as in update.py */
    const float *sums, *acausal; /* [kept, X, Y, Z]; acausal is STDP's second sum, NULL for the other rules */
    const float *decay;          /* [X, Y, Z], or NULL: none */
    const uint8_t *won;          /* bool [X, Y, Z], or NULL: all */
    const uint8_t *only;         /* bool [kept, X, Y, Z]: the connections that may change, or NULL: all */
    float share;                 /* of the sums that counts */
    float A_plus, A_minus, mu;
    float inhibition, w_min, w_max, floor;
    int32_t conserve;
} Rule;

typedef struct { /* as in update.py */
    int64_t potentiated, depressed, connections;
    double moved; /* sum of |dw| */
} Tally;

typedef struct {
    int64_t column, tile, start; /* start: its first cell in a field [X, Y, Z] */
    int n;                       /* cells in it */
    vec decay, factor;           /* of |w|; of the wish: 1, or -inhibition for those that lost */
    vec total;                   /* sum of |w| */
} Tile;

typedef struct {
    Tile tiles[STRIP];
    int count;
    vec moved[MAX_KEPT][STRIP];                           /* the new |w| */
    int8_t first[MAX_KEPT][STRIP], last[MAX_KEPT][STRIP]; /* lanes whose connection exists: [first, last) */
} Strip;

static void place(Strip *strip, const Geometry *g, const Rule *rule, int64_t number) {
    const int64_t tiles = tiles_of_column(g), total = g->size_x * g->size_y * tiles;
    strip->count = 0;
    for (int64_t i = number * STRIP; i < total && strip->count < STRIP; i++) {
        Tile *tile = &strip->tiles[strip->count++];
        tile->column = i / tiles;
        tile->tile = i % tiles;
        tile->start = tile->column * g->size_z + tile->tile * LANES;
        tile->n = lanes(g, tile->tile * LANES);
        tile->decay = rule->decay ? load_lanes(rule->decay + tile->start, 0, tile->n) : (vec){0};
        tile->total = (vec){0};
        for (int lane = 0; lane < LANES; lane++)
            tile->factor[lane] = !rule->won || (lane < tile->n && rule->won[tile->start + lane]) ? 1.0f : -rule->inhibition;
    }
}

static inline vec bounded(vec magnitude, vec change, const Rule *rule) {
    return within(magnitude + finite(change), (vec){0} + rule->w_min, (vec){0} + rule->w_max);
}

/* (room / (w_max - w_min))^mu */
static inline vec softness(vec room, const Rule *rule) {
    return rule->mu == 0 ? (vec){0} + 1.0f
                         : vpow(within(room / (rule->w_max - rule->w_min), (vec){0}, (vec){0} + 1.0f), rule->mu);
}

/* The change of |w| that the rule asks for; `at` is the tile's first cell in a sum. */
static inline vec wish(vec w, const Tile *tile, const Rule *rule, int64_t at) {
    const vec size = magnitude(w), sum = rule->share * load_lanes(rule->sums + at, 0, tile->n);
    if (!rule->acausal) return with_sign((vec){0} + 1.0f, w) * sum - tile->decay * size;
    const vec other = rule->share * load_lanes(rule->acausal + at, 0, tile->n);
    const ivec inhibitory = (ivec)w < 0;
    const vec causal = pick(inhibitory, other, sum), acausal = pick(inhibitory, sum, other);
    const vec weaker = bounded(size, -rule->A_minus * softness(size - rule->w_min, rule) * acausal, rule);
    return bounded(weaker, rule->A_plus * softness(rule->w_max - weaker, rule) * causal, rule) - size;
}

/* Scales a tile's `moved` so that they sum to `total` again within bounds: competition.conserved, whose rounds these are. */
static void conserve(Strip *strip, int t, int64_t kept, const Rule *rule) {
    const vec none = {0}, w_min = none + rule->w_min, w_max = none + rule->w_max, least = none + rule->floor;
    ivec free[MAX_KEPT], bound;
    vec count = none, factor;
    for (int64_t s = 0; s < kept; s++) {
        free[s] = lanes_between(strip->first[s][t], strip->last[s][t]);
        count -= __builtin_convertvector(free[s], vec);
        strip->moved[s][t] = pick(strip->moved[s][t] < least, least, strip->moved[s][t]);
    }
    vec left = within(strip->tiles[t].total, count * w_min, count * w_max);
    do {
        vec sum = none, net = none;
        for (int64_t s = 0; s < kept; s++) sum += (vec)((ivec)strip->moved[s][t] & free[s]);
        factor = left / pick(sum < least, least, sum);
        for (int64_t s = 0; s < kept; s++) {
            const vec scaled = strip->moved[s][t] * factor;
            net += (vec)((ivec)(within(scaled, w_min, w_max) - scaled) & free[s]);
        }
        bound = (ivec){0};
        for (int64_t s = 0; s < kept; s++) {
            const vec scaled = strip->moved[s][t] * factor, clipped = within(scaled, w_min, w_max);
            const ivec fixed = free[s] & (((scaled < w_min) & (net >= none)) | ((scaled > w_max) & (net <= none)));
            strip->moved[s][t] = pick(fixed, clipped, strip->moved[s][t]);
            left -= (vec)((ivec)clipped & fixed);
            free[s] &= ~fixed;
            bound |= fixed;
        }
    } while (any(bound));
    for (int64_t s = 0; s < kept; s++)
        strip->moved[s][t] = pick(free[s], within(strip->moved[s][t] * factor, w_min, w_max), strip->moved[s][t]);
}

static Tally update_strip(Strip *strip, const Geometry *g, const Rule *rule, float *weights) {
    const int64_t cells = g->size_x * g->size_y * g->size_z;
    for (int64_t s = 0; s < g->kept; s++)
        for (int t = 0; t < strip->count; t++) {
            Tile *tile = &strip->tiles[t];
            const int64_t k = offset_at(g, s, tile->column, tile->tile), at = s * cells + tile->start;
            int first, last;
            paired_lanes(g, tile->tile * LANES, g->dz[k], &first, &last);
            if (first >= last || neighbour(g, tile->column, k) < 0) first = last = 0;
            const vec w = load_lanes(weights + at, 0, tile->n);
            strip->moved[s][t] = bounded(magnitude(w), tile->factor * wish(w, tile, rule, at), rule);
            strip->first[s][t] = (int8_t)first;
            strip->last[s][t] = (int8_t)last;
            tile->total += keep_lanes(magnitude(w), first, last);
        }
    if (rule->conserve)
        for (int t = 0; t < strip->count; t++) conserve(strip, t, g->kept, rule);
    ivec potentiated = {0}, depressed = {0}, connections = {0};
    wide moved = {0};
    for (int64_t s = 0; s < g->kept; s++)
        for (int t = 0; t < strip->count; t++) {
            float *p = weights + s * cells + strip->tiles[t].start;
            ivec exists = lanes_between(strip->first[s][t], strip->last[s][t]);
            if (rule->only)
                for (int lane = 0; lane < strip->tiles[t].n; lane++)
                    exists[lane] &= -(int32_t)rule->only[s * cells + strip->tiles[t].start + lane];
            const vec w = load_lanes(p, 0, strip->tiles[t].n), before = magnitude(w);
            const vec after = pick(exists, strip->moved[s][t], before);
            store_lanes(p, with_sign(after, w), strip->tiles[t].n);
            potentiated -= after > before;
            depressed -= after < before;
            connections -= exists;
            moved += __builtin_convertvector(magnitude(after - before), wide);
        }
    Tally tally = {0};
    for (int lane = 0; lane < LANES; lane++) {
        tally.potentiated += potentiated[lane];
        tally.depressed += depressed[lane];
        tally.connections += connections[lane];
        tally.moved += moved[lane];
    }
    return tally;
}

int64_t strips(const Geometry *g) { return (g->size_x * g->size_y * tiles_of_column(g) + STRIP - 1) / STRIP; }

/* Changes weights [kept, X, Y, Z] in place, kept <= MAX_KEPT; `parts` holds strips(g) tallies to work with. */
void update(const Geometry *g, const Rule *rule, float *weights, Tally *parts, Tally *all) {
    const int64_t count = strips(g);
#pragma omp parallel
    {
        Strip strip;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++) {
            place(&strip, g, rule, i);
            parts[i] = update_strip(&strip, g, rule, weights);
        }
    }
    *all = (Tally){0};
    for (int64_t i = 0; i < count; i++) {
        all->potentiated += parts[i].potentiated;
        all->depressed += parts[i].depressed;
        all->connections += parts[i].connections;
        all->moved += parts[i].moved;
    }
}
