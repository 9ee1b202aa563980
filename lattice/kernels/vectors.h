/* Arithmetic on the cells of a tile at once, a cell in each lane: loads and stores that may be clipped, and the functions that
 * the gates and the norm need.
 *
 * Vector types are the GCC/Clang extension, so any processor will do.  Intrinsics are used only if AVX-512 has one instruction
 * for what takes several otherwise.
 */
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#ifndef TILE
#error "compile with -DTILE=<cells of a tile>"
#endif
#define LANES TILE
_Static_assert(LANES == 16, "lanes_between and the AVX-512 intrinsics are written for this many lanes");

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float vec_unaligned __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

static inline vec load(const float *p) { return *(const vec_unaligned *)p; }

/* The lanes [first, last) of the LANES floats at p, zero elsewhere; memory outside them is not touched. */
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

/* States may lie in memory as bf16, the upper half of an fp32 (compile with -DBF16); in registers they are fp32. */
#ifdef BF16
typedef uint16_t number;
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));

static inline vec widened(halves h) {
#ifdef __AVX512F__
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#else
    return (vec)(__builtin_convertvector(h, uvec) << 16);
#endif
}

/* To the nearest, ties to even; NaN stays NaN. */
static inline halves narrowed(vec v) {
#ifdef __AVX512BF16__
    return (halves)_mm512_cvtneps_pbh((__m512)v);
#else
    const uvec bits = (uvec)v, rounded = bits + 0x7fff + (bits >> 16 & 1), quiet = bits | 0x400000;
    const ivec number = v == v;
    return __builtin_convertvector(((rounded & (uvec)number) | (quiet & ~(uvec)number)) >> 16, halves);
#endif
}

static inline float one_number(const number *p) {
    const uint32_t bits = (uint32_t)*p << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline vec load_numbers(const number *p) {
    halves h;
    memcpy(&h, p, sizeof h);
    return widened(h);
}

static inline vec load_numbers_lanes(const number *p, int n) {
#if defined __AVX512BW__ && defined __AVX512VL__
    return widened((halves)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
#else
    halves h = {0};
    memcpy(&h, p, (size_t)n * sizeof(number));
    return widened(h);
#endif
}

static inline void store_numbers(number *p, vec v, int n) {
    const halves h = narrowed(v);
#if defined __AVX512BW__ && defined __AVX512VL__
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
    memcpy(p, &h, (size_t)n * sizeof(number));
#endif
}
#else
typedef float number;

static inline float one_number(const number *p) { return *p; }
static inline vec load_numbers(const number *p) { return load(p); }
static inline vec load_numbers_lanes(const number *p, int n) { return load_lanes(p, 0, n); }
static inline void store_numbers(number *p, vec v, int n) { store_lanes(p, v, n); }
#endif

/* All bits set in the lanes [first, last). */
static inline ivec lanes_between(int first, int last) {
    const ivec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (lane >= first) & (lane < last);
}

/* v in the lanes [first, last), zero elsewhere (also where v is not a number). */
static inline vec keep_lanes(vec v, int first, int last) { return (vec)((ivec)v & lanes_between(first, last)); }

static inline vec magnitude(vec v) { return (vec)((ivec)v & 0x7fffffff); }

static inline vec with_sign(vec magnitude, vec sign) { return (vec)((ivec)magnitude | ((ivec)sign & INT32_MIN)); }

/* x if it is finite, else zero. */
static inline vec finite(vec x) { return (vec)((ivec)x & (((ivec)x & 0x7f800000) != 0x7f800000)); }

static inline vec pick(ivec where, vec x, vec otherwise) { return (vec)(((ivec)x & where) | ((ivec)otherwise & ~where)); }

static inline int any(ivec where) {
#ifdef __AVX512F__
    return _mm512_test_epi32_mask((__m512i)where, (__m512i)where) != 0;
#else
    int32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= where[i];
    return bits != 0;
#endif
}

/* x clipped to low..high; NaN stays NaN. */
static inline vec within(vec x, vec low, vec high) {
#ifdef __AVX512F__
    return (vec)_mm512_min_ps((__m512)high, _mm512_max_ps((__m512)low, (__m512)x));
#else
    x = pick(x < low, low, x);
    return pick(x > high, high, x);
#endif
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

/* log(x) for normal x > 0: of x = 2^e * m with m next to 1, by the series of log((1 + t) / (1 - t)), relative error about 2e-7. */
static inline vec vlog(vec x) {
    const ivec e = ((ivec)x - 0x3f3504f3) >> 23; /* 0x3f3504f3 is sqrt(1/2): m lies in sqrt(1/2)..sqrt(2) */
    const vec m = (vec)((ivec)x - (e << 23)), t = (m - 1.0f) / (m + 1.0f), t2 = t * t;
    vec p = t2 * (1.0f / 9) + 1.0f / 7;
    p = p * t2 + 1.0f / 5;
    p = p * t2 + 1.0f / 3;
    p = p * t2 + 1.0f;
    return __builtin_convertvector(e, vec) * 0.693147180559945f + 2.0f * t * p;
}

/* x^y for x in 0..1 and y > 0. */
static inline vec vpow(vec x, float y) { return (vec)((ivec)vexp(y * vlog(x)) & (x > 0)); }

/* 1 / x for normal x whose inverse is normal, relative error about 1e-7. */
static inline vec reciprocal(vec x) {
#ifdef __AVX512F__
    const vec y = (vec)_mm512_rcp14_ps((__m512)x);
    return y * (2.0f - x * y);
#else
    return 1.0f / x;
#endif
}

/* *z = sigmoid(u), *h = tanh(v), with one inverse for both; |u|, |2v| are clamped to 43, beyond which fp32 is saturated. */
static inline void gates(vec u, vec v, vec *z, vec *h) {
    const vec a = 1.0f + vexp(-u), b = 1.0f + vexp(2.0f * v);
    const vec inverse = reciprocal(a * b);
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
