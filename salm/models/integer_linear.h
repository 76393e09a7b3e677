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

/* What becomes of a layer's outputs. WEIGH is STORE for keys and values, whose weights are up to LARGEST_WEIGHT. */
typedef enum { STORE, ADD, GELU, WEIGH = BITS == 8 && !VNNI ? GELU + 1 : STORE } Purpose;

/* Sums to outputs of one row. */
INLINE void finish(Purpose purpose, const Linear *layer, Whole sums, float in_scale, float *out, int64_t column) {
    Floats scale = WIDE(mul_ps)(WIDE(set1_ps)(in_scale), WIDE(loadu_ps)(layer->scale + column));
    Floats value = WIDE(fmadd_ps)(WIDE(cvtepi32_ps)(sums), scale, WIDE(loadu_ps)(layer->bias + column));
    if (purpose == ADD) value = WIDE(add_ps)(value, WIDE(loadu_ps)(out + column));
    if (purpose == GELU) value = gelu(value);
    WIDE(storeu_ps)(out + column, value);
}

#define VECTORS (PANEL / WIDE_LANES) /* of a panel's sums */

#if VNNI
#define TILE_ROWS 8
#define TILE_PANELS 3
#define MAX_PANELS 4 /* of fewer rows */
#elif BITS == 8
#define TILE_ROWS 4
#else
#define TILE_ROWS 6
#endif
#if !VNNI
#define TILE_PANELS 1
#define MAX_PANELS TILE_PANELS
#endif
typedef Whole Sums[MAX_PANELS * VECTORS]; /* of a row */

/* multiply_tile adds to `sums` the products of `count` inputs of `rows` rows, `in_step` apart, with `panels` panels of
 * weights, `panel_step` apart (rows and panels are constants). `ahead`: a panel that is fetched meanwhile; where none is,
 * fetching does no harm. `together`: of how many groups the sums may meet in 16 bits without VNNI, 1 or 2. */
#if VNNI
/* The same of a group. The instructions that multiply are assembly, since GCC spills sums where it may choose their order
 * and registers. */
INLINE void multiply_group(int rows, int panels, const Input *in, int64_t in_step, const Weight *weight,
                           int64_t panel_step, Sums *sums) {
    Whole weights[MAX_PANELS];
#pragma GCC unroll 4
    for (int panel = 0; panel < panels; panel++) weights[panel] = _mm512_loadu_si512(weight + panel * panel_step);
    const Input *upper = in + 4 * in_step;
    __asm__("" : "+r"(in), "+r"(upper)); /* GCC would keep a pointer for each row, and has not so many registers */
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++) {
        int32_t group;
        memcpy(&group, (row < 4 ? in : upper) + row % 4 * in_step, sizeof group);
        Whole inputs = _mm512_set1_epi32(group);
#pragma GCC unroll 4
        for (int panel = 0; panel < panels; panel++)
            __asm__("vpdpbusd %2, %1, %0" : "+v"(sums[row][panel]) : "v"(inputs), "v"(weights[panel]));
    }
}

