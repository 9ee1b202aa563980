/* One tick of the lattice on the CPU: forward, and a backward that recomputes the message.  States and their gradients are fp32
 * or bf16 (-DBF16), all else is fp32.
 *
 * Layout: state [B, X, Y, C, Z], weights [K, X, Y, Z], cells [6, X, Y, C, Z] (a_z b_z c_z a_h b_h c_h); z is contiguous.
 * All functions loop alike:
 *
 *     strips, shared out among the threads: gather the connections of the strip's tiles (tiles.h)
 *       tiles: TILE cells side by side along z
 *         samples: the tile's weights and parameters are in the first-level cache by now, read from memory once per batch
 *           connections x channels: the C sums of the message stay in registers
 *
 * Every output element is written by exactly one thread and summed in a fixed order: results do not depend on the number of
 * threads.  Compiled at first use with -DCHANNELS=C, -DTILE, -DMAX_OFFSETS and -DMAX_BLOCKS (native.py).  If there is a
 * shared rule (rule.h), also with -DHIDDEN; without it nothing of a rule is compiled.
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

#ifdef HIDDEN
#include "rule.h"
#endif

/* m[c] += sum_k w_k * at[o_k][c] for the tile whose first cell is at[0]. */
static inline void add_message(const Tile *tile, const number *at, int64_t Z, vec *m) {
    UNROLL for (int from = 0; from < CHANNELS; from += GROUP) {
        const int to = from + GROUP < CHANNELS ? from + GROUP : CHANNELS;
        vec sum[GROUP];
        UNROLL for (int c = from; c < to; c++) sum[c - from] = m[c];
        for (int k = 0; k < tile->count; k++) {
            const vec w = tile->weight[k];
            const number *p = at + tile->shift[k];
            UNROLL for (int c = from; c < to; c++) sum[c - from] += w * load_numbers(p + c * Z);
        }
        UNROLL for (int c = from; c < to; c++) m[c] = sum[c - from];
    }
}

/* The message of one tile and sample, divided by its root mean square over the channels; returns the factor. */
static inline vec message(const Tile *tile, const number *at, const float *extra, int64_t Z, int n, float epsilon, vec *m) {
    for (int c = 0; c < CHANNELS; c++) m[c] = extra ? load_lanes(extra + c * Z, 0, n) : (vec){0};
    add_message(tile, at, Z, m);
    vec square = {0};
    for (int c = 0; c < CHANNELS; c++) square += m[c] * m[c];
    const vec factor = vrsqrt(square * (1.0f / CHANNELS) + epsilon);
    for (int c = 0; c < CHANNELS; c++) m[c] *= factor;
    return factor;
}

/* Prefetching.  A tile reads one line of each of 6 * CHANNELS rows, which the hardware does not foresee.  So while a tile is
 * computed, it prefetches its share of the next column: CHANNELS lines of each tensor, in the order in which they lie in
 * memory.  In the order of use instead, forward was a fifth slower at a depth of 75.
 *
 * This is the distance from the tile's first cell to the first of those lines, in numbers.  In bf16 a number takes half as
 * much, and every line is prefetched twice. */
static inline int64_t to_lines_ahead(const Tile *tile, int64_t Z) { return CHANNELS * Z + (CHANNELS - 1) * tile->z0; }

/* One line of each of the six parameters, or of their gradients, which will be written. */
static inline void prefetch_cells(const float *p, int64_t sample) {
    for (int v = 0; v < 6; v++) __builtin_prefetch(p + v * sample);
}
static inline void prefetch_grad_cells(float *p, int64_t sample) {
    for (int v = 0; v < 6; v++) __builtin_prefetch(p + v * sample, 1);
}

/* Weight gradients lie in one stream for each offset, and are prefetched so many tiles before they are written. */
#define TILES_AHEAD 3

/* out = tick(state); then out[z = 0] += drive [B, X, Y, C], which is the next tick's input; `drive` may be null.  `rule` are the
 * numbers of the rule; null without one. */
void tick_forward(const Geometry *g, const Connections *net, const number *state, const float *cells, const float *rule,
                  const float *extra, const number *drive, float epsilon, number *out) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, block = CHANNELS * Z, sample = columns * block;
