/* The rule R, by which the channels of a cell meet: [u_z, u_h] += R([s, m]), with the same numbers in every cell.
 *
 * Compiled with -DHIDDEN=0 it is linear, W [OUTPUTS, INPUTS] and b [OUTPUTS].  With more it is W2 relu(W1 x + b1) + b2, with
 * W1 [HIDDEN, INPUTS], b1 [HIDDEN], W2 [OUTPUTS, HIDDEN], b2 [OUTPUTS].  These follow each other in one array.  A number of the
 * rule is a scalar that multiplies the cells of a tile, a cell in each lane.
 *
 * The gradients of these numbers are sums over all cells.  Inputs and gradients of a few tiles are kept as rows of the first- or
 * second-level cache, and their products are then summed in registers.  Each block of strips has sums of its own, on the stack of
 * its thread.  Blocks depend on the shape only and are added up in order, so sums do not depend on the number of threads.
 *
 * With -DPER_CELL each cell has a rule of its own, and they lie as [X, Y, RULE_NUMBERS, Z].  Then a number is a vector of the
 * tile's cells, and lanes are not summed.
 */
#define INPUTS (2 * CHANNELS)
#define OUTPUTS (2 * CHANNELS)
#define FIRST_LAYER (HIDDEN ? HIDDEN : OUTPUTS) /* outputs of the first layer, which may be the only one */
#define RULE_NUMBERS (FIRST_LAYER * (INPUTS + 1) + (HIDDEN ? OUTPUTS * (HIDDEN + 1) : 0))

#ifdef PER_CELL
typedef vec rule_number;
#else
typedef float rule_number;
#endif

/* Rows whose products are summed at once.  More of them spare loads of the sums, but fall out of the cache. */
#define ROWS 16

/* What one tile and sample leave for the gradients of the rule. */
typedef struct {
    vec in[INPUTS], grad_out[OUTPUTS];
#if HIDDEN
    vec hidden[HIDDEN], grad_hidden[HIDDEN];
#endif
} Row;

typedef struct {
    int count; /* of rows that are not yet summed */
    Row row[ROWS];
    vec sums[RULE_NUMBERS];
} RuleSums;

/* out[i] += sum_j weight[i * by_out + j * by_in] * in[j] for `count` <= GROUP outputs, whose sums stay in registers. */
static inline __attribute__((always_inline)) void add_products_of(const rule_number *weight, const int by_out, const int by_in,
                                                                  const vec *in, const int inputs, vec *out, const int count) {
    vec sum[GROUP];
    UNROLL for (int i = 0; i < count; i++) sum[i] = out[i];
    for (int j = 0; j < inputs; j++) {
        const vec x = in[j];
        UNROLL for (int i = 0; i < count; i++) sum[i] += weight[i * by_out + j * by_in] * x;
    }
    UNROLL for (int i = 0; i < count; i++) out[i] = sum[i];
}

/* The same for any number of outputs. */
static inline __attribute__((always_inline)) void add_products(const rule_number *weight, const int by_out, const int by_in,
                                                               const vec *in, const int inputs, vec *out, const int outputs) {
    const int whole = outputs / GROUP * GROUP;
    for (int from = 0; from < whole; from += GROUP)
        add_products_of(weight + from * by_out, by_out, by_in, in, inputs, out + from, GROUP);
    if (outputs > whole) add_products_of(weight + whole * by_out, by_out, by_in, in, inputs, out + whole, outputs - whole);
}

static inline vec relu(vec x) { /* NaN stays NaN */
#ifdef __AVX512F__
    return (vec)_mm512_max_ps(_mm512_setzero_ps(), (__m512)x);
#else
    return pick(x < 0, (vec){0}, x);
#endif
}

/* out = R(row->in); fills row->hidden. */
static inline void rule_forward(const rule_number *rule, Row *row, vec *out) {
    const rule_number *bias = rule + FIRST_LAYER * INPUTS;
#if HIDDEN
    for (int i = 0; i < HIDDEN; i++) row->hidden[i] = (vec){0} + bias[i];
    add_products(rule, INPUTS, 1, row->in, INPUTS, row->hidden, HIDDEN);
    for (int i = 0; i < HIDDEN; i++) row->hidden[i] = relu(row->hidden[i]);
    const rule_number *second = bias + HIDDEN;
    bias = second + OUTPUTS * HIDDEN;
    for (int i = 0; i < OUTPUTS; i++) out[i] = (vec){0} + bias[i];
    add_products(second, HIDDEN, 1, row->hidden, HIDDEN, out, OUTPUTS);
#else
    for (int i = 0; i < OUTPUTS; i++) out[i] = (vec){0} + bias[i];
    add_products(rule, INPUTS, 1, row->in, INPUTS, out, OUTPUTS);
#endif
}

