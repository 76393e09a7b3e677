/* Linear layers with matrix products of integers. See swin_integer.c. */
#pragma once
#include "integer_vectors.h"
#include <string.h>

#define PANEL 16

/* Weights in panels of 16 outputs: (out / 16, in / GROUP, 16, GROUP). A sum is an output once it has been multiplied by
 * its row's scale and by `scale`, and `bias` added. */
typedef struct {
    const Weight *weight;
    const int32_t *start; /* of the sums */
    const float *scale, *bias;
    int64_t in, out;
} Linear;

/* What becomes of a layer's outputs. */
typedef enum { STORE, ADD, GELU } Purpose;

/* Sums to outputs of one row. */
INLINE void finish(Purpose purpose, const Linear *layer, Whole sums, float in_scale, float *out, int64_t column) {
    Floats scale = WIDE(mul_ps)(WIDE(set1_ps)(in_scale), WIDE(loadu_ps)(layer->scale + column));
    Floats value = WIDE(fmadd_ps)(WIDE(cvtepi32_ps)(sums), scale, WIDE(loadu_ps)(layer->bias + column));
    if (purpose == ADD) value = WIDE(add_ps)(value, WIDE(loadu_ps)(out + column));
    if (purpose == GELU) value = gelu(value);
    WIDE(storeu_ps)(out + column, value);
}

/* The instructions that multiply are assembly, since GCC spills sums where it may choose their order and registers. */
#if BITS == 8
#define TILE_ROWS 8
#define TILE_PANELS 3
#define MAX_PANELS 4 /* of fewer rows */

/* Adds to `sums` the products of a group of inputs of `rows` rows with `panels` panels of weights (constants). */
INLINE void multiply_group(int rows, int panels, const Input *in, int64_t in_step, const Weight *weight,
                           int64_t panel_step, __m512i (*sums)[MAX_PANELS]) {
    __m512i weights[MAX_PANELS];
#pragma GCC unroll 4
    for (int panel = 0; panel < panels; panel++) weights[panel] = _mm512_loadu_si512(weight + panel * panel_step);
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++) {
        int32_t group;
        memcpy(&group, in + row * in_step, sizeof group);
        __m512i inputs = _mm512_set1_epi32(group);
#pragma GCC unroll 4
        for (int panel = 0; panel < panels; panel++)
            __asm__("vpdpbusd %2, %1, %0" : "+v"(sums[row][panel]) : "v"(inputs), "v"(weights[panel]));
    }
}

/* The same of `count` inputs. `ahead`: a panel that is fetched meanwhile; where none is, fetching does no harm. */
INLINE void multiply_tile(int rows, int panels, const Input *in, int64_t in_step, const Weight *weight,
                          int64_t panel_step, int64_t count, const Weight *ahead, __m512i (*sums)[MAX_PANELS]) {
    for (int64_t k = 0; k < count; k += GROUP, weight += GROUP * PANEL) {
        _mm_prefetch((const char *)(ahead + k * PANEL), _MM_HINT_T0);
        multiply_group(rows, panels, in + k, in_step, weight, panel_step, sums);
    }
}

INLINE void linear_tile(int rows, int panels, Purpose purpose, const Linear *layer, const Input *in,
                        const float *in_scale, float *out, int64_t out_step, int64_t first, const Weight *ahead) {
    __m512i sums[TILE_ROWS][MAX_PANELS];
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 3
        for (int panel = 0; panel < panels; panel++)
            sums[row][panel] = _mm512_loadu_si512(layer->start + first + panel * PANEL);
    multiply_tile(rows, panels, in, layer->in, layer->weight + first * layer->in, PANEL * layer->in, layer->in, ahead,
                  sums);
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 3
        for (int panel = 0; panel < panels; panel++)
            finish(purpose, layer, sums[row][panel], in_scale[row], out + row * out_step, first + panel * PANEL);
}
#else
#define TILE_ROWS 6
#define TILE_PANELS 1

INLINE __m256i multiply_add(__m256i sum, __m256i input, __m256i weight) {
    __m256i product;
    __asm__ volatile("vpmaddwd %3, %2, %0\n\tvpaddd %0, %1, %1" : "=&x"(product), "+x"(sum) : "x"(input), "x"(weight));
    return sum;
}

INLINE void linear_tile(int rows, int panels, Purpose purpose, const Linear *layer, const Input *in,
                        const float *in_scale, float *out, int64_t out_step, int64_t first, const Weight *ahead) {
    (void)panels; /* one */
    (void)ahead;
    const Weight *weight = layer->weight + first * layer->in;
    __m256i sums[TILE_ROWS][2];
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < 2; half++)
            sums[row][half] = _mm256_loadu_si256((const __m256i *)(layer->start + first + half * LANES));