#pragma omp parallel for schedule(static)
    for (int64_t strip = 0; strip < strips(g); strip++) {
        Tile tiles[STRIP];
        const int count = place_strip(tiles, g, strip);
        gather_inputs(tiles, count, g, net, CHANNELS);
        for (const Tile *tile = tiles; tile < tiles + count; tile++) {
            const int n = tile->n;
            const int64_t base = tile->column * block + tile->z0, ahead = to_lines_ahead(tile, Z);
            const int64_t newest = ahead + (g->size_y + 1) * block; /* of the next column's neighbours */
#ifdef PER_CELL
            vec of_tile[RULE_NUMBERS];
            gather_rules(rule + tile->column * RULE_NUMBERS * Z + tile->z0, Z, n, of_tile);
#else
            const float *of_tile = rule;
#endif
            for (int64_t b = 0; b < g->batch; b++) {
                const int64_t here = b * sample + base;
                const number *at = state + here;
                vec m[CHANNELS];
                message(tile, at, extra ? extra + here : 0, Z, n, epsilon, m);
#ifdef HIDDEN
                Row row;
                vec met[OUTPUTS];
                for (int c = 0; c < CHANNELS; c++) row.in[c] = load_numbers(at + c * Z), row.in[CHANNELS + c] = m[c];
                rule_forward(of_tile, &row, met);
#endif
                UNROLL for (int c = 0; c < CHANNELS; c++) {
                    const float *p = cells + base + c * Z;
                    if (b == 0) {
                        prefetch_cells(cells + base + ahead + c * LANES, sample);
                        __builtin_prefetch(at + newest + c * LANES);
                        __builtin_prefetch(out + here + ahead + c * LANES, 1);
                    }
                    const vec s = load_numbers(at + c * Z);
                    vec u = load_lanes(p, 0, n) * s + load_lanes(p + sample, 0, n) * m[c] + load_lanes(p + 2 * sample, 0, n);
                    p += 3 * sample;
                    vec v = load_lanes(p, 0, n) * s + load_lanes(p + sample, 0, n) * m[c] + load_lanes(p + 2 * sample, 0, n);
#ifdef HIDDEN
                    u += met[c];
                    v += met[CHANNELS + c];
#endif
                    vec z, h;
                    gates(u, v, &z, &h);
                    vec after = s + z * (h - s);
                    if (drive && tile->z0 == 0) after[0] += one_number(drive + (b * columns + tile->column) * CHANNELS + c);
                    store_numbers(out + here + c * Z, after, n);
                }
            }
        }
    }
}

/* Parameter gradients of a tile while they are summed over the samples. */
typedef struct {
    vec cells[6][CHANNELS], weights[MAX_OFFSETS];
} Sums;

/* Which of a batch's samples this is.  The first one begins the sums.  The last one writes them to the gradient tensors, a few
 * lines at a time between its other work, so that it does not wait for memory. */
enum { FIRST = 1, LAST = 2 };

/* Adds v to a sum over the samples.  The last sample stores the sum in p[0 .. n), or adds it there unless `fresh`. */
static inline void sum_up(vec *sum, vec v, int sample, int fresh, float *p, int n) {
    if (!(sample & FIRST)) v += *sum;
    if (!(sample & LAST)) *sum = v;
    else store_lanes(p, fresh ? v : v + load_lanes(p, 0, n), n);
}

#ifndef HIDDEN
typedef float rule_number;
typedef void Row; /* there is no rule, and all pointers to rows are null */
#endif

/* The part of one tile's and sample's backward that needs only the tile's own output gradient.  It is inlined with a constant
 * `which`; grad_weights may be null.  The row takes what the gradients of the rule need. */
