/* Feature maps of spectra: power of each channel and the unit intensity vector, summed over the bands of mel filters.
 *
 * `salm.audio.compiled_features` compiles this file and has `Filters` once more; `salm.audio.features` has the same
 * maps in torch.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 8
#define MAX_CHANNELS 4
#define MAX_MAPS 7

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

/* Filter m weighs bins `first[m]` to `last[m]`, whole vectors of them, by `weights` from `start[m]` on. */
typedef struct {
    const float *weights;
    const int64_t *first, *last, *start;
    int64_t bins, padded_bins, mels;
    float intensity_floor;
} Filters;

/* One frame's linear maps (maps, padded_bins), of which those beyond `bins` are zero. */
INLINE void linear_maps(const Filters *filters, const float *restrict spectra, int64_t channel_step,
                        int64_t channels, float *restrict linear) {
    const int64_t bins = filters->bins, step = filters->padded_bins;
    const float floor = filters->intensity_floor;
    for (int64_t channel = 0; channel < channels; channel++) {
        const float *spectrum = spectra + channel * channel_step;
        float *power = linear + channel * step;
        for (int64_t bin = 0; bin < bins; bin++)
            power[bin] = spectrum[2 * bin] * spectrum[2 * bin] + spectrum[2 * bin + 1] * spectrum[2 * bin + 1];
    }
    if (channels == 1) return;
    const float *w = spectra, *y = w + channel_step, *z = y + channel_step, *x = z + channel_step;
    float *restrict along_y = linear + MAX_CHANNELS * step;
    float *restrict along_z = along_y + step, *restrict along_x = along_z + step;
    for (int64_t bin = 0; bin < bins; bin++) {
        const float real = w[2 * bin], imag = w[2 * bin + 1];
        const float to_y = real * y[2 * bin] + imag * y[2 * bin + 1];
        const float to_z = real * z[2 * bin] + imag * z[2 * bin + 1];
        const float to_x = real * x[2 * bin] + imag * x[2 * bin + 1];
        const float factor = 1.0f / (sqrtf(to_y * to_y + to_z * to_z + to_x * to_x) + floor);
        along_y[bin] = to_y * factor;
        along_z[bin] = to_z * factor;
        along_x[bin] = to_x * factor;
    }
}

/* Sums over the lanes of each of 8 vectors. */
INLINE Lanes sums_of_lanes(const Lanes *parts) {
    typedef int32_t Places __attribute__((vector_size(sizeof(Lanes))));
    const Places even = {0, 2, 4, 6, 8, 10, 12, 14}, odd = {1, 3, 5, 7, 9, 11, 13, 15};
    Lanes sums[LANES];
    for (int place = 0; place < LANES; place++) sums[place] = parts[place];
#pragma GCC unroll 3
    for (int count = LANES / 2; count > 0; count /= 2)
#pragma GCC unroll 4
        for (int place = 0; place < count; place++) {
            const Lanes left = sums[2 * place], right = sums[2 * place + 1];
            sums[place] = __builtin_shuffle(left, right, even) + __builtin_shuffle(left, right, odd);
        }
    return sums[0];
}

/* One frame's linear maps (num_maps, padded_bins) -> its mels of each map. */
INLINE void weigh(const Filters *filters, int64_t num_maps, const float *linear, float *maps, int64_t map_step) {
    for (int64_t first = 0; first < filters->mels; first += LANES) {
        const int64_t count = filters->mels - first < LANES ? filters->mels - first : LANES;
        Lanes parts[MAX_MAPS][LANES] = {0};
        for (int64_t i = 0; i < count; i++) {
            const int64_t mel = first + i;
            const float *weights = filters->weights + filters->start[mel];
            Lanes sums[MAX_MAPS] = {0};
            for (int64_t bin = filters->first[mel]; bin < filters->last[mel]; bin += LANES, weights += LANES)
#pragma GCC unroll 7
                for (int64_t map = 0; map < num_maps; map++)
                    sums[map] += *(const Lanes *)weights * *(const Lanes *)(linear + map * filters->padded_bins + bin);
#pragma GCC unroll 7
            for (int64_t map = 0; map < num_maps; map++) parts[map][i] = sums[map];
        }
        for (int64_t map = 0; map < num_maps; map++) {
            const Lanes totals = sums_of_lanes(parts[map]);
            memcpy(maps + map * map_step + first, &totals, count * sizeof(float));
        }
    }
}

/* spectra (channels, frames, bins, 2) -> maps: a frame's mels lie together, frames one behind the other, maps
 * `map_step` floats apart. `linear`: zeros, (MAX_MAPS, padded_bins). */
void salm_feature_maps(const Filters *filters, const float *spectra, int64_t channels, int64_t frames, float *linear,
                       float *maps, int64_t map_step) {
    for (int64_t frame = 0; frame < frames; frame++, maps += filters->mels, spectra += filters->bins * 2) {
        const int64_t channel_step = frames * filters->bins * 2;
        if (channels == 1) {
            linear_maps(filters, spectra, channel_step, 1, linear);
            weigh(filters, 1, linear, maps, map_step);
        } else {
            linear_maps(filters, spectra, channel_step, MAX_CHANNELS, linear);
            weigh(filters, MAX_MAPS, linear, maps, map_step);
        }
    }
}
