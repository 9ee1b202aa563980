/* Which cells fire in a tick, and the traces that spikes leave: on the CPU, in one pass each, for states in fp32 or bf16
 * (-DBF16).
 *
 * Layout: states [B, X, Y, C, Z], thresholds [X, Y, Z], spikes and last traces [B, X, Y, Z], traces [B, X, Y, T, Z]; z is
 * contiguous.  Spikes are bool.
 */
#include "vectors.h"

typedef uint8_t bytes __attribute__((vector_size(LANES)));

typedef struct { /* as in spikes.py */
    int64_t batch, columns, channels, depth;
} Shape;

/* A cell fires if its state changes by more than its threshold (RMS over channels).  `before` is NULL at the first state; then
 * the change is the state itself. */
void spikes(const Shape *shape, const number *now, const number *before, const float *threshold, uint8_t *fired) {
    const int64_t Z = shape->depth;
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < shape->batch * shape->columns; column++) {
        const float *least = threshold + column % shape->columns * Z;
        for (int64_t z = 0; z < Z; z += LANES) {
            const int n = Z - z < LANES ? (int)(Z - z) : LANES;
            vec sum = {0};
            for (int64_t c = 0; c < shape->channels; c++) {
                const int64_t at = (column * shape->channels + c) * Z + z;
                vec change = load_numbers_lanes(now + at, n);
                if (before) change -= load_numbers_lanes(before + at, n);
                sum += change * change;
            }
            const vec limit = load_lanes(least + z, 0, n);
            const ivec above = sum / (float)shape->channels > limit * limit;
            for (int lane = 0; lane < n; lane++) fired[column * Z + z + lane] = (uint8_t)-above[lane];
        }
    }
}

/* fired[t] is the spikes of tick t, as numbers.  trace[t] is what earlier spikes left: end * decay, and then end = trace[t] +
 * fired[t].  `end` goes in as the last call left it, and comes out for the next one. */
void traces(const Shape *shape, int64_t ticks, const uint8_t *const *spikes, float decay, float *end, float *fired, float *trace) {
    const int64_t Z = shape->depth;
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < shape->batch * shape->columns; column++)
        for (int64_t z = 0; z < Z; z += LANES) {
            const int n = Z - z < LANES ? (int)(Z - z) : LANES;
            vec left = load_lanes(end + column * Z + z, 0, n);
            for (int64_t t = 0; t < ticks; t++) {
                const int64_t at = (column * ticks + t) * Z + z;
                bytes now = {0};
                memcpy(&now, spikes[t] + column * Z + z, (size_t)n);
                const vec spike = __builtin_convertvector(now, vec), faded = left * decay;
                store_lanes(fired + at, spike, n);
                store_lanes(trace + at, faded, n);
                left = faded + spike;
            }
            store_lanes(end + column * Z + z, left, n);
        }
}
