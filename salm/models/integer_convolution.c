/* Convolutions of maps with 8-bit integers, for x86-64 with AVX2 or AVX-512 VNNI.
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

/* A convolution of 1 x 1 or 3 x 3, `in` and `out` multiples of 8. */
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

/* The first `left` floats of a vector, a multiple of LANES, or all of them. */
#if VNNI
INLINE __mmask16 some(int64_t left) { return left < WIDE_LANES ? (1 << left) - 1 : 0xffff; }
INLINE Floats load_some(const float *at, int64_t left) { return _mm512_maskz_loadu_ps(some(left), at); }
INLINE void store_some(float *at, Floats value, int64_t left) { _mm512_mask_storeu_ps(at, some(left), value); }
#else
INLINE Floats load_some(const float *at, int64_t left) { return (void)left, _mm256_loadu_ps(at); }
INLINE void store_some(float *at, Floats value, int64_t left) { (void)left, _mm256_storeu_ps(at, value); }
#endif

/* `rows` neighbouring pixels (a constant) of `panels` panels (a constant) of outputs from `first` on. */
INLINE void convolve_tile(int rows, int panels, Result result, const Maps *maps, const uint8_t *in, float *out,
                          int64_t first) {
    const Convolution *layer = maps->layer;
    const int64_t count = layer->kernel * layer->in, panel_step = PANEL * layer->kernel * count;
    const int64_t line_step = (maps->columns + 2 * BORDER) * layer->in;
    const Weight *weight = layer->weight + first / PANEL * panel_step;
    Sums sums[TILE_ROWS];
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 3
        for (int i = 0; i < panels * VECTORS; i++) sums[row][i] = (Whole)WIDE(setzero_ps)();
    for (int64_t line = 0; line < layer->kernel; line++, weight += PANEL * count)
        multiply_tile(rows, panels, 2, in + line * line_step, layer->in, weight, panel_step, count,
                      weight + PANEL * count, sums);
#pragma GCC unroll 3
    for (int i = 0; i < panels * VECTORS; i++) {
        const int64_t column = first + i * WIDE_LANES, left = layer->out - column;
        if (left <= 0) break;
        const Floats scale = WIDE(mul_ps)(WIDE(set1_ps)(maps->scale), WIDE(loadu_ps)(layer->scale + column));
        const Floats bias = WIDE(loadu_ps)(maps->bias + column);
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            float *at = out + row * layer->out + column;
            Floats value = WIDE(fmadd_ps)(WIDE(cvtepi32_ps)(sums[row][i]), scale, bias);
            if (result == ADDED) value = WIDE(add_ps)(value, load_some(at, left));
            if (result != PLAIN) value = WIDE(max_ps)(value, WIDE(setzero_ps)());
            store_some(at, value, left);
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
            panels = panels_of(left);
            if (panels == 1) convolve_columns(1, result, maps, in, out, first);
#if TILE_PANELS > 1
            if (panels == 2) convolve_columns(2, result, maps, in, out, first);
            if (panels == 3) convolve_columns(3, result, maps, in, out, first);
#endif
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
                store_inputs(whole, out);
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
