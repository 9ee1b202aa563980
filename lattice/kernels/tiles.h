/* Where a tile's neighbours are and with which weights it hears them.
 *
 * A tile is 16 cells of one column (x, y), side by side along z.  Its connections are gathered once and then serve all samples
 * and channels.  Lanes whose neighbour lies outside the lattice get a zero weight, so that afterwards every neighbour is one
 * unconditional 16-lane load.  Such a load may reach up to 16 numbers beside its row: state buffers carry 16 zeroed ones before
 * and after them (native.py).  Weights and parameters are ordinary tensors and are only read inside.
 *
 * Tiles are gathered by the strip, STRIP of them that follow each other in memory: the weights of one offset lie far from those
 * of the next, and reading one line of each in turn would wait for memory every time.
 */
#include "vectors.h"

#define MAX_OFFSETS 128
#define STRIP 8

typedef struct {
    int64_t batch, size_x, size_y, size_z, offsets;
    const int32_t *dx, *dy, *dz; /* [offsets] each */
    int32_t periodic;            /* wraps x and y; z always ends in walls */
} Geometry;

/* The connections of all cells.
 * Dense: weights [offsets, X, Y, Z], index and slot null.
 * Sparse: weights [kept, X, Y, Z]; all cells of a tile keep the same offsets, index [kept, X, Y, tiles] says which, and
 * slot [offsets, X, Y, tiles] is its inverse: where an offset is kept, or NONE. */
typedef struct {
    const float *weights;
    const uint8_t *index, *slot;
    int64_t kept;
} Connections;
#define NONE 255

typedef struct {
    int64_t x, y, column, z0;    /* where it lies; column = x * Y + y */
    int n;                       /* cells in it: LANES, or what is left of the column */
    int count;                   /* connections with a neighbour in at least one lane: */
    vec weight[MAX_OFFSETS];
    int64_t shift[MAX_OFFSETS];  /* from a cell to its neighbour in a state buffer, in numbers */
    int32_t offset[MAX_OFFSETS]; /* k of o_k */
    int32_t slot[MAX_OFFSETS];   /* place on the weight tensor's first axis */
    int silent;                  /* connections without any, by slot: */
    int32_t silent_slot[MAX_OFFSETS];
} Tile;

static inline int64_t tiles_of_column(const Geometry *g) { return (g->size_z + LANES - 1) / LANES; }
static inline int64_t strips(const Geometry *g) {
    return (g->size_x * g->size_y * tiles_of_column(g) + STRIP - 1) / STRIP;
}

/* The tiles of one strip, with no connections yet; returns how many. */
static int place_strip(Tile *tiles, const Geometry *g, int64_t strip) {
    const int64_t per_column = tiles_of_column(g), total = g->size_x * g->size_y * per_column;
    int count = 0;
    for (int64_t i = strip * STRIP; i < total && count < STRIP; i++, count++) {
        Tile *tile = &tiles[count];
        tile->column = i / per_column;
        tile->x = tile->column / g->size_y;
        tile->y = tile->column % g->size_y;
        tile->z0 = i % per_column * LANES;
        tile->n = g->size_z - tile->z0 < LANES ? (int)(g->size_z - tile->z0) : LANES;
        tile->count = tile->silent = 0;
    }
    return count;
}

static inline int64_t wrap(int64_t i, int64_t n) { return ((i % n) + n) % n; }

/* Lanes of the tile whose neighbour dz further lies inside: [*first, *last), empty if *first >= *last. */
static inline void lanes_inside(const Geometry *g, const Tile *tile, int64_t dz, int *first, int *last) {
    const int64_t depth = tile->z0 + dz, above = g->size_z - depth;
    *first = depth >= 0 ? 0 : depth > -LANES ? (int)-depth : LANES;
    *last = above >= tile->n ? tile->n : above > 0 ? (int)above : 0;
}

/* The column that the offset (dx, dy) leads to from the tile, -1 outside the lattice. */
static inline int64_t column_at(const Geometry *g, const Tile *tile, int64_t dx, int64_t dy) {
    int64_t x = tile->x + dx, y = tile->y + dy;
    if (x < 0 || x >= g->size_x || y < 0 || y >= g->size_y) {
        if (!g->periodic) return -1;
        x = wrap(x, g->size_x);
        y = wrap(y, g->size_y);
    }
    return x * g->size_y + y;
}