static inline __attribute__((always_inline)) void backward_tile(
    const Geometry *g, const Tile *tile, const number *at, const float *p, const rule_number *rule, const float *extra,
    const number *grad_out, float epsilon, const int which, int fresh, Sums *sums, Row *row, number *grad_message,
    number *grad_state, float *grad_cells, float *grad_weights) {
    const int n = tile->n;
    const int64_t Z = g->size_z, size = g->size_x * g->size_y * Z, sample = CHANNELS * size;
    const int64_t ahead = to_lines_ahead(tile, Z), newest = ahead + (g->size_y + 1) * CHANNELS * Z;
    const float *cells_ahead = p + ahead;
    float *grad_cells_ahead = grad_cells + ahead;
    vec m[CHANNELS], grad_m[CHANNELS];
    const vec factor = message(tile, at, extra, Z, n, epsilon, m);
    vec projection = {0};
#ifdef HIDDEN
    vec met[OUTPUTS], grad_in[INPUTS];
    for (int c = 0; c < CHANNELS; c++) row->in[c] = load_numbers(at + c * Z), row->in[CHANNELS + c] = m[c];
    rule_forward(rule, row, met);
#endif
    for (int c = 0; c < CHANNELS; c++, p += Z, grad_cells += Z) {
        if (which & FIRST) {
            prefetch_cells(cells_ahead + c * LANES, sample);
            prefetch_grad_cells(grad_cells_ahead + c * LANES, sample);
            __builtin_prefetch(at + newest + c * LANES);
            __builtin_prefetch(grad_out + ahead + c * LANES);
            __builtin_prefetch(grad_message + ahead + c * LANES, 1);
        }
        const vec s = load_numbers(at + c * Z), grad = load_numbers_lanes(grad_out + c * Z, n);
        const vec a_z = load_lanes(p, 0, n), b_z = load_lanes(p + sample, 0, n), c_z = load_lanes(p + 2 * sample, 0, n);
        const vec a_h = load_lanes(p + 3 * sample, 0, n), b_h = load_lanes(p + 4 * sample, 0, n);
        const vec c_h = load_lanes(p + 5 * sample, 0, n);
        vec u = a_z * s + b_z * m[c] + c_z, v = a_h * s + b_h * m[c] + c_h, z, h;
#ifdef HIDDEN
        u += met[c];
        v += met[CHANNELS + c];
#endif
        gates(u, v, &z, &h);
        const vec dz = grad * (h - s) * z * (1.0f - z), dh = grad * z * (1.0f - h * h);
        sum_up(&sums->cells[0][c], dz * s, which, fresh, grad_cells, n);
        sum_up(&sums->cells[1][c], dz * m[c], which, fresh, grad_cells + sample, n);
        sum_up(&sums->cells[2][c], dz, which, fresh, grad_cells + 2 * sample, n);
        sum_up(&sums->cells[3][c], dh * s, which, fresh, grad_cells + 3 * sample, n);
        sum_up(&sums->cells[4][c], dh * m[c], which, fresh, grad_cells + 4 * sample, n);
        sum_up(&sums->cells[5][c], dh, which, fresh, grad_cells + 5 * sample, n);
        grad_m[c] = dz * b_z + dh * b_h;
        const vec direct = grad * (1.0f - z) + dz * a_z + dh * a_h;
#ifdef HIDDEN
        row->grad_out[c] = dz;
        row->grad_out[CHANNELS + c] = dh;
        grad_in[c] = direct;
        grad_in[CHANNELS + c] = grad_m[c];
#else
        projection += grad_m[c] * m[c];
        store_numbers(grad_state + c * Z, direct, n);
#endif
    }
#ifdef HIDDEN
    rule_backward(rule, row, grad_in);
    for (int c = 0; c < CHANNELS; c++) {
        grad_m[c] = grad_in[CHANNELS + c];
        projection += grad_m[c] * m[c];
        store_numbers(grad_state + c * Z, grad_in[c], n);
    }
#endif
    projection *= 1.0f / CHANNELS;
    for (int c = 0; c < CHANNELS; c++) {
        grad_m[c] = factor * (grad_m[c] - m[c] * projection);
        store_numbers(grad_message + c * Z, grad_m[c], n);
    }
    if (!grad_weights) return;
    for (int k = 0; k < tile->count; k++) {
        const number *q = at + tile->shift[k];
        if (which & FIRST) __builtin_prefetch(grad_weights + tile->slot[k] * size + TILES_AHEAD * LANES, 1);
        vec sum = {0};
        UNROLL for (int c = 0; c < CHANNELS; c++) sum += grad_m[c] * load_numbers(q + c * Z);
        if (which & LAST) {
            int first, last;
            lanes_inside(g, tile, g->dz[tile->offset[k]], &first, &last);
            if (!(which & FIRST)) sum += sums->weights[k];
            sum = keep_lanes(sum, first, last);
            sum_up(0, sum, FIRST | LAST, fresh, grad_weights + tile->slot[k] * size, n);
        } else
            sum_up(&sums->weights[k], sum, which, fresh, 0, n);
    }
    if (fresh && (which & LAST))
        for (int k = 0; k < tile->silent; k++) store_lanes(grad_weights + tile->silent_slot[k] * size, (vec){0}, n);
}

