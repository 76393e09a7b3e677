/* `Projection`: two linear layers with a rectifier between them, for single rows and x86-64 with AVX2.
 *
 * `salm.models.compiled_projection` compiles this file and has `Layer` once more. A row's sums are made in the same order
 * whatever rows there are.
 */
#include "../vectors.h"

#define VECTORS 4 /* of outputs that are computed together */
#define PANEL (VECTORS * LANES)
#define AHEAD 2048 /* floats: weights are fetched before they are needed, since they come from memory */

typedef struct {
    const float *weight, *bias; /* (out / PANEL, in, PANEL), (out) */
    int64_t in, out;            /* in: even */
} Layer;

INLINE void apply(const Layer *layer, int rectified, const float *in, float *out) {
    const float *weight = layer->weight;
    for (int64_t first = 0; first < layer->out; first += PANEL) {
        __m256 sums[2][VECTORS]; /* of even and odd inputs: an addition takes several cycles */
        for (int i = 0; i < VECTORS; i++) {
            sums[0][i] = _mm256_loadu_ps(layer->bias + first + i * LANES);
            sums[1][i] = _mm256_setzero_ps();
        }
        for (int64_t k = 0; k < layer->in; k += 2)
#pragma GCC unroll 2
            for (int odd = 0; odd < 2; odd++, weight += PANEL) {
                const __m256 input = _mm256_broadcast_ss(in + k + odd);
                _mm_prefetch((const char *)(weight + AHEAD), _MM_HINT_T0);
                _mm_prefetch((const char *)(weight + AHEAD + PANEL / 2), _MM_HINT_T0);
#pragma GCC unroll 4
                for (int i = 0; i < VECTORS; i++)
                    sums[odd][i] = _mm256_fmadd_ps(input, _mm256_loadu_ps(weight + i * LANES), sums[odd][i]);
            }
        for (int i = 0; i < VECTORS; i++) {
            __m256 value = _mm256_add_ps(sums[0][i], sums[1][i]);
            if (rectified) value = _mm256_max_ps(_mm256_setzero_ps(), value); /* of a NaN the NaN */
            _mm256_storeu_ps(out + first + i * LANES, value);
        }
    }
}

/* in (rows, first->in) -> out (rows, second->out); `hidden`: memory for (first->out). */
void salm_project(const Layer *first, const Layer *second, const float *in, float *hidden, float *out, int64_t rows) {
    for (int64_t row = 0; row < rows; row++) {
        apply(first, 1, in + row * first->in, hidden);
        apply(second, 0, hidden, out + row * second->out);
    }
}