static inline void append(Tile *tile, vec weight, int64_t shift, int64_t offset, int64_t slot) {
    const int i = tile->count++;
    tile->weight[i] = weight;
    tile->shift[i] = shift;
    tile->offset[i] = (int32_t)offset;
    tile->slot[i] = (int32_t)slot;
}

/* The tiles' own connections, to the cells i + o_k they hear. */
static void gather_heard(Tile *tiles, int count, const Geometry *g, const Connections *net, int channels) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, per_column = tiles_of_column(g);
    const int64_t kept = net->index ? net->kept : g->offsets;
    for (int64_t slot = 0; slot < kept; slot++)
        for (int t = 0; t < count; t++) {
            Tile *tile = &tiles[t];
            const int64_t k = net->index ? net->index[(slot * columns + tile->column) * per_column + tile->z0 / LANES] : slot;
            const int64_t neighbour = column_at(g, tile, g->dx[k], g->dy[k]);
            const float *weights = net->weights + (slot * columns + tile->column) * Z + tile->z0;
            int first, last;
            lanes_inside(g, tile, g->dz[k], &first, &last);
            __builtin_prefetch(weights + STRIP * LANES); /* of the next strip */
            if (neighbour < 0 || first >= last) {
                tile->silent_slot[tile->silent++] = (int32_t)slot;
                continue;
            }
            append(tile, load_lanes(weights, first, last), (neighbour - tile->column) * channels * Z + g->dz[k], k, slot);
        }
}

/* A connection of offset k that leads to a tile, from the cells i - o_k that hear it: where their weights are. */
typedef struct {
    int first, last, cut;  /* lanes that have an owner inside; `cut` is the first whose owner lies in the second of two tiles */
    int lower, upper;      /* slots of the two tiles of owners, NONE where they do not keep the offset */
    int64_t owners, shift; /* from the cells to their owners: in a row of weights, and in a state buffer, in numbers */
} Hearing;

/* Fills `h`; returns whether there is such a connection. */
static inline int heard_by(Hearing *h, const Geometry *g, const Connections *net, const Tile *tile, int64_t k, int channels) {
    const int64_t owner = column_at(g, tile, -g->dx[k], -g->dy[k]), start = tile->z0 - g->dz[k]; /* may lie outside */
    lanes_inside(g, tile, -g->dz[k], &h->first, &h->last);
    if (owner < 0 || h->first >= h->last) return 0;
    h->owners = owner * g->size_z + start;
    h->shift = (owner - tile->column) * channels * g->size_z - g->dz[k];
    h->cut = h->last;
    h->lower = h->upper = (int)k;
    if (!net->slot) return 1;
    const int64_t of_first = (start + h->first) / LANES, next = (of_first + 1) * LANES - start;
    const uint8_t *slot = net->slot + (k * g->size_x * g->size_y + owner) * tiles_of_column(g) + of_first;
    if (next < h->last) h->cut = (int)next;
    h->lower = slot[0];
    h->upper = h->cut < h->last ? slot[1] : NONE;
    return h->lower != NONE || h->upper != NONE;
}

/* Connections by the tile that they lead to (the transpose), for sparse ones, whose places must be looked up one by one:
 * those of tile t, counted along the columns, are start[t] .. start[t + 1]. */
typedef struct {
    const int64_t *start;
    const uint8_t *offset;
    const float *weight; /* LANES each: what the owners hear the tile's cells with */
} Transposed;

/* The connections that lead to the tiles; `heard` is null where they are dense. */
static void gather_hearing(Tile *tiles, int count, const Geometry *g, const Connections *net, const Transposed *heard,
                           int channels) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, per_column = tiles_of_column(g);
    Hearing h;
    if (!heard) {
        for (int64_t k = 0; k < g->offsets; k++)
            for (int t = 0; t < count; t++) {
                if (!heard_by(&h, g, net, &tiles[t], k, channels)) continue;
                const float *weights = net->weights + k * columns * Z + h.owners;
                __builtin_prefetch(weights + STRIP * LANES);
                append(&tiles[t], load_lanes(weights, h.first, h.last), h.shift, k, k);
            }
        return;
    }
    for (Tile *tile = tiles; tile < tiles + count; tile++) {
        const int64_t number = tile->column * per_column + tile->z0 / LANES;
        for (int64_t i = heard->start[number]; i < heard->start[number + 1]; i++) {
            const int64_t k = heard->offset[i], owner = column_at(g, tile, -g->dx[k], -g->dy[k]);
            append(tile, load(heard->weight + i * LANES), (owner - tile->column) * channels * Z - g->dz[k], k, NONE);
        }
    }
}
