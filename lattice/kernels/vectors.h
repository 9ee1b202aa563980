/* Sixteen floats at a time: loads and stores that may be clipped, and the functions the gates and the norm need.
 *
 * Vector types are the GCC/Clang extension, so any processor will do; intrinsics stand only where AVX-512 has one instruction
 * for what takes several otherwise.
 */
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 16

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *p) { return *(const vec_unaligned *)p; }

/* The lanes [first, last) of the sixteen floats at p, zero elsewhere; memory outside them is not touched. */
static inline vec load_lanes(const float *p, int first, int last) {
#ifdef __AVX512F__
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << last) - (1u << first)), p);
#else
    if (first == 0 && last == LANES) return load(p);
    vec v = {0};
    memcpy((float *)&v + first, p + first, (size_t)(last - first) * sizeof(float));
    return v;
#endif
}

static inline void store_lanes(float *p, vec v, int count) {
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), (__m512)v);
#else
    if (count == LANES) *(vec_unaligned *)p = v;
    else memcpy(p, &v, (size_t)count * sizeof(float));
#endif
}

/* v in the lanes [first, last), zero elsewhere (also where v is not a number). */
static inline vec keep_lanes(vec v, int first, int last) {
    const ivec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (vec)((ivec)v & (lane >= first) & (lane < last));
}

static inline vec clamp(vec x, float limit) {
#ifdef __AVX512F__
    return (vec)_mm512_max_ps(_mm512_min_ps((__m512)x, _mm512_set1_ps(limit)), _mm512_set1_ps(-limit));
#else
    const vec high = (vec){0} + limit;
    const ivec above = x > high, below = x < -high;
    x = (vec)(((ivec)x & ~above) | ((ivec)high & above));
    return (vec)(((ivec)x & ~below) | ((ivec)(-high) & below));
#endif
}

/* exp(x) for |x| <= 43 (clamped): range reduction and a degree-6 polynomial, relative error about 2e-7. */
static inline vec vexp(vec x) {
    x = clamp(x, 43.0f);
    const vec shifted = x * 1.44269504088896341f + 12582912.0f; /* + 1.5 * 2^23 rounds to the nearest integer n */
    const vec n = shifted - 12582912.0f;
    const vec r = x - n * 0.693147180559945f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    return (vec)((ivec)p + ((ivec)shifted << 23)); /* the low bits of `shifted` hold n; its own bits leave by the shift */
}

/* *z = sigmoid(u), *h = tanh(v), with one division for both; |u|, |2v| are clamped to 43, beyond which fp32 is saturated. */
static inline void gates(vec u, vec v, vec *z, vec *h) {
    const vec a = 1.0f + vexp(-u), b = 1.0f + vexp(2.0f * v);
    const vec inverse = 1.0f / (a * b);
    *z = inverse * b;
    *h = 1.0f - 2.0f * (inverse * a);
}

/* 1 / sqrt(x) for normal x > 0: a bit-level first guess and three Newton steps (relative error about 1e-7). */
static inline vec vrsqrt(vec x) {
    vec y = (vec)(0x5f3759df - ((ivec)x >> 1));
    const vec half = x * 0.5f;
    for (int i = 0; i < 3; i++) y = y * (1.5f - half * y * y);
    return y;
}
