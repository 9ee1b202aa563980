/* Where a tile's neighbours are and with which weights it hears them.
 *
 * A tile is 16 cells of one column (x, y), side by side along z.  Its connections are gathered once and then serve all samples
 * and channels.  Lanes whose neighbour lies outside the lattice get a zero weight, so that afterwards every neighbour is one
 * unconditional 16-lane load.  Such a load may reach up to 16 floats beside its row: state buffers carry 16 zeroed floats before
 * and after them (native.py).  Weights and parameters are ordinary tensors and are only read inside.
 */
#include "vectors.h"

#define MAX_OFFSETS 128

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

/* What holds for every tile of a column, by offset: the neighbouring column it leads to, -1 outside the lattice, and the way
 * from a cell to its neighbour in a state buffer, in floats. */
typedef struct {
    int64_t column, neighbour[MAX_OFFSETS], shift[MAX_OFFSETS];
} Column;

/* The connections of a tile that have a neighbour in at least one lane. */
typedef struct {
    int count, silent;                          /* how many there are, and how many have none */
    vec weight[MAX_OFFSETS];
    int64_t shift[MAX_OFFSETS];                 /* from this cell to the neighbour in a state buffer, in floats */
    int64_t place[MAX_OFFSETS];                 /* of the tile's weights of this connection in the weight tensor */
    int8_t first[MAX_OFFSETS], last[MAX_OFFSETS]; /* lanes with a neighbour: [first, last) */
    int64_t silent_place[MAX_OFFSETS];
} Tile;

static inline int64_t wrap(int64_t i, int64_t n) {
    if (i >= 0 && i < n) return i;
    return ((i % n) + n) % n;
}

static inline int lanes(const Geometry *g, int64_t z0) { return g->size_z - z0 < LANES ? (int)(g->size_z - z0) : LANES; }

/* sign = +1 looks from i to i + o_k, the cells it hears; -1 to i - o_k, the cells that hear it. */
static void look_around(Column *around, const Geometry *g, int64_t column, int channels, int sign) {
    const int64_t X = g->size_x, Y = g->size_y, x = column / Y, y = column % Y;
    around->column = column;
    for (int64_t k = 0; k < g->offsets; k++) {
        int64_t nx = x + sign * g->dx[k], ny = y + sign * g->dy[k];
        if (g->periodic) {
            nx = wrap(nx, X);
            ny = wrap(ny, Y);
        }
        const int inside = nx >= 0 && nx < X && ny >= 0 && ny < Y;
        const int64_t neighbour = nx * Y + ny;
        around->neighbour[k] = inside ? neighbour : -1;
        around->shift[k] = (neighbour - column) * channels * g->size_z + sign * g->dz[k];
    }
}

/* Lanes of the tile at z0 whose neighbour dz further lies inside: [*first, *last), empty if *first >= *last. */
static inline void lanes_inside(const Geometry *g, int64_t z0, int64_t dz, int *first, int *last) {
    const int64_t below = -(z0 + dz), above = g->size_z - z0 - dz, n = lanes(g, z0);
    *first = below > 0 ? (below < LANES ? (int)below : LANES) : 0;
    *last = above < n ? (above > 0 ? (int)above : 0) : (int)n;
}

/* The tile's own connections, to the cells i + o_k it hears. */
static void gather_heard(Tile *tile, const Column *around, const Geometry *g, const Connections *net, int64_t z0) {
    const int64_t Z = g->size_z, cells = g->size_x * g->size_y * Z, own = around->column * Z + z0;
    const int64_t tiles = (Z + LANES - 1) / LANES, columns = g->size_x * g->size_y;
    const int64_t pattern = around->column * tiles + z0 / LANES;
    const int64_t kept = net->index ? net->kept : g->offsets;
    int count = 0, silent = 0;
    for (int64_t j = 0; j < kept; j++) {
        const int64_t k = net->index ? net->index[j * columns * tiles + pattern] : j, place = j * cells + own;
        int first, last;
        lanes_inside(g, z0, g->dz[k], &first, &last);
        if (around->neighbour[k] < 0 || first >= last) {
            tile->silent_place[silent++] = place;
            continue;
        }
        tile->weight[count] = load_lanes(net->weights + place, first, last);
        tile->shift[count] = around->shift[k];
        tile->place[count] = place;
        tile->first[count] = (int8_t)first;
        tile->last[count] = (int8_t)last;
        count++;
        /* The next tile but one follows in memory; far apart as they are, these rows are too many for the hardware to foresee. */
        __builtin_prefetch(net->weights + place + 2 * LANES);
    }
    tile->count = count;
    tile->silent = silent;
}

/* The connections that lead to this tile, from the cells i - o_k that hear it, each with its owner's weight (the transpose).
 * Only `weight`, `shift` and `count` are set. */
static void gather_hearing(Tile *tile, const Column *around, const Geometry *g, const Connections *net, int64_t z0) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, cells = columns * Z;
    const int64_t tiles = (Z + LANES - 1) / LANES;
    int count = 0;
    for (int64_t k = 0; k < g->offsets; k++) {
        const int64_t owner = around->neighbour[k], start = z0 - g->dz[k]; /* the owner of lane 0 lies at depth `start` */
        int first, last;
        lanes_inside(g, z0, -g->dz[k], &first, &last);
        if (owner < 0 || first >= last) continue;
        const float *row = net->weights + owner * Z + start;
        if (!net->slot) {
            row += k * cells;
            tile->weight[count] = load_lanes(row, first, last);
            __builtin_prefetch(row + 2 * LANES);
        } else {
            /* The owners straddle two tiles at most; `cut` is the first lane that belongs to the second. */
            const int64_t lower = (start + first) / LANES;
            const uint8_t *slot = net->slot + (k * columns + owner) * tiles + lower;
            const int64_t next = (lower + 1) * LANES - start;
            const int cut = next < last ? (int)next : last;
            const int one = slot[0], two = cut < last ? slot[1] : NONE;
            if (one == NONE && two == NONE) continue;
            vec w = {0};
            if (one != NONE) w += load_lanes(row + one * cells, first, cut);
            if (two != NONE) w += load_lanes(row + two * cells, cut, last);
            tile->weight[count] = w;
        }
        tile->shift[count++] = around->shift[k];
    }
    tile->count = count;
}