/* Blocks of strips, which the threads share out.  With a rule they are few, since each sums the rule's gradients by itself, and at
 * most that many threads take part.  Without one each strip is a block. */
static inline int64_t blocks(const Geometry *g) {
#ifdef HIDDEN
    return strips(g) < MAX_BLOCKS ? strips(g) : MAX_BLOCKS;
#else
    return strips(g);
#endif
}

/* First half of the backward.  Writes grad_message [B, X, Y, C, Z] and the direct part of grad_state, which may be grad_out.
 * Adds to grad_cells and grad_weights, or overwrites them if `fresh`; grad_weights may be null.  Adds to grad_rule, too, which
 * may be null, by way of `partial` [MAX_BLOCKS, numbers of the rule], or at once if each cell has its own. */
void tick_backward_cells(const Geometry *g, const Connections *net, const number *state, const float *cells, const float *rule,
                         const float *extra, const number *grad_out, float epsilon, int32_t fresh, number *grad_message,
                         number *grad_state, float *grad_cells, float *grad_weights, float *grad_rule, float *partial) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, of_column = CHANNELS * Z, sample = columns * of_column;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks(g); block++) {
#ifdef HIDDEN
        RuleSums of_rule;
        of_rule.count = 0;
        if (grad_rule) memset(of_rule.sums, 0, sizeof of_rule.sums);
#endif
        for (int64_t strip = block * strips(g) / blocks(g); strip < (block + 1) * strips(g) / blocks(g); strip++) {
            Tile tiles[STRIP];
            const int count = place_strip(tiles, g, strip);
            gather_inputs(tiles, count, g, net, CHANNELS);
            for (const Tile *tile = tiles; tile < tiles + count; tile++) {
                const int64_t base = tile->column * of_column + tile->z0;
                float *of_weights = grad_weights ? grad_weights + tile->column * Z + tile->z0 : 0;
#ifdef PER_CELL
                const int64_t of_cells = tile->column * RULE_NUMBERS * Z + tile->z0;
                vec of_tile[RULE_NUMBERS];
                gather_rules(rule + of_cells, Z, tile->n, of_tile);
#else
                const float *of_tile = rule;
#endif
                Sums sums;
                for (int64_t b = 0; b < g->batch; b++) {
                    const int64_t here = b * sample + base;
#ifdef HIDDEN
                    Row *row = &of_rule.row[of_rule.count];
#else
                    Row *row = 0;
#endif
#define BACKWARD_TILE(WHICH)                                                                                                 \
    backward_tile(g, tile, state + here, cells + base, of_tile, extra ? extra + here : 0, grad_out + here, epsilon, WHICH,   \
                  fresh, &sums, row, grad_message + here, grad_state + here, grad_cells + base, of_weights)
                    if (g->batch == 1) BACKWARD_TILE(FIRST | LAST);
                    else if (b == 0) BACKWARD_TILE(FIRST);
                    else if (b + 1 < g->batch) BACKWARD_TILE(0);
                    else BACKWARD_TILE(LAST);
#ifdef HIDDEN
                    if (grad_rule && ++of_rule.count == ROWS) sum_rows(&of_rule);
#endif
                }
#ifdef PER_CELL
                if (grad_rule) finish_tile(&of_rule, grad_rule + of_cells, Z, tile->n);
#endif
            }
        }
#if defined(HIDDEN) && !defined(PER_CELL)
        if (grad_rule) finish_rows(&of_rule, partial + block * RULE_NUMBERS);
#endif
    }
