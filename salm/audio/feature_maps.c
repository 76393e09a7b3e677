/* Feature maps of samples: of each frame its spectra, their power and the unit intensity vector, the sums of these over
 * the bands of mel filters, and of powers the decibels.
 *
 * For x86-64 with AVX2. `salm.audio.compiled_features` compiles this file, has `Features` once more and makes what it
 * points to; `salm.audio.features` has the same maps in torch. Eight frames go through all steps together, one in each
 * lane of a vector, and stay in their core's cache.
 */
#include "../threads.h"
#include "../vectors.h"
#include <stdlib.h>
#include <string.h>

#define MAX_CHANNELS 4
#define MAX_MAPS 7

typedef __m256 Lanes;
typedef struct {
    Lanes re, im;
} Complex;

/* The transform has `size` = fft / 2 complex numbers, of which pass i makes parts of 1 / `radices[i]`. */
typedef struct {
    const float *window;    /* (fft), halved */
    const int64_t *radices; /* (passes): 8, the last one 2, 4 or 8 */
    const float *twiddles;  /* pass by pass (size / radices, radix - 1, 2) */
    const int64_t *places;  /* (size + 1): where the passes leave each bin */
    const float *turns;     /* (size / 2 + 1, 2): e^(-2 pi i k / fft) */
    const float *weights;   /* mel filter m weighs bins `first[m]` to `last[m]` by `weights` from `start[m]` on */
    const int64_t *first, *last, *start;
    int64_t size, passes, hop, mels;
    float power_floor, intensity_floor;
} Features;

INLINE Complex add(Complex left, Complex right) { return (Complex){left.re + right.re, left.im + right.im}; }
INLINE Complex subtract(Complex left, Complex right) { return (Complex){left.re - right.re, left.im - right.im}; }
INLINE Complex turn_back(Complex z) { return (Complex){z.im, -z.re}; } /* times -i */

INLINE Complex multiply(Complex z, const float *by) {
    const Lanes re = _mm256_broadcast_ss(by), im = _mm256_broadcast_ss(by + 1);
    return (Complex){_mm256_fmsub_ps(z.re, re, z.im * im), _mm256_fmadd_ps(z.re, im, z.im * re)};
}

/* Fourier transforms of 2, 4 and 8 numbers, in place. */
INLINE void transform_2(Complex *z) {
    const Complex first = z[0], second = z[1];
    z[0] = add(first, second);
    z[1] = subtract(first, second);
}

INLINE void transform_4(Complex *z) {
    Complex even[2] = {z[0], z[2]}, odd[2] = {z[1], z[3]};
    transform_2(even);
    transform_2(odd);
    odd[1] = turn_back(odd[1]);
    for (int k = 0; k < 2; k++) {
        z[k] = add(even[k], odd[k]);
        z[k + 2] = subtract(even[k], odd[k]);
    }
}

INLINE void transform_8(Complex *z) {
    const Lanes half = _mm256_set1_ps(0.70710678f);
    Complex even[4] = {z[0], z[2], z[4], z[6]}, odd[4] = {z[1], z[3], z[5], z[7]};
    transform_4(even);
    transform_4(odd);
    odd[1] = (Complex){(odd[1].re + odd[1].im) * half, (odd[1].im - odd[1].re) * half};
    odd[2] = turn_back(odd[2]);
    odd[3] = (Complex){(odd[3].im - odd[3].re) * half, (odd[3].re + odd[3].im) * -half};
    for (int k = 0; k < 4; k++) {
        z[k] = add(even[k], odd[k]);
        z[k + 4] = subtract(even[k], odd[k]);
    }
}

/* One pass over all blocks of `block` numbers, decimating in frequency. */
INLINE void pass(int radix, Complex *data, int64_t size, int64_t block, const float *twiddles) {
    const int64_t part = block / radix;
    for (int64_t start = 0; start < size; start += block)
        for (int64_t i = 0; i < part; i++) {
            Complex z[8], *at = data + start + i;
#pragma GCC unroll 8
            for (int k = 0; k < radix; k++) z[k] = at[k * part];
            if (radix == 8) transform_8(z);
            if (radix == 4) transform_4(z);
            if (radix == 2) transform_2(z);
            at[0] = z[0];
#pragma GCC unroll 8
            for (int k = 1; k < radix; k++)
                at[k * part] = part > 1 ? multiply(z[k], twiddles + (i * (radix - 1) + k - 1) * 2) : z[k];
        }
}

