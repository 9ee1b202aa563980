/* Which connections the cells of a tile have, and where these lead.  products.c, pairs.c and update.c share this.
 *
 * A tile is TILE cells of one column (x, y), side by side along z, that keep the same offsets.
 */
#include "vectors.h"

typedef struct { /* as in native.py */
    int64_t batch, size_x, size_y, size_z, kept;
    const int32_t *dx, *dy, *dz; /* [offsets] each */
    const uint8_t *index;        /* [kept, X, Y, tiles]: the offset in each slot; NULL if slot s keeps offset s */
    int32_t periodic;            /* wraps x and y; z always ends in walls */
} Geometry;

static inline int64_t tiles_of_column(const Geometry *g) { return (g->size_z + LANES - 1) / LANES; }

static inline int lanes(const Geometry *g, int64_t z0) { return g->size_z - z0 < LANES ? (int)(g->size_z - z0) : LANES; }

/* The offset in slot s of tile t of a column. */
static inline int64_t offset_at(const Geometry *g, int64_t s, int64_t column, int64_t t) {
    return g->index ? g->index[(s * g->size_x * g->size_y + column) * tiles_of_column(g) + t] : s;
}

/* Lanes of the tile at z0 whose neighbour dz further lies inside: [*first, *last), empty if *first >= *last. */
static inline void paired_lanes(const Geometry *g, int64_t z0, int64_t dz, int *first, int *last) {
    const int64_t start = z0 + dz, left = g->size_z - start;
    const int n = lanes(g, z0);
    *first = start >= 0 ? 0 : start > -LANES ? (int)-start : LANES;
    *last = left >= n ? n : left > 0 ? (int)left : 0;
}

static inline int64_t around(int64_t i, int64_t n) { return ((i % n) + n) % n; }

/* The column that offset k leads to from this one, -1 outside the lattice. */
static inline int64_t neighbour(const Geometry *g, int64_t column, int64_t k) {
    int64_t x = column / g->size_y + g->dx[k], y = column % g->size_y + g->dy[k];
    if (g->periodic) {
        x = around(x, g->size_x);
        y = around(y, g->size_y);
    }
    return x < 0 || x >= g->size_x || y < 0 || y >= g->size_y ? -1 : x * g->size_y + y;
}
