/* The connections of a tile: the cells that it reads (its inputs), and the cells that read it (its outputs).
 *
 * A tile is TILE cells of one column (x, y), side by side along z.  Its connections are gathered once and then serve all
 * samples and channels.  Lanes whose neighbour lies outside the lattice get a zero weight, so that afterwards every neighbour
 * is one unconditional load of LANES numbers.  Such a load may reach up to LANES numbers beside its row, so state buffers have
 * that many zeroed ones before and after them (native.py).  Weights and parameters are ordinary tensors and are only read
 * inside.
 *
 * Tiles are gathered in strips of STRIP tiles that follow each other in memory.  The weights of one offset lie far from those
 * of the next, and reading one line of each in turn would wait for memory every time.
 */
#include "vectors.h"

#ifndef MAX_OFFSETS
#error "compile with -DMAX_OFFSETS=<connections that a cell may have>"
#endif
#define STRIP 8

typedef struct {
    int64_t batch, size_x, size_y, size_z, offsets;
    const int32_t *dx, *dy, *dz; /* [offsets] each */
    int32_t periodic;            /* wraps x and y; z always ends in walls */
} Geometry;

/* The connections of all cells.
 * Dense: weights [offsets, X, Y, Z]; index and slot are null.
 * Sparse: weights [kept, X, Y, Z].  All cells of a tile keep the same offsets, and index [kept, X, Y, tiles] says which.
 * slot [offsets, X, Y, tiles] is the inverse of index: the slot that keeps an offset, or NONE. */
typedef struct {
    const float *weights;
    const uint8_t *index, *slot;
    int64_t kept;
} Connections;
#define NONE 255

typedef struct {
    int64_t x, y, column, z0;    /* where it lies; column = x * Y + y */
    int n;                       /* cells in it: LANES, or what is left of the column */
    int count;                   /* connections with a neighbour inside the lattice in at least one lane: */
    vec weight[MAX_OFFSETS];
    int64_t shift[MAX_OFFSETS];  /* from a cell to its neighbour in a state buffer, in numbers */
    int32_t offset[MAX_OFFSETS]; /* k of o_k */
    int32_t slot[MAX_OFFSETS];   /* index along the weight tensor's first axis */
    int silent;                  /* connections without such a neighbour, by slot: */
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

/* From a cell of the tile to the cell dz further in another column: numbers in a state buffer. */
static inline int64_t shift_to(const Geometry *g, const Tile *tile, int64_t column, int64_t dz, int channels) {
    return (column - tile->column) * channels * g->size_z + dz;
}

static inline void append(Tile *tile, vec weight, int64_t shift, int64_t offset, int64_t slot) {
    const int i = tile->count++;
    tile->weight[i] = weight;
    tile->shift[i] = shift;
    tile->offset[i] = (int32_t)offset;
    tile->slot[i] = (int32_t)slot;
}

/* Gathers the connections to the cells i + o_k, which the tiles read. */
static void gather_inputs(Tile *tiles, int count, const Geometry *g, const Connections *net, int channels) {
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
            append(tile, load_lanes(weights, first, last), shift_to(g, tile, neighbour, g->dz[k], channels), k, slot);
        }
}

/* The connections of one offset k by which a tile is read: where the weights are of its readers, the cells i - o_k.  Readers
 * may lie in two tiles, which keep the offset in different slots or not at all. */
typedef struct {
    int first, last, cut;   /* lanes that have a reader inside; `cut` is the first whose reader lies in the second of two tiles */
    int lower, upper;       /* slots of the two tiles of readers; NONE if a tile does not keep the offset */
    int64_t readers, shift; /* from the cells to their readers: in a row of weights, and in a state buffer, in numbers */
} Output;

/* Fills `out` for offset k; returns whether any cell reads the tile by it. */
static inline int find_output(Output *out, const Geometry *g, const Connections *net, const Tile *tile, int64_t k,
                              int channels) {
    const int64_t reader = column_at(g, tile, -g->dx[k], -g->dy[k]), start = tile->z0 - g->dz[k]; /* may lie outside */
    lanes_inside(g, tile, -g->dz[k], &out->first, &out->last);
    if (reader < 0 || out->first >= out->last) return 0;
    out->readers = reader * g->size_z + start;
    out->shift = shift_to(g, tile, reader, -g->dz[k], channels);
    out->cut = out->last;
    out->lower = out->upper = (int)k;
    if (!net->slot) return 1;
    const int64_t of_first = (start + out->first) / LANES, next = (of_first + 1) * LANES - start;
    const uint8_t *slot = net->slot + (k * g->size_x * g->size_y + reader) * tiles_of_column(g) + of_first;
    if (next < out->last) out->cut = (int)next;
    out->lower = slot[0];
    out->upper = out->cut < out->last ? slot[1] : NONE;
    return out->lower != NONE || out->upper != NONE;
}

/* Sparse connections in the order of the tile that is read: those to tile t, counted along the columns, are numbers start[t] up
 * to start[t + 1].  Without this list every offset of every reader would have to be looked up for each tile and tick. */
typedef struct {
    const int64_t *start;
    const uint8_t *offset;
    const float *weight; /* LANES each: one for each cell of the tile that is read */
} Transposed;

/* Gathers the connections from the cells i - o_k, which read the tiles; `transposed` is null if connections are dense. */
static void gather_outputs(Tile *tiles, int count, const Geometry *g, const Connections *net, const Transposed *transposed,
                           int channels) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, per_column = tiles_of_column(g);
    Output out;
    if (!transposed) {
        for (int64_t k = 0; k < g->offsets; k++)
            for (int t = 0; t < count; t++) {
                if (!find_output(&out, g, net, &tiles[t], k, channels)) continue;
                const float *weights = net->weights + k * columns * Z + out.readers;
                __builtin_prefetch(weights + STRIP * LANES);
                append(&tiles[t], load_lanes(weights, out.first, out.last), out.shift, k, k);
            }
        return;
    }
    for (Tile *tile = tiles; tile < tiles + count; tile++) {
        const int64_t number = tile->column * per_column + tile->z0 / LANES;
        for (int64_t i = transposed->start[number]; i < transposed->start[number + 1]; i++) {
            const int64_t k = transposed->offset[i], reader = column_at(g, tile, -g->dx[k], -g->dy[k]);
            append(tile, load(transposed->weight + i * LANES), shift_to(g, tile, reader, -g->dz[k], channels), k, NONE);
        }
    }
}