static void transform(const Features *features, Complex *data) {
    const float *twiddles = features->twiddles;
    int64_t block = features->size;
    for (int64_t i = 0; i < features->passes; i++) {
        const int64_t radix = features->radices[i];
        if (radix == 8 && block > 8) pass(8, data, features->size, block, twiddles);
        if (radix == 8 && block == 8) pass(8, data, features->size, 8, twiddles);
        if (radix == 4) pass(4, data, features->size, 4, twiddles);
        if (radix == 2) pass(2, data, features->size, 2, twiddles);
        twiddles += block / radix * (radix - 1) * 2;
        block /= radix;
    }
}

typedef struct {
    Items items; /* LANES frames each */
    const Features *features;
    const float *samples; /* (channels, length) */
    float *maps;
    int64_t length, frames, map_step;
} Clip;

/* The samples around the `number`th multiple of the hop, reflected at both ends of the clip: where they are, or `copy`. */
INLINE const float *find_frame(const Clip *clip, const float *samples, int64_t number, float *copy) {
    const int64_t half = clip->features->size, start = number * clip->features->hop - half;
    if (start >= 0 && start + 2 * half <= clip->length) return samples + start;
    for (int64_t i = 0; i < 2 * half; i++) {
        const int64_t place = start + i < 0 ? -start - i : start + i;
        copy[i] = samples[place < clip->length ? place : 2 * (clip->length - 1) - place];
    }
    return copy;
}

/* LANES frames, those after the clip's last being the last again, through the window: data (2 size), even and odd
 * samples as real and imaginary parts. `copies`: memory for the frames. */
INLINE void take_frames(const Clip *clip, const float *samples, int64_t first, float *copies, Lanes *data) {
    const Features *features = clip->features;
    const float *frames[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        const int64_t number = first + lane < clip->frames ? first + lane : clip->frames - 1;
        frames[lane] = find_frame(clip, samples, number, copies + lane * 2 * features->size);
    }
    for (int64_t i = 0; i < 2 * features->size; i += LANES) {
        Lanes rows[LANES], window = _mm256_loadu_ps(features->window + i);
#pragma GCC unroll 8
        for (int lane = 0; lane < LANES; lane++) rows[lane] = _mm256_loadu_ps(frames[lane] + i) * window;
        transpose(rows);
#pragma GCC unroll 8
        for (int lane = 0; lane < LANES; lane++) data[i + lane] = rows[lane];
    }
}

/* Bins k and size - k of a real signal's spectrum, from the transform of its even and odd samples. */
INLINE void split(const Features *features, const Complex *data, int64_t k, Complex *low, Complex *high) {
    const Complex z = data[features->places[k]], mirrored = data[features->places[features->size - k]];
    const Complex even = {z.re + mirrored.re, z.im - mirrored.im}, odd = {z.im + mirrored.im, mirrored.re - z.re};
    const Complex turned = multiply(odd, features->turns + 2 * k);
    *low = add(even, turned);
    *high = (Complex){even.re - turned.re, turned.im - even.im};
}

/* One bin's linear maps, `step` apart, from its spectra (channels). */
INLINE void bin_maps(int channels, float intensity_floor, const Complex *spectra, Lanes *linear, int64_t step) {
    for (int channel = 0; channel < channels; channel++)
        linear[channel * step] = spectra[channel].re * spectra[channel].re + spectra[channel].im * spectra[channel].im;
    if (channels == 1) return;
    Lanes intensity[3], square = _mm256_setzero_ps();
    for (int axis = 0; axis < 3; axis++) {
        intensity[axis] = spectra[0].re * spectra[axis + 1].re + spectra[0].im * spectra[axis + 1].im;
        square += intensity[axis] * intensity[axis];
    }
    const Lanes length = _mm256_sqrt_ps(square) + _mm256_set1_ps(intensity_floor);
    const Lanes factor = _mm256_set1_ps(1.0f) / length;
    for (int axis = 0; axis < 3; axis++) linear[(MAX_CHANNELS + axis) * step] = intensity[axis] * factor;
}

/* 10 log10 of a power, `floor` at least; of a NaN a NaN. The power is m 2^e with 1 <= 2 m^2 < 4, and ln m a series in
 * (m - 1) / (m + 1), good to 1e-8. */
INLINE Lanes decibels(Lanes power, float floor) {
    power = _mm256_max_ps(_mm256_set1_ps(floor), power);
    const __m256i bits = _mm256_castps_si256(power);
    const __m256i e = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23); /* 1 / sqrt 2 */
    const Lanes m = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(e, 23))), one = _mm256_set1_ps(1.0f);
    const Lanes s = (m - one) / (m + one), square = s * s;
    Lanes series = _mm256_set1_ps(2.0f / 9.0f);
    series = _mm256_fmadd_ps(series, square, _mm256_set1_ps(2.0f / 7.0f));
    series = _mm256_fmadd_ps(series, square, _mm256_set1_ps(2.0f / 5.0f));
    series = _mm256_fmadd_ps(series, square, _mm256_set1_ps(2.0f / 3.0f));
    series = _mm256_fmadd_ps(series, square, _mm256_set1_ps(2.0f));
    const Lanes of_m = series * s * _mm256_set1_ps(4.34294482f); /* 10 / ln 10 */
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(e), _mm256_set1_ps(3.01029996f), of_m) + (power - power);
}