/* grad_in [INPUTS] += the gradient of row->in, from row->grad_out; fills row->grad_hidden. */
static inline void rule_backward(const rule_number *rule, Row *row, vec *grad_in) {
#if HIDDEN
    for (int i = 0; i < HIDDEN; i++) row->grad_hidden[i] = (vec){0};
    add_products(rule + HIDDEN * (INPUTS + 1), 1, HIDDEN, row->grad_out, OUTPUTS, row->grad_hidden, HIDDEN);
    for (int i = 0; i < HIDDEN; i++) row->grad_hidden[i] = pick(row->hidden[i] > 0, row->grad_hidden[i], (vec){0});
    add_products(rule, 1, INPUTS, row->grad_hidden, HIDDEN, grad_in, INPUTS);
#else
    add_products(rule, 1, INPUTS, row->grad_out, OUTPUTS, grad_in, INPUTS);
#endif
}

/* sums[i * width + j] += sum over rows of a[i] * b[j], for i < high and j < wide; a row is sizeof(Row) from the next. */
static inline __attribute__((always_inline)) void add_outer_block(vec *sums, const int width, const vec *a, const int high,
                                                                  const vec *b, const int wide, int rows) {
    const int64_t step = sizeof(Row) / sizeof(vec);
    vec sum[4 * 6];
    UNROLL for (int i = 0; i < high; i++)
        UNROLL for (int j = 0; j < wide; j++) sum[i * wide + j] = sums[i * width + j];
    for (int r = 0; r < rows; r++, a += step, b += step) {
        vec left[4], right[6];
        UNROLL for (int i = 0; i < high; i++) left[i] = a[i];
        UNROLL for (int j = 0; j < wide; j++) right[j] = b[j];
        UNROLL for (int i = 0; i < high; i++)
            UNROLL for (int j = 0; j < wide; j++) sum[i * wide + j] += left[i] * right[j];
    }
    UNROLL for (int i = 0; i < high; i++)
        UNROLL for (int j = 0; j < wide; j++) sums[i * width + j] = sum[i * wide + j];
}

static inline __attribute__((always_inline)) void add_outer_rows(vec *sums, const vec *a, const int high, const vec *b,
                                                                 const int width, int rows) {
    int j = 0;
    for (; j + 6 <= width; j += 6) add_outer_block(sums + j, width, a, high, b + j, 6, rows);
    for (; j + 2 <= width; j += 2) add_outer_block(sums + j, width, a, high, b + j, 2, rows);
    if (width % 2) add_outer_block(sums + width - 1, width, a, high, b + width - 1, 1, rows);
}

/* Sums of a layer [height, width] and its bias [height] that follow: of the gradients a of its outputs and its inputs b. */
static inline __attribute__((always_inline)) void add_layer(vec *sums, const vec *a, const int height, const vec *b,
                                                            const int width, int rows) {
    const int whole = height / 4 * 4;
    for (int i = 0; i < whole; i += 4) add_outer_rows(sums + i * width, a + i, 4, b, width, rows);
    for (int i = whole; i < height; i++) add_outer_rows(sums + i * width, a + i, 1, b, width, rows);
    for (int r = 0; r < rows; r++, a += sizeof(Row) / sizeof(vec))
        for (int i = 0; i < height; i++) sums[height * width + i] += a[i];
}

/* Adds the products of the rows to the sums. */
static __attribute__((noinline)) void sum_rows(RuleSums *rule) {
    const Row *row = rule->row;
#if HIDDEN
    add_layer(rule->sums, row->grad_hidden, HIDDEN, row->in, INPUTS, rule->count);
    add_layer(rule->sums + HIDDEN * (INPUTS + 1), row->grad_out, OUTPUTS, row->hidden, HIDDEN, rule->count);
#else
    add_layer(rule->sums, row->grad_out, OUTPUTS, row->in, INPUTS, rule->count);
#endif
    rule->count = 0;
}

#ifdef PER_CELL
/* The rules of a tile's cells, gathered from the first cell's numbers. */
static inline void gather_rules(const float *from, int64_t Z, int n, vec *out) {
    for (int i = 0; i < RULE_NUMBERS; i++) out[i] = load_lanes(from + i * Z, 0, n);
}

/* Adds the sums over all rows of a tile to the gradients of its cells' rules, and begins anew. */
static __attribute__((noinline)) void finish_tile(RuleSums *rule, float *out, int64_t Z, int n) {
    if (rule->count) sum_rows(rule);
    for (int i = 0; i < RULE_NUMBERS; i++, out += Z) store_lanes(out, load_lanes(out, 0, n) + rule->sums[i], n);
    memset(rule->sums, 0, sizeof rule->sums);
}
#else
/* Writes the sums over all rows of a block, and over their lanes, to out [RULE_NUMBERS]. */
static __attribute__((noinline)) void finish_rows(RuleSums *rule, float *out) {
    if (rule->count) sum_rows(rule);
    for (int i = 0; i < RULE_NUMBERS; i++) {
        float lane[LANES];
        memcpy(lane, &rule->sums[i], sizeof lane);
        for (int half = LANES / 2; half; half /= 2)
            for (int l = 0; l < half; l++) lane[l] += lane[l + half];
        out[i] = lane[0];
    }
}
#endif
