/* Convolutions of maps with 8-bit integers, for x86-64 with AVX-512 VNNI.
 *
 * `salm.models.integer_convolution` compiles this file with -DBITS=8 and has `Convolution` once more. Maps have their
 * channels last: (lines, columns, channels). Rounded maps are 0 to 255, without the 128 of `Input`, since what comes
 * from a rectifier has no sign; they have a border of zeros, one wide. A kernel's line of a pixel, `kernel` columns of
 * all channels, then lies in one piece, and so does the next pixel's, `in` further on.
 */
#include "../threads.h"
#include "integer_linear.h"
#include <stdatomic.h>

#define BORDER 1

/* A convolution of 1 x 1 or 3 x 3, `in` a multiple of 4. */
typedef struct {
    const Weight *weight; /* in panels of 16 outputs: (panels, kernel lines, kernel columns * in / 4, 16, 4) */
    const float *scale;   /* (16 panels) */
    int64_t kernel, in, out;
} Convolution;

typedef enum { PLAIN, RECTIFIED, ADDED } Result; /* ADDED to what is there, then rectified */

typedef struct {
    Items items; /* lines */
    const Convolution *layer;
    const float *bias; /* (16 panels) */
    const uint8_t *in;
    float *out;
    float scale; /* what an integer of `in` is worth */
    int64_t columns;
} Maps;

/* `rows` neighbouring pixels (a constant) of `panels` panels (a constant) of outputs from `first` on. */
INLINE void convolve_tile(int rows, int panels, Result result, const Maps *maps, const uint8_t *in, float *out,
                          int64_t first) {
    const Convolution *layer = maps->layer;
    const int64_t count = layer->kernel * layer->in, panel_step = PANEL * layer->kernel * count;
    const int64_t line_step = (maps->columns + 2 * BORDER) * layer->in;
    const Weight *weight = layer->weight + first / PANEL * panel_step;
    __m512i sums[TILE_ROWS][MAX_PANELS];
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 3
        for (int panel = 0; panel < panels; panel++) sums[row][panel] = _mm512_setzero_si512();
    for (int64_t line = 0; line < layer->kernel; line++, weight += PANEL * count)
        multiply_tile(rows, panels, in + line * line_step, layer->in, weight, panel_step, count, weight + PANEL * count,
                      sums);
#pragma GCC unroll 3
    for (int panel = 0; panel < panels; panel++) {
        const int64_t column = first + panel * PANEL, left = layer->out - column;
        const __mmask16 kept = left < PANEL ? (1 << left) - 1 : 0xffff;
        const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(maps->scale), _mm512_loadu_ps(layer->scale + column));
        const __m512 bias = _mm512_loadu_ps(maps->bias + column);
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            float *at = out + row * layer->out + column;
            __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row][panel]), scale, bias);
            if (result == ADDED) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(kept, at));
            if (result != PLAIN) value = _mm512_max_ps(value, _mm512_setzero_ps());
            _mm512_mask_storeu_ps(at, kept, value);
        }
    }
}

INLINE void convolve_columns(int panels, Result result, const Maps *maps, const uint8_t *in, float *out,
                             int64_t first) {
    const Convolution *layer = maps->layer;
    int64_t column = 0;
    for (; column + TILE_ROWS <= maps->columns; column += TILE_ROWS)
        convolve_tile(TILE_ROWS, panels, result, maps, in + column * layer->in, out + column * layer->out, first);
    for (; column < maps->columns; column++)
        convolve_tile(1, panels, result, maps, in + column * layer->in, out + column * layer->out, first);
}

INLINE void convolve_lines(Result result, Maps *maps) {
    const Convolution *layer = maps->layer;
    const int64_t line_step = (maps->columns + 2 * BORDER) * layer->in, around = layer->kernel / 2;
    for (int64_t line; (line = maps->items.next++) < maps->items.count;) {
        /* The kernel's first pixel, in a map with a border. */
        const uint8_t *in = maps->in + (line + BORDER - around) * line_step + (BORDER - around) * layer->in;
        float *out = maps->out + line * maps->columns * layer->out;
        for (int64_t first = 0, panels; first < layer->out; first += panels * PANEL) {
            const int64_t left = (layer->out - first + PANEL - 1) / PANEL;
            panels = left == 4 ? 2 : left < TILE_PANELS ? left : TILE_PANELS; /* 4: twice 2, rather than 3 and 1 */
            if (panels == 1) convolve_columns(1, result, maps, in, out, first);
            if (panels == 2) convolve_columns(2, result, maps, in, out, first);
            if (panels == 3) convolve_columns(3, result, maps, in, out, first);
        }
    }
}

static void run_plain(void *maps) { convolve_lines(PLAIN, maps); }
static void run_rectified(void *maps) { convolve_lines(RECTIFIED, maps); }
static void run_added(void *maps) { convolve_lines(ADDED, maps); }