INLINE void multiply_tile(int rows, int panels, int together, const Input *in, int64_t in_step, const Weight *weight,
                          int64_t panel_step, int64_t count, const Weight *ahead, Sums *sums) {
    (void)together;
    for (int64_t k = 0; k < count; k += GROUP, weight += GROUP * PANEL) {
        _mm_prefetch((const char *)(ahead + k * PANEL), _MM_HINT_T0);
        multiply_group(rows, panels, in + k, in_step, weight, panel_step, sums);
    }
}
#elif BITS == 8
INLINE void multiply_tile(int rows, int panels, int together, const Input *in, int64_t in_step, const Weight *weight,
                          int64_t panel_step, int64_t count, const Weight *ahead, Sums *sums) {
    (void)panels, (void)panel_step; /* one */
    for (int64_t k = 0; k < count; k += together * GROUP) {
        Whole weights[2][VECTORS];
        for (int i = 0; i < together; i++, weight += GROUP * PANEL) {
            _mm_prefetch((const char *)(ahead + (k + i * GROUP) * PANEL), _MM_HINT_T0);
            for (int half = 0; half < VECTORS; half++)
                weights[i][half] = _mm256_loadu_si256((const Whole *)(weight + half * GROUP * LANES));
        }
#pragma GCC unroll 4
        for (int row = 0; row < rows; row++) {
            const float *groups = (const float *)(in + row * in_step + k); /* GCC would load two integers at a time */
            const Whole inputs = (Whole)_mm256_broadcast_ss(groups);
            const Whole others = together == 2 ? (Whole)_mm256_broadcast_ss(groups + 1) : inputs;
            for (int half = 0; half < VECTORS; half++) {
                Whole pairs = _mm256_maddubs_epi16(inputs, weights[0][half]);
                if (together == 2) pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(others, weights[1][half]));
                sums[row][half] = _mm256_add_epi32(sums[row][half], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
        }
    }
}
#else
INLINE Whole multiply_add(Whole sum, Whole input, Whole weight) {
    Whole product;
    __asm__ volatile("vpmaddwd %3, %2, %0\n\tvpaddd %0, %1, %1" : "=&x"(product), "+x"(sum) : "x"(input), "x"(weight));
    return sum;
}

INLINE void multiply_tile(int rows, int panels, int together, const Input *in, int64_t in_step, const Weight *weight,
                          int64_t panel_step, int64_t count, const Weight *ahead, Sums *sums) {
    (void)panels, (void)panel_step, (void)together, (void)ahead;
#pragma GCC unroll 4
    for (int64_t k = 0; k < count; k += GROUP, weight += GROUP * PANEL) {
        _mm_prefetch((const char *)(weight + 512), _MM_HINT_T0);
        Whole left = _mm256_loadu_si256((const Whole *)weight);
        Whole right = _mm256_loadu_si256((const Whole *)(weight + PANEL));
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            int32_t group;
            memcpy(&group, in + row * in_step + k, sizeof group);
            Whole inputs = _mm256_set1_epi32(group);
            sums[row][0] = multiply_add(sums[row][0], inputs, left);
            sums[row][1] = multiply_add(sums[row][1], inputs, right);
        }
    }
}
#endif

INLINE void linear_tile(int rows, int panels, Purpose purpose, const Linear *layer, const Input *in,
                        const float *in_scale, float *out, int64_t out_step, int64_t first, const Weight *ahead) {
    Sums sums[TILE_ROWS];
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 3
        for (int i = 0; i < panels * VECTORS; i++) sums[row][i] = load_whole(layer->start + first + i * WIDE_LANES);
    multiply_tile(rows, panels, purpose == WEIGH ? 1 : 2, in, layer->in, layer->weight + first * layer->in,
                  PANEL * layer->in, layer->in, ahead, sums);
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 3
        for (int i = 0; i < panels * VECTORS; i++)
            finish(purpose, layer, sums[row][i], in_scale[row], out + row * out_step, first + i * WIDE_LANES);
}

/* A whole tile, apart from the others: GCC then finds registers for all sums, whatever is around it. */
typedef void WholeTile(const Linear *layer, const Input *in, const float *in_scale, float *out, int64_t out_step,
                       int64_t first, const Weight *ahead);
#define WHOLE_TILE(name, purpose)                                                                                      \
    __attribute__((noinline)) static void name(const Linear *layer, const Input *in, const float *in_scale,            \
                                               float *out, int64_t out_step, int64_t first, const Weight *ahead) {     \
        linear_tile(TILE_ROWS, TILE_PANELS, purpose, layer, in, in_scale, out, out_step, first, ahead);                \
    }
WHOLE_TILE(store_tile, STORE)
WHOLE_TILE(weigh_tile, WEIGH)
WHOLE_TILE(add_tile, ADD)
WHOLE_TILE(gelu_tile, GELU)
#undef WHOLE_TILE

/* Of how many panels the next tile is where so many are left. */
INLINE int64_t panels_of(int64_t left) {
    if (TILE_PANELS > 1 && left == 4) return 2; /* twice, rather than 3 and 1 */
    return left >= TILE_PANELS ? TILE_PANELS : left;
}

/* in (rows, in) -> out (rows, out), whose rows are `out_step` apart. */
INLINE void linear_for(Purpose purpose, const Linear *layer, const Input *in, const float *in_scale, float *out,
                       int64_t out_step, int64_t rows) {
    WholeTile *const whole_tile = purpose == STORE   ? store_tile
                                  : purpose == WEIGH ? weigh_tile
                                  : purpose == ADD   ? add_tile
                                                     : gelu_tile;
    for (int64_t first = 0, panels; first < layer->out; first += panels * PANEL) {
        panels = panels_of((layer->out - first) / PANEL);
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
    if (purpose == STORE)
        linear_for(STORE, layer, in, in_scale, out, out_step, rows);
    else if (purpose == WEIGH)
        linear_for(WEIGH, layer, in, in_scale, out, out_step, rows);
    else if (purpose == ADD)
        linear_for(ADD, layer, in, in_scale, out, out_step, rows);
    else
        linear_for(GELU, layer, in, in_scale, out, out_step, rows);
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
