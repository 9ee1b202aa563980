/* A step of AdamW with both moments in 8 bits, for fp32 parameters, in one pass over weights, gradients and codes.
 *
 * Codes, scales and random rounding are those of adam8bit.py, whose plain version computes the same.  A block of BLOCK numbers
 * is decoded, moves its weights, finds its new scales and is encoded again while it lies in the first-level cache.  Two buffers
 * of a block are all the memory that this takes.
 *
 * Every block is handled by one thread from start to end: results do not depend on the number of threads.
 */
#include <math.h>
#include <stdint.h>

#if !defined BLOCK || !defined EPSILON || !defined TINY
#error "compile with -DBLOCK, -DEPSILON and -DTINY, which adam8bit.py knows"
#endif

typedef struct { /* as in adam8bit.py */
    float take, take_square; /* 1 - beta1 and 1 - beta2: what a moment takes of the gradient and its square */
    float keep_square;       /* beta2 */
    float rate;              /* learning rate / bias correction of the first moment */
    float correction;        /* root of the bias correction of the second one */
} Rates;

/* n numbers of one block, n <= BLOCK. */
static inline __attribute__((always_inline)) void block_step(const Rates *r, int n, const float *grad, const float *dither,
                                                             float *weight, int8_t *signed_codes, float *signed_scale,
                                                             uint8_t *unsigned_codes, float *unsigned_scale) {
    float average[BLOCK], root[BLOCK]; /* the first moment, and the square root of the second */
    const float signed_unit = *signed_scale / (127.0f * 127.0f), square_unit = *unsigned_scale;
    const float root_unit = 1 / r->correction;
    float most = 0, most_square = 0;
#pragma omp simd reduction(max : most, most_square)
    for (int i = 0; i < n; i++) {
        const float g = grad[i], code = signed_codes[i], fourth = unsigned_codes[i] * (1 / 255.0f);
        const float before = code * fabsf(code) * signed_unit, a = before + r->take * (g - before);
        const float s = fourth * fourth * (fourth * fourth) * square_unit * r->keep_square + r->take_square * (g * g);
        const float q = sqrtf(s), size = fabsf(a);
        weight[i] -= r->rate * (a / (q * root_unit + EPSILON));
        average[i] = a;
        root[i] = q;
        most = most > size ? most : size;
        most_square = most_square > s ? most_square : s;
    }
    *signed_scale = most;
    *unsigned_scale = most_square;
    const float share = 1 / (most > TINY ? most : TINY), root_share = 1 / sqrtf(most_square > TINY ? most_square : TINY);
#pragma omp simd
    for (int i = 0; i < n; i++) {
        /* Casts take the floor, for nothing here is negative.  The root of the root is the fourth one. */
        int32_t size = (int32_t)(127 * sqrtf(fabsf(average[i]) * share) + dither[i]);
        int32_t fourth = (int32_t)(255 * sqrtf(root[i] * root_share) + dither[i]);
        size = size < 127 ? size : 127;
        fourth = fourth < 255 ? fourth : 255;
        fourth = fourth > 1 ? fourth : 1; /* no value above zero becomes zero: updates divide by it */
        signed_codes[i] = (int8_t)(average[i] < 0 ? -size : size);
        unsigned_codes[i] = (uint8_t)(root[i] > 0 ? fourth : 0);
    }
}

/* A step for `count` numbers.  Each chunk of `chunk` blocks enters the table `dither` [numbers of a chunk + PLACES] at
 * places[number of the chunk]. */
void adam8bit_step(const Rates *rates, int64_t count, int64_t chunk, const int64_t *places, const float *dither,
                   const float *grad, float *weight, int8_t *signed_codes, float *signed_scales, uint8_t *unsigned_codes,
                   float *unsigned_scales) {
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t first = b * BLOCK, left = count - first;
        const float *noise = dither + places[b / chunk] + b % chunk * BLOCK;
#define STEP(n)                                                                                                                \
    block_step(rates, n, grad + first, noise, weight + first, signed_codes + first, signed_scales + b, unsigned_codes + first, \
               unsigned_scales + b)
        if (left >= BLOCK) STEP(BLOCK);
        else STEP((int)left);
#undef STEP
    }
}