/* in: rounded map (lines + 2, columns + 2, layer->in), worth `scale` each -> out (lines, columns, layer->out). */
void salm_convolve(const Convolution *layer, const float *bias, int result, const uint8_t *in, float scale, float *out,
                   int64_t lines, int64_t columns, Parallel parallel, int threads) {
    Maps maps = {
        .items.count = lines, .layer = layer, .bias = bias, .in = in, .out = out, .scale = scale, .columns = columns};
    share_out(result == PLAIN       ? run_plain
              : result == RECTIFIED ? run_rectified
                                    : run_added,
              &maps, &maps.items, parallel, threads);
}

/* Mean of the 2 x 2 neighbours of which `at` is the first, or `at` alone; LANES channels. */
INLINE __m256 pooled(int halve, const float *at, int64_t column_step, int64_t line_step) {
    __m256 value = _mm256_loadu_ps(at);
    if (!halve) return value;
    value = _mm256_add_ps(value, _mm256_loadu_ps(at + column_step));
    value = _mm256_add_ps(value, _mm256_loadu_ps(at + line_step));
    value = _mm256_add_ps(value, _mm256_loadu_ps(at + line_step + column_step));
    return _mm256_mul_ps(value, _mm256_set1_ps(0.25f));
}

typedef struct {
    Items items; /* lines of `out` */
    const float *in;
    uint8_t *out;
    int64_t columns, channels; /* of `out` */
    float factor;
    _Atomic uint32_t largest; /* bits of a float that is not negative: they are in the same order */
    _Atomic int64_t *totals;  /* (channels) */
} Rounding;

INLINE void find_largest(int halve, Rounding *work) {
    const int64_t channels = work->channels, side = halve ? 2 : 1, line_step = side * work->columns * channels;
    __m256 largest = _mm256_setzero_ps();
    for (int64_t line; (line = work->items.next++) < work->items.count;) {
        const float *in = work->in + side * line * line_step;
        for (int64_t column = 0; column < work->columns; column++, in += side * channels)
            for (int64_t i = 0; i < channels; i += LANES)
                largest = _mm256_max_ps(largest, pooled(halve, in + i, channels, line_step));
    }
    float own = _mm_cvtss_f32(largest_of((__m256[]){largest, largest, largest, largest}));
    uint32_t bits, before = work->largest;
    memcpy(&bits, &own, sizeof bits);
    while (before < bits && !atomic_compare_exchange_weak(&work->largest, &before, bits)) {
    }
}

INLINE void round_lines(int halve, Rounding *work) {
    const int64_t channels = work->channels, side = halve ? 2 : 1, line_step = side * work->columns * channels;
    const __m256 factor = _mm256_set1_ps(work->factor);
    for (int64_t line; (line = work->items.next++) < work->items.count;) {
        const float *in = work->in + side * line * line_step;
        uint8_t *out = work->out + ((line + BORDER) * (work->columns + 2 * BORDER) + BORDER) * channels;
        int32_t totals[channels];
        memset(totals, 0, sizeof totals);
        for (int64_t column = 0; column < work->columns; column++, in += side * channels)
            for (int64_t i = 0; i < channels; i += LANES, out += LANES) {
                __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(pooled(halve, in + i, channels, line_step), factor));
                __m256i *total = (__m256i *)(totals + i);
                _mm256_storeu_si256(total, _mm256_add_epi32(_mm256_loadu_si256(total), whole));
                _mm_storel_epi64((__m128i *)out, _mm256_cvtepi32_epi8(whole));
            }
        for (int64_t i = 0; i < channels; i++) work->totals[i] += totals[i];
    }
}

static void run_largest(void *work) { find_largest(0, work); }
static void run_largest_halved(void *work) { find_largest(1, work); }
static void run_round(void *work) { round_lines(0, work); }
static void run_round_halved(void *work) { round_lines(1, work); }

/* in (lines, columns, channels), not negative -> out: (lines + 2, columns + 2, channels), whose border is zero already.
 * Gives what an integer is worth. `halve`: lines and columns of `in`, twice those of `out`, are averaged in pairs.
 * totals: of each channel's integers, zeros before. channels: a multiple of 8. */
float salm_round_map(const float *in, int halve, uint8_t *out, int64_t *totals, int64_t lines, int64_t columns,
                     int64_t channels, Parallel parallel, int threads) {
    Rounding work = {.items.count = lines,
                     .in = in,
                     .out = out,
                     .columns = columns,
                     .channels = channels,
                     .totals = (_Atomic int64_t *)totals};
    share_out(halve ? run_largest_halved : run_largest, &work, &work.items, parallel, threads);
    const uint32_t bits = work.largest;
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    work.factor = largest > 0.0f ? LARGEST_POSITIVE / largest : 0.0f;
    work.items.next = 0;
    share_out(halve ? run_round_halved : run_round, &work, &work.items, parallel, threads);
    return largest / LARGEST_POSITIVE;
}