/* Linear maps (num_maps, size + 1), of which the first `channels` are powers, to maps: mels of `count` frames, one frame
 * behind the other. */
INLINE void weigh(int channels, int num_maps, const Features *features, const Lanes *linear, float *maps,
                  int64_t map_step, int64_t count) {
    for (int64_t first = 0; first < features->mels; first += LANES) {
        const int64_t mels = features->mels - first < LANES ? features->mels - first : LANES;
        Lanes sums[MAX_MAPS][LANES];
        memset(sums, 0, sizeof sums);
        for (int64_t i = 0; i < mels; i++) {
            const int64_t start = features->first[first + i], end = features->last[first + i];
            const float *weights = features->weights + features->start[first + i];
            Lanes total[MAX_MAPS];
#pragma GCC unroll 7
            for (int map = 0; map < num_maps; map++) total[map] = _mm256_setzero_ps();
            for (int64_t bin = start; bin < end; bin++) {
                const Lanes weight = _mm256_broadcast_ss(weights + bin - start);
#pragma GCC unroll 7
                for (int map = 0; map < num_maps; map++)
                    total[map] = _mm256_fmadd_ps(weight, linear[map * (features->size + 1) + bin], total[map]);
            }
#pragma GCC unroll 7
            for (int map = 0; map < num_maps; map++)
                sums[map][i] = map < channels ? decibels(total[map], features->power_floor) : total[map];
        }
        for (int map = 0; map < num_maps; map++) {
            transpose(sums[map]);
            for (int64_t frame = 0; frame < count; frame++)
                memcpy(maps + map * map_step + frame * features->mels + first, sums[map] + frame, mels * sizeof(float));
        }
    }
}

INLINE void run(Clip *clip, int channels) {
    const Features *features = clip->features;
    const int64_t size = features->size, num_maps = channels == 1 ? 1 : MAX_MAPS;
    const int64_t bytes = (channels + 1) * size * sizeof(Complex) + num_maps * (size + 1) * sizeof(Lanes);
    Complex *data = aligned_alloc(sizeof(Complex), (bytes / sizeof(Complex) + 1) * sizeof(Complex));
    float *copies = (float *)(data + channels * size);
    Lanes *linear = (Lanes *)(data + (channels + 1) * size);
    if (data == NULL) {
        clip->items.failed = 1;
        return;
    }
    for (int64_t item; (item = clip->items.next++) < clip->items.count;) {
        const int64_t first = item * LANES, left = clip->frames - first;
        for (int64_t channel = 0; channel < channels; channel++) {
            Complex *own = data + channel * size;
            take_frames(clip, clip->samples + channel * clip->length, first, copies, (Lanes *)own);
            transform(features, own);
        }
        for (int64_t k = 0; k <= size / 2; k++) {
            Complex low[MAX_CHANNELS], high[MAX_CHANNELS];
            for (int channel = 0; channel < channels; channel++)
                split(features, data + channel * size, k, low + channel, high + channel);
            bin_maps(channels, features->intensity_floor, low, linear + k, size + 1);
            bin_maps(channels, features->intensity_floor, high, linear + size - k, size + 1);
        }
        weigh(channels, num_maps, features, linear, clip->maps + first * features->mels, clip->map_step,
              left < LANES ? left : LANES);
    }
    free(data);
}

static void run_mono(void *clip) { run(clip, 1); }
static void run_foa(void *clip) { run(clip, MAX_CHANNELS); }

/* samples (channels, length), longer than half a frame -> maps, `map_step` apart: the mels of a frame lie together,
 * frames one behind the other. 0 without memory. */
int salm_feature_maps(const Features *features, const float *samples, int64_t channels, int64_t length, float *maps,
                      int64_t map_step, Parallel parallel, int threads) {
    const int64_t frames = length / features->hop + 1;
    Clip clip = {.items.count = (frames + LANES - 1) / LANES,
                 .features = features,
                 .samples = samples,
                 .maps = maps,
                 .length = length,
                 .frames = frames,
                 .map_step = map_step};
    return share_out(channels == 1 ? run_mono : run_foa, &clip, &clip.items, parallel, threads);
}