#if defined(HIDDEN) && !defined(PER_CELL)
    if (grad_rule)
        for (int64_t block = 0; block < blocks(g); block++)
            for (int64_t i = 0; i < RULE_NUMBERS; i++) grad_rule[i] += partial[block * RULE_NUMBERS + i];
#endif
}

/* Counts the sparse connections that read each tile t, start[t + 1] - start[t]. */
void tick_count_outputs(const Geometry *g, const Connections *net, int64_t *start) {
    const int64_t total = g->size_x * g->size_y * tiles_of_column(g);
#pragma omp parallel for schedule(static)
    for (int64_t strip = 0; strip < strips(g); strip++) {
        Tile tiles[STRIP];
        Output out;
        const int count = place_strip(tiles, g, strip);
        for (int t = 0; t < count; t++) {
            int64_t found = 0;
            for (int64_t k = 0; k < g->offsets; k++) found += find_output(&out, g, net, &tiles[t], k, CHANNELS);
            start[strip * STRIP + t + 1] = found;
        }
    }
    start[0] = 0;
    for (int64_t t = 0; t < total; t++) start[t + 1] += start[t];
}

/* Writes their offsets and weights in the order of the `start` that tick_count_outputs has filled. */
void tick_transpose(const Geometry *g, const Connections *net, const int64_t *start, uint8_t *offset, float *weight) {
    const int64_t size = g->size_x * g->size_y * g->size_z;
#pragma omp parallel for schedule(static)
    for (int64_t strip = 0; strip < strips(g); strip++) {
        Tile tiles[STRIP];
        Output out;
        const int count = place_strip(tiles, g, strip);
        int64_t next[STRIP];
        for (int t = 0; t < count; t++) next[t] = start[strip * STRIP + t];
        for (int64_t k = 0; k < g->offsets; k++)
            for (int t = 0; t < count; t++) {
                if (!find_output(&out, g, net, &tiles[t], k, CHANNELS)) continue;
                vec w = {0};
                if (out.lower != NONE) w += load_lanes(net->weights + out.lower * size + out.readers, out.first, out.cut);
                if (out.upper != NONE) w += load_lanes(net->weights + out.upper * size + out.readers, out.cut, out.last);
                offset[next[t]] = (uint8_t)k;
                store_lanes(weight + next[t]++ * LANES, w, LANES);
            }
    }
}

/* Second half: grad_state[j] += sum_k w_k[j - o_k] * grad_message[j - o_k], gathered so that no two threads write one cell.
 * Then grad_drive [B, X, Y, C] += grad_state[z = 0]; it may be null.  `transposed` is null if connections are dense. */
void tick_backward_state(const Geometry *g, const Connections *net, const Transposed *transposed, const number *grad_message,
                         number *grad_state, float *grad_drive) {
    const int64_t Z = g->size_z, columns = g->size_x * g->size_y, block = CHANNELS * Z, sample = columns * block;
#pragma omp parallel for schedule(static)
    for (int64_t strip = 0; strip < strips(g); strip++) {
        Tile tiles[STRIP];
        const int count = place_strip(tiles, g, strip);
        gather_outputs(tiles, count, g, net, transposed, CHANNELS);
        for (const Tile *tile = tiles; tile < tiles + count; tile++) {
            const int n = tile->n;
            const int64_t base = tile->column * block + tile->z0, ahead = to_lines_ahead(tile, Z);
            const int64_t newest = base + ahead + (g->size_y + 1) * block;
            for (int64_t b = 0; b < g->batch; b++) {
                number *grad = grad_state + b * sample + base;
                vec sum[CHANNELS];
                for (int c = 0; c < CHANNELS; c++) {
                    __builtin_prefetch(grad + ahead + c * LANES, 1);
                    __builtin_prefetch(grad_message + b * sample + newest + c * LANES);
                    sum[c] = load_numbers_lanes(grad + c * Z, n);
                }
                add_message(tile, grad_message + b * sample + base, Z, sum);
                for (int c = 0; c < CHANNELS; c++) {
                    if (grad_drive && tile->z0 == 0) grad_drive[(b * columns + tile->column) * CHANNELS + c] += sum[c][0];
                    store_numbers(grad + c * Z, sum[c], n);
                }
            }
        }
    }
}