#pragma GCC unroll 4
    for (int64_t k = 0; k < layer->in; k += GROUP, weight += GROUP * PANEL) {
        _mm_prefetch((const char *)(weight + 512), _MM_HINT_T0);
        __m256i left = _mm256_loadu_si256((const __m256i *)weight);
        __m256i right = _mm256_loadu_si256((const __m256i *)(weight + PANEL));
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            int32_t group;
            memcpy(&group, in + row * layer->in + k, sizeof group);
            __m256i inputs = _mm256_set1_epi32(group);
            sums[row][0] = multiply_add(sums[row][0], inputs, left);
            sums[row][1] = multiply_add(sums[row][1], inputs, right);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < 2; half++)
            finish(purpose, layer, sums[row][half], in_scale[row], out + row * out_step, first + half * LANES);
}
#endif

/* A whole tile, apart from the others: GCC then finds registers for all sums, whatever is around it. */
typedef void WholeTile(const Linear *layer, const Input *in, const float *in_scale, float *out, int64_t out_step,
                       int64_t first, const Weight *ahead);
#define WHOLE_TILE(name, purpose)                                                                                      \
    __attribute__((noinline)) static void name(const Linear *layer, const Input *in, const float *in_scale,            \
                                               float *out, int64_t out_step, int64_t first, const Weight *ahead) {     \
        linear_tile(TILE_ROWS, TILE_PANELS, purpose, layer, in, in_scale, out, out_step, first, ahead);                \
    }
WHOLE_TILE(store_tile, STORE)
WHOLE_TILE(add_tile, ADD)
WHOLE_TILE(gelu_tile, GELU)
#undef WHOLE_TILE

/* in (rows, in) -> out (rows, out), whose rows are `out_step` apart. */
INLINE void linear_for(Purpose purpose, const Linear *layer, const Input *in, const float *in_scale, float *out,
                       int64_t out_step, int64_t rows) {
    WholeTile *const whole_tile = purpose == STORE ? store_tile : purpose == ADD ? add_tile : gelu_tile;
    for (int64_t first = 0, panels; first < layer->out; first += panels * PANEL) {
        const int64_t left = (layer->out - first) / PANEL;
        panels = left >= TILE_PANELS ? TILE_PANELS : left;
        if (TILE_PANELS > 1 && left == 4) panels = 2; /* twice, rather than 3 and 1 */
        const Weight *next = layer->weight + (first + panels * PANEL) * layer->in;
        int64_t row = 0;
#define AT_ROW                                                                                                         \
    in + row * layer->in, in_scale + row, out + row *out_step, out_step, first,                                        \
        next + row / TILE_ROWS % TILE_PANELS * PANEL * layer->in
#define TILES(count, tile)                                                                                             \
    for (; row + count <= rows; row += count) tile
#define PANELS(panels)                                                                                                 \
    TILES(TILE_ROWS, linear_tile(TILE_ROWS, panels, purpose, layer, AT_ROW));                                          \
    TILES(4, linear_tile(4, panels, purpose, layer, AT_ROW));                                                          \
    TILES(1, linear_tile(1, panels, purpose, layer, AT_ROW))
        if (panels == TILE_PANELS) TILES(TILE_ROWS, whole_tile(layer, AT_ROW));
        if (panels == 1) {
            PANELS(1);
        }
#if TILE_PANELS > 1
        else if (panels == 2) {
            PANELS(2);
        } else {
            PANELS(3);
        }
#endif
#undef AT_ROW
#undef TILES
#undef PANELS
    }
}

static void linear(Purpose purpose, const Linear *layer, const Input *in, const float *in_scale, float *out,
                   int64_t out_step, int64_t rows) {
    if (purpose == STORE) linear_for(STORE, layer, in, in_scale, out, out_step, rows);
    if (purpose == ADD) linear_for(ADD, layer, in, in_scale, out, out_step, rows);
    if (purpose == GELU) linear_for(GELU, layer, in, in_scale, out, out_step, rows);
}

/* The layer that gives `count` of a layer's outputs, from the `first` on. */
static Linear columns_of(const Linear *layer, int64_t first, int64_t count) {
    Linear part = *layer;
    part.weight += first * layer->in;
    part.start += first;
    part.scale += first;
    part.bias += first;
    part.out = count;
    return part;
}
