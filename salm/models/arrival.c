/* A network of `ArrivalPooling`: two convolutions and a sum over channels, for x86-64 with AVX2.
 *
 * `salm.models.compiled_arrival` compiles this file and has `Network` once more. The eight channels of a bin are one
 * vector. Some frames go through both convolutions at a time, so that what is between them stays in a core's cache.
 */
#include "../threads.h"
#include "../vectors.h"
#include <stdlib.h>
#include <string.h>

#define CHANNELS 8
#define BINS 8 /* neighbours that are computed together */
#define FRAMES 32
#define AROUND 1 /* of the second kernel, which is 3 x 3 */

typedef struct {
    const float *first, *first_bias;   /* (lines, columns, cues, CHANNELS), (CHANNELS) */
    const float *second, *second_bias; /* (3, 3, CHANNELS, CHANNELS), (CHANNELS) */
    const float *last;                 /* (CHANNELS) */
    int64_t cues, lines, columns;      /* lines, columns: of the first kernel, odd */
    float last_bias;
} Network;

typedef struct {
    Items items; /* FRAMES frames each */
    const Network *network;
    const float *cues; /* (cues, frames + lines - 1, mels + columns - 1): within a border of zeros */
    float *logits;     /* (frames, mels) */
    int64_t frames, mels;
} Clip;

/* Rectified sums of BINS neighbours, for kernels of `lines` x `columns` over `inputs` numbers. `input_step`,
 * `column_step`, `line_step`: from one number of a bin, bin or frame to the next. */
INLINE void convolve(const float *weights, const float *bias, int64_t lines, int64_t columns, int64_t inputs,
                     const float *in, int64_t input_step, int64_t column_step, int64_t line_step, __m256 *sums) {
    for (int bin = 0; bin < BINS; bin++) sums[bin] = _mm256_loadu_ps(bias);
    for (int64_t line = 0; line < lines; line++)
        for (int64_t column = 0; column < columns; column++)
            for (int64_t input = 0; input < inputs; input++, weights += CHANNELS) {
                const float *at = in + line * line_step + column * column_step + input * input_step;
                const __m256 weight = _mm256_loadu_ps(weights);
#pragma GCC unroll 8
                for (int bin = 0; bin < BINS; bin++)
                    sums[bin] = _mm256_fmadd_ps(weight, _mm256_broadcast_ss(at + bin * column_step), sums[bin]);
            }
    for (int bin = 0; bin < BINS; bin++) sums[bin] = _mm256_max_ps(sums[bin], _mm256_setzero_ps());
}

/* Sums over the lanes of eight vectors. */
INLINE __m256 sums_of_lanes(const __m256 *parts) {
    const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(parts[0], parts[1]), _mm256_hadd_ps(parts[2], parts[3]));
    const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(parts[4], parts[5]), _mm256_hadd_ps(parts[6], parts[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

/* The first convolution of frames `start` to `end` into `between`, a frame's bins between two zeros. */
static void convolve_cues(const Clip *clip, int64_t start, int64_t end, float *between) {
    const Network *network = clip->network;
    const int64_t step = clip->mels + network->columns - 1, plane = (clip->frames + network->lines - 1) * step;
    for (int64_t frame = start; frame < end; frame++, between += (clip->mels + 2 * AROUND) * CHANNELS)
        for (int64_t mel = 0; mel < clip->mels; mel += BINS) {
            const float *cues = clip->cues + frame * step + mel;
            __m256 sums[BINS];
            convolve(network->first, network->first_bias, network->lines, network->columns, network->cues, cues, plane,
                     1, step, sums);
            for (int bin = 0; bin < BINS; bin++) _mm256_storeu_ps(between + (mel + bin + AROUND) * CHANNELS, sums[bin]);
        }
}

static void run(void *data) {
    Clip *clip = data;
    const Network *network = clip->network;
    const int64_t step = (clip->mels + 2 * AROUND) * CHANNELS, bytes = (FRAMES + 2 * AROUND) * step * sizeof(float);
    float *between = malloc(bytes);
    if (between == NULL) {
        clip->items.failed = 1;
        return;
    }
    memset(between, 0, bytes); /* of which the first frames, the first item of whoever takes it, leave the border */
    for (int64_t item; (item = clip->items.next++) < clip->items.count;) {
        const int64_t start = item * FRAMES, left = clip->frames - start, count = left < FRAMES ? left : FRAMES;
        const int64_t before = start > 0, after = left > FRAMES; /* frames beyond these, or zeros */
        if (!after) memset(between + (AROUND + count) * step, 0, step * sizeof(float));
        convolve_cues(clip, start - before, start + count + after, between + (AROUND - before) * step);
        for (int64_t frame = 0; frame < count; frame++)
            for (int64_t mel = 0; mel < clip->mels; mel += BINS) {
                __m256 sums[BINS];
                convolve(network->second, network->second_bias, 3, 3, CHANNELS, between + frame * step + mel * CHANNELS,
                         1, CHANNELS, step, sums);
                for (int bin = 0; bin < BINS; bin++)
                    sums[bin] = _mm256_mul_ps(sums[bin], _mm256_loadu_ps(network->last));
                _mm256_storeu_ps(clip->logits + (start + frame) * clip->mels + mel,
                                 _mm256_add_ps(sums_of_lanes(sums), _mm256_set1_ps(network->last_bias)));
            }
    }
    free(between);
}

/* cues of a clip in their border -> logits (frames, mels); mels: a multiple of BINS. 0 without memory. */
int salm_arrival(const Network *network, const float *cues, float *logits, int64_t frames, int64_t mels,
                 Parallel parallel, int threads) {
    Clip clip = {.items.count = (frames + FRAMES - 1) / FRAMES,
                 .network = network,
                 .cues = cues,
                 .logits = logits,
                 .frames = frames,
                 .mels = mels};
    return share_out(run, &clip, &clip.items, parallel, threads);
}
