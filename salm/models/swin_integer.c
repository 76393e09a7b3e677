/* Blocks and patch merging of a Swin transformer with matrix products of integers, for x86-64.
 *
 * Compiled with -DBITS=16 for processors with AVX2 and FMA, with -DBITS=8 for those with AVX-512 VNNI as well.
 * `salm.models.integer` compiles this file, lays the weights out as it expects them, and has the structures below once
 * more. One window after the other goes through a whole block, so that it stays in its core's cache.
 *
 * A linear layer's inputs are scaled row by row, to 8 bits or to 13, its weights output by output such that no sum can
 * leave 32 bits (see `salm.models.integer`). Products of four are summed by VPDPBUSD, of which one factor has no sign:
 * 128 is added to each input, and taken off again where the sums start. Products of two 16-bit numbers are summed by
 * VPMADDWD, twice as many per cycle as FMA has. Attention is two such layers, whose weights are the keys and the values.
 * All else is float32: norms, softmax, GELU and residual sums.
 *
 * Counts: `in`, `out`, `head_width` and `tokens` are multiples of 8, 16, 8 and 16.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 8
#define PANEL 16
#define ROWS 4 /* that go through a norm or a softmax together, since sums along one wait for each other */
#if BITS == 8
typedef uint8_t Input; /* 128 and a number */
typedef int8_t Weight;
#define GROUP 4 /* factors that one instruction sums */
typedef __m512 Floats; /* outputs that are finished together */
typedef __m512i Whole;
#define WIDE(operation) _mm512_##operation
#define WIDE_LANES 16
#define WIDE_MAX _mm512_reduce_max_ps
#define WIDE_SUM _mm512_reduce_add_ps
#define LARGEST 127.0f
#define LARGEST_POSITIVE 255.0f /* of inputs without a sign */
#else
typedef int16_t Input, Weight;
#define GROUP 2
typedef __m256 Floats;
typedef __m256i Whole;
#define WIDE(operation) _mm256_##operation
#define WIDE_LANES LANES
#define WIDE_MAX max_lanes
#define WIDE_SUM sum_lanes
#define LARGEST 4095.0f /* 13 bits with the sign */
#define LARGEST_POSITIVE LARGEST
#endif

/* Weights in panels of 16 outputs: (out / 16, in / GROUP, 16, GROUP). A sum is an output once it has been multiplied by
 * its row's scale and by `scale`, and `bias` added. */
typedef struct {
    const Weight *weight;
    const int32_t *start; /* of the sums */
    const float *scale, *bias;
    int64_t bias_step, in, out; /* bias_step: between the biases of rows; 0: the same for all */
} Linear;

typedef struct {
    const float *weight, *bias;
    float eps;
} Norm;

typedef struct {
    Norm norm1, norm2;
    Linear qkv, proj, fc1, fc2; /* outputs of qkv: query, key, value of each head, (heads, 3, head_width) */
    const float *bias;          /* (kinds, heads, tokens, tokens), in units of ln 2 as all scores */
    const int64_t *kind;        /* (windows): whose bias it is */
    const int64_t *order;       /* (windows, tokens): places in the image */
    int64_t width, heads, head_width, tokens, windows;
} Block;

typedef struct {
    Norm norm;
    Linear reduction;
    const int64_t *order; /* (out_tokens, 4): places in the image */
    int64_t width, out_tokens;
} Merge;

INLINE float sum_lanes(__m256 values) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

INLINE float max_lanes(__m256 values) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

INLINE __m256 magnitude(__m256 values) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), values); }

/* `scale` (a constant) times 2^x for x <= 0, in integers: 2^n 2^f with |f| <= 1/2, 2^f by its best polynomial, of
 * degree 5 to 3e-7 of itself, of degree 3 to 1e-4. */
INLINE Whole scaled_exp2(float scale, Floats x) {
    x = WIDE(max_ps)(x, WIDE(set1_ps)(-100.0f));
    Whole n = WIDE(cvtps_epi32)(x);
    Floats f = WIDE(sub_ps)(x, WIDE(cvtepi32_ps)(n));
#if BITS == 8
    Floats p = WIDE(set1_ps)(scale * 5.51716896e-2f);
    p = WIDE(fmadd_ps)(p, f, WIDE(set1_ps)(scale * 0.242611185f));
    p = WIDE(fmadd_ps)(p, f, WIDE(set1_ps)(scale * 0.693260984f));
    p = WIDE(fmadd_ps)(p, f, WIDE(set1_ps)(scale * 0.999928062f));
#else
    Floats p = WIDE(set1_ps)(scale * 1.32764748e-3f);
    p = WIDE(fmadd_ps)(p, f, WIDE(set1_ps)(scale * 9.67554189e-3f));
    p = WIDE(fmadd_ps)(p, f, WIDE(set1_ps)(scale * 5.55071309e-2f));
    p = WIDE(fmadd_ps)(p, f, WIDE(set1_ps)(scale * 0.240221202f));
    p = WIDE(fmadd_ps)(p, f, WIDE(set1_ps)(scale * 0.693146944f));
    p = WIDE(fmadd_ps)(p, f, WIDE(set1_ps)(scale * 1.00000012f));
#endif
    return WIDE(cvtps_epi32)((Floats)WIDE(add_epi32)((Whole)p, WIDE(slli_epi32)(n, 23)));
}

/* x (1/2 + z P(z^2)) with z = x, but `most` at most in magnitude. P makes it 0 and x beyond, and is the best of its
 * degree; with 8 bits 1.2e-3 from GELU, with 16 1e-4: the inputs of the next layer are coarser. */
INLINE Floats gelu(Floats x) {
    const float most = BITS == 8 ? 3.4f : 4.25f;
    Floats z = WIDE(max_ps)(WIDE(min_ps)(x, WIDE(set1_ps)(most)), WIDE(set1_ps)(-most));
    Floats square = WIDE(mul_ps)(z, z);
#if BITS == 8
    Floats p = WIDE(set1_ps)(1.02382834e-5f);
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(-4.05518716e-4f));
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(6.61493180e-3f));
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(-5.94460776e-2f));
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(0.393890458f));
#else
    Floats p = WIDE(set1_ps)(-8.46045789e-10f);
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(7.57085559e-8f));
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(-2.93880657e-6f));
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(6.55271506e-5f));
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(-9.40448546e-4f));
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(9.25783347e-3f));
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(-6.54535592e-2f));
    p = WIDE(fmadd_ps)(p, square, WIDE(set1_ps)(0.398420155f));
#endif
    return WIDE(mul_ps)(x, WIDE(fmadd_ps)(p, z, WIDE(set1_ps)(0.5f)));
}

INLINE void store_whole(__m256i whole, Input *out) {
#if BITS == 8
    _mm_storel_epi64((__m128i *)out, _mm256_cvtepi32_epi8(whole));
#else
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole, whole), 0xd8);
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(packed));
#endif
}

INLINE void store_wide(Whole whole, Input *out) {
#if BITS == 8
    _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8(whole));
#else
    store_whole(whole, out);
#endif
}

/* A row to integers; gives what one of them is worth. `largest`: of all magnitudes in the row. */
INLINE float quantise(const float *row, Input *out, int64_t count, float largest) {
    __m256 factor = _mm256_set1_ps(largest > 0.0f ? LARGEST / largest : 0.0f);
    for (int64_t i = 0; i < count; i += LANES) {
        __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(row + i), factor));
        store_whole(BITS == 8 ? _mm256_add_epi32(whole, _mm256_set1_epi32(128)) : whole, out + i);
    }
    return largest / LARGEST;
}

/* Rows to integers: out (count, width). */
static void quantise_rows(const float *rows, int64_t step, Input *out, float *scale, int64_t count, int64_t width) {
    for (int64_t row = 0; row < count; row++, rows += step, out += width) {
        __m256 largest = _mm256_setzero_ps();
        for (int64_t i = 0; i < width; i += LANES)
            largest = _mm256_max_ps(largest, magnitude(_mm256_loadu_ps(rows + i)));
        scale[row] = quantise(rows, out, width, max_lanes(largest));
    }
}

/* Layer norm of `rows` rows (a constant), as integers: out (rows, width); `normed` is memory for them. */
INLINE void norm_and_quantise(int rows, const Norm *norm, const float *in, int64_t in_step, float *normed, Input *out,
                              float *out_scale, int64_t width) {
    __m256 mean[ROWS], factor[ROWS], total[ROWS];
    for (int row = 0; row < rows; row++) total[row] = _mm256_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES)
        for (int row = 0; row < rows; row++)
            total[row] = _mm256_add_ps(total[row], _mm256_loadu_ps(in + row * in_step + i));
    for (int row = 0; row < rows; row++) {
        mean[row] = _mm256_set1_ps(sum_lanes(total[row]) / width);
        total[row] = _mm256_setzero_ps();
    }
    for (int64_t i = 0; i < width; i += LANES)
        for (int row = 0; row < rows; row++) {
            __m256 centred = _mm256_sub_ps(_mm256_loadu_ps(in + row * in_step + i), mean[row]);
            total[row] = _mm256_fmadd_ps(centred, centred, total[row]);
        }
    for (int row = 0; row < rows; row++) {
        factor[row] = _mm256_set1_ps(1.0f / sqrtf(sum_lanes(total[row]) / width + norm->eps));
        total[row] = _mm256_setzero_ps();
    }
    for (int64_t i = 0; i < width; i += LANES) {
        __m256 weight = _mm256_loadu_ps(norm->weight + i), bias = _mm256_loadu_ps(norm->bias + i);
        for (int row = 0; row < rows; row++) {
            __m256 centred = _mm256_sub_ps(_mm256_loadu_ps(in + row * in_step + i), mean[row]);
            __m256 value = _mm256_fmadd_ps(_mm256_mul_ps(centred, factor[row]), weight, bias);
            total[row] = _mm256_max_ps(total[row], magnitude(value));
            _mm256_storeu_ps(normed + row * width + i, value);
        }
    }
    for (int row = 0; row < rows; row++)
        out_scale[row] = quantise(normed + row * width, out + row * width, width, max_lanes(total[row]));
}

/* in, rows `in_step` apart -> out (rows, width); `normed` is memory for ROWS rows. */
static void norm_rows(const Norm *norm, const float *in, int64_t in_step, float *normed, Input *out, float *out_scale,
                      int64_t rows, int64_t width) {
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        norm_and_quantise(ROWS, norm, in + row * in_step, in_step, normed, out + row * width, out_scale + row, width);
    for (; row < rows; row++)
        norm_and_quantise(1, norm, in + row * in_step, in_step, normed, out + row * width, out_scale + row, width);
}

/* What becomes of a layer's outputs. */
typedef enum { STORE, ADD, GELU } Purpose;

/* Sums to outputs of one row. */
INLINE void finish(Purpose purpose, const Linear *layer, Whole sums, float in_scale, const float *bias, float *out,
                   int64_t column) {
    Floats scale = WIDE(mul_ps)(WIDE(set1_ps)(in_scale), WIDE(loadu_ps)(layer->scale + column));
    Floats value = WIDE(fmadd_ps)(WIDE(cvtepi32_ps)(sums), scale, WIDE(loadu_ps)(bias + column));
    if (purpose == ADD) value = WIDE(add_ps)(value, WIDE(loadu_ps)(out + column));
    if (purpose == GELU) value = gelu(value);
    WIDE(storeu_ps)(out + column, value);
}

/* The instructions that multiply are assembly, since GCC spills sums where it may choose their order and registers. */
#if BITS == 8
#define TILE_ROWS 8
#define TILE_PANELS 3

INLINE void linear_tile(int rows, int panels, Purpose purpose, const Linear *layer, const Input *in,
                        const float *in_scale, const float *bias, float *out, int64_t out_step, int64_t first) {
    const Weight *weight = layer->weight + first * layer->in;
    const int64_t panel_step = PANEL * layer->in;
    __m512i sums[TILE_ROWS][TILE_PANELS];
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 3
        for (int panel = 0; panel < panels; panel++)
            sums[row][panel] = _mm512_loadu_si512(layer->start + first + panel * PANEL);
    for (int64_t k = 0; k < layer->in; k += GROUP, weight += GROUP * PANEL) {
        __m512i weights[TILE_PANELS];
#pragma GCC unroll 3
        for (int panel = 0; panel < panels; panel++) weights[panel] = _mm512_loadu_si512(weight + panel * panel_step);
#pragma GCC unroll 8
        for (int row = 0; row < rows; row++) {
            int32_t group;
            memcpy(&group, in + row * layer->in + k, sizeof group);
            __m512i inputs = _mm512_set1_epi32(group);
#pragma GCC unroll 3
            for (int panel = 0; panel < panels; panel++)
                __asm__("vpdpbusd %2, %1, %0" : "+v"(sums[row][panel]) : "v"(inputs), "v"(weights[panel]));
        }
    }
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 3
        for (int panel = 0; panel < panels; panel++) {
            const int64_t column = first + panel * PANEL;
            const float *biases = bias + row * layer->bias_step;
            float *at = out + row * out_step;
            finish(purpose, layer, sums[row][panel], in_scale[row], biases, at, column);
        }
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
                        const float *in_scale, const float *bias, float *out, int64_t out_step, int64_t first) {
    (void)panels; /* one */
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
            finish(purpose, layer, sums[row][half], in_scale[row], bias + row * layer->bias_step, out + row * out_step,
                   first + half * LANES);
}
#endif

/* in (rows, in) -> out (rows, out), whose rows are `out_step` apart. */
INLINE void linear_for(Purpose purpose, const Linear *layer, const Input *in, const float *in_scale, float *out,
                       int64_t out_step, int64_t rows) {
    for (int64_t first = 0, panels; first < layer->out; first += panels * PANEL) {
        const int64_t left = (layer->out - first) / PANEL;
        panels = left >= TILE_PANELS ? TILE_PANELS : left;
        if (TILE_PANELS > 1 && left == 4) panels = 2; /* twice, rather than 3 and 1 */
        int64_t row = 0;
#define TILES(count, panels)                                                                                         \
    for (; row + count <= rows; row += count)                                                                        \
        linear_tile(count, panels, purpose, layer, in + row * layer->in, in_scale + row,                             \
                    layer->bias + row * layer->bias_step, out + row * out_step, out_step, first)
#define PANELS(panels)        \
    TILES(TILE_ROWS, panels); \
    TILES(4, panels);         \
    TILES(1, panels)
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
#undef PANELS
#undef TILES
    }
}

static void linear(Purpose purpose, const Linear *layer, const Input *in, const float *in_scale, float *out,
                   int64_t out_step, int64_t rows) {
    if (purpose == STORE) linear_for(STORE, layer, in, in_scale, out, out_step, rows);
    if (purpose == ADD) linear_for(ADD, layer, in, in_scale, out, out_step, rows);
    if (purpose == GELU) linear_for(GELU, layer, in, in_scale, out, out_step, rows);
}

/* The memory for one window. */
typedef struct {
    float *tokens; /* (tokens, fc2.out): residual sums */
    float *wide;   /* outputs of layers, (tokens, out) */
    float *mixed;  /* values mixed by attention, (tokens, proj.in + PANEL): heads are written in whole panels */
    float *scale;  /* (tokens): what an integer is worth */
    float *normed; /* (ROWS, width) */
    Input *whole;  /* inputs of layers, (tokens, in) */
    /* Of one head: */
    Input *queries, *rounded;               /* (tokens, head_width), (tokens, tokens) */
    Weight *keys, *values;                  /* (tokens, head_width), (head_width, tokens), in panels */
    int32_t *key_start, *zeros;             /* (tokens), (PANEL + head_width) */
    float *key_scale, *value_scale;         /* (tokens), (PANEL + head_width) */
    float *scores, *query_scale, *worth; /* (tokens, tokens), (tokens), (tokens) */
} Scratch;

static int64_t larger(int64_t first, int64_t second) { return first > second ? first : second; }

/* Gives the memory that `scratch` then points into, or NULL. What is never written, but read, is zero. */
static void *take_memory(const Block *block, Scratch *scratch) {
    const int64_t count = block->tokens, padded = block->head_width + PANEL;
    const int64_t widest = larger(block->fc1.out, block->qkv.out);
    struct {
        void *part;
        int64_t size;
    } parts[] = {
        {&scratch->tokens, count * block->fc2.out * sizeof(float)},
        {&scratch->wide, count * widest * sizeof(float)},
        {&scratch->mixed, count * (block->proj.in + PANEL) * sizeof(float)},
        {&scratch->scale, count * sizeof(float)},
        {&scratch->normed, ROWS * block->width * sizeof(float)},
        {&scratch->whole, count * widest * sizeof(Input)},
        {&scratch->queries, count * block->head_width * sizeof(Input)},
        {&scratch->rounded, count * count * sizeof(Input)},
        {&scratch->keys, count * block->head_width * sizeof(Weight)},
        {&scratch->values, count * padded * sizeof(Weight)},
        {&scratch->key_start, count * sizeof(int32_t)},
        {&scratch->zeros, padded * sizeof(int32_t)},
        {&scratch->key_scale, count * sizeof(float)},
        {&scratch->value_scale, padded * sizeof(float)},
        {&scratch->scores, count * count * sizeof(float)},
        {&scratch->query_scale, count * sizeof(float)},
        {&scratch->worth, count * sizeof(float)},
    };
    const int64_t num_parts = sizeof parts / sizeof *parts, line = 64; /* bytes of a line of the cache */
    int64_t total = 0;
    for (int64_t i = 0; i < num_parts; i++) total += parts[i].size = (parts[i].size + line - 1) / line * line;
    char *memory = aligned_alloc(line, total), *next = memory;
    if (memory == NULL) return NULL;
    for (int64_t i = 0; i < num_parts; next += parts[i++].size) memcpy(parts[i].part, &next, sizeof next);
    memset(scratch->values, 0, count * padded * sizeof(Weight));
    memset(scratch->key_start, 0, count * sizeof(int32_t));
    memset(scratch->zeros, 0, padded * sizeof(int32_t));
    memset(scratch->value_scale, 0, padded * sizeof(float));
    return memory;
}

/* A head's keys as the weights of a layer that makes a query its scores; `rows` is memory for their integers. */
static Linear pack_keys(const Scratch *scratch, const float *keys, int64_t step, int64_t tokens, int64_t width,
                        Input *rows) {
    const int64_t groups = width / GROUP;
    quantise_rows(keys, step, rows, scratch->key_scale, tokens, width);
    int32_t *packed = (int32_t *)scratch->keys;
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t i = 0; i < groups; i++) {
            int32_t group;
            memcpy(&group, rows + token * width + i * GROUP, sizeof group);
            if (BITS == 8) group ^= (int32_t)0x80808080; /* takes 128 off each */
            packed[(token / PANEL * groups + i) * PANEL + token % PANEL] = group;
        }
#if BITS == 8
    for (int64_t first = 0; first < tokens; first += PANEL) {
        __m512i sums = _mm512_setzero_si512();
        for (int64_t i = 0; i < groups; i++)
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8((char)128),
                                       _mm512_loadu_si512(packed + (first / PANEL * groups + i) * PANEL));
        _mm512_storeu_si512(scratch->key_start + first, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
    }
#endif
    return (Linear){.weight = scratch->keys, .start = scratch->key_start, .scale = scratch->key_scale,
                    .bias_step = tokens, .in = width, .out = tokens};
}

/* A head's values as the weights of a layer that mixes them. */
static Linear pack_values(const Scratch *scratch, const float *values, int64_t step, int64_t tokens, int64_t width) {
    int32_t *packed = (int32_t *)scratch->values;
    const __m256i kept = _mm256_set1_epi32((int32_t)((1LL << BITS) - 1));
    for (int64_t column = 0; column < width; column += LANES) {
        __m256 largest = _mm256_set1_ps(1e-30f);
        for (int64_t token = 0; token < tokens; token++)
            largest = _mm256_max_ps(largest, magnitude(_mm256_loadu_ps(values + token * step + column)));
        const __m256 factor = _mm256_div_ps(_mm256_set1_ps(LARGEST), largest);
        _mm256_storeu_ps(scratch->value_scale + column, _mm256_mul_ps(largest, _mm256_set1_ps(1.0f / LARGEST)));
        int32_t *panel = packed + column / PANEL * (tokens / GROUP) * PANEL + column % PANEL;
        for (int64_t token = 0; token < tokens; token += GROUP, panel += PANEL) {
            __m256i group = _mm256_setzero_si256();
#pragma GCC unroll 4
            for (int i = 0; i < GROUP; i++) {
                __m256 value = _mm256_mul_ps(_mm256_loadu_ps(values + (token + i) * step + column), factor);
                __m256i whole = _mm256_and_si256(_mm256_cvtps_epi32(value), kept);
                group = _mm256_or_si256(group, _mm256_slli_epi32(whole, i * BITS));
            }
            _mm256_storeu_si256((__m256i *)panel, group);
        }
    }
    return (Linear){.weight = scratch->values, .start = scratch->zeros, .scale = scratch->value_scale,
                    .bias = (const float *)scratch->zeros, .in = tokens, .out = (width + PANEL - 1) / PANEL * PANEL};
}

/* ROWS rows of scores to their softmax in integers, and what one of them is worth in each row. */
INLINE void softmax(const float *scores, Input *out, float *worth, int64_t tokens) {
    Floats largest[ROWS];
    Whole total[ROWS];
    for (int row = 0; row < ROWS; row++) largest[row] = WIDE(loadu_ps)(scores + row * tokens);
    for (int64_t i = WIDE_LANES; i < tokens; i += WIDE_LANES)
        for (int row = 0; row < ROWS; row++)
            largest[row] = WIDE(max_ps)(largest[row], WIDE(loadu_ps)(scores + row * tokens + i));
    for (int row = 0; row < ROWS; row++) {
        largest[row] = WIDE(set1_ps)(WIDE_MAX(largest[row]));
        total[row] = (Whole)WIDE(setzero_ps)();
    }
    for (int64_t i = 0; i < tokens; i += WIDE_LANES)
        for (int row = 0; row < ROWS; row++) {
            Floats score = WIDE(loadu_ps)(scores + row * tokens + i);
            Whole whole = scaled_exp2(LARGEST_POSITIVE, WIDE(sub_ps)(score, largest[row]));
            total[row] = WIDE(add_epi32)(total[row], whole);
            store_wide(whole, out + row * tokens + i);
        }
    for (int row = 0; row < ROWS; row++) worth[row] = 1.0f / WIDE_SUM(WIDE(cvtepi32_ps)(total[row]));
}

#if BITS == 8
#define KEYS 64 /* whose scores stay in registers, for four queries */

/* Softmax of the scores of ROWS queries for KEYS keys. */
INLINE void score(const Linear *keys, const Input *queries, const float *query_scale, const float *bias, Input *out,
                  float *worth) {
    const int64_t width = keys->in, panel_step = PANEL * width;
    __m512i sums[ROWS][KEYS / PANEL];
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 4
        for (int panel = 0; panel < KEYS / PANEL; panel++)
            sums[row][panel] = _mm512_loadu_si512(keys->start + panel * PANEL);
    for (int64_t k = 0; k < width; k += GROUP) {
        __m512i weights[KEYS / PANEL];
#pragma GCC unroll 4
        for (int panel = 0; panel < KEYS / PANEL; panel++)
            weights[panel] = _mm512_loadu_si512(keys->weight + k * PANEL + panel * panel_step);
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; row++) {
            int32_t group;
            memcpy(&group, queries + row * width + k, sizeof group);
            __m512i inputs = _mm512_set1_epi32(group);
#pragma GCC unroll 4
            for (int panel = 0; panel < KEYS / PANEL; panel++)
                __asm__("vpdpbusd %2, %1, %0" : "+v"(sums[row][panel]) : "v"(inputs), "v"(weights[panel]));
        }
    }
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++) {
        __m512 scores[KEYS / PANEL];
#pragma GCC unroll 4
        for (int panel = 0; panel < KEYS / PANEL; panel++) {
            __m512 scale = _mm512_mul_ps(_mm512_set1_ps(query_scale[row]), _mm512_loadu_ps(keys->scale + panel * PANEL));
            scores[panel] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row][panel]), scale,
                                            _mm512_loadu_ps(bias + row * KEYS + panel * PANEL));
        }
        __m512 largest = _mm512_max_ps(_mm512_max_ps(scores[0], scores[1]), _mm512_max_ps(scores[2], scores[3]));
        largest = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
        __m512i total = _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int panel = 0; panel < KEYS / PANEL; panel++) {
            __m512i whole = scaled_exp2(LARGEST_POSITIVE, _mm512_sub_ps(scores[panel], largest));
            total = _mm512_add_epi32(total, whole);
            store_wide(whole, out + row * KEYS + panel * PANEL);
        }
        worth[row] = 1.0f / _mm512_reduce_add_epi32(total);
    }
}
#endif

/* Probabilities of all keys for each query, in integers, and what one is worth in each row. */
static void score_all(const Scratch *scratch, const Linear *keys, int64_t tokens) {
#if BITS == 8
    if (tokens == KEYS) {
        for (int64_t token = 0; token < tokens; token += ROWS)
            score(keys, scratch->queries + token * keys->in, scratch->query_scale + token, keys->bias + token * KEYS,
                  scratch->rounded + token * KEYS, scratch->worth + token);
        return;
    }
#endif
    linear(STORE, keys, scratch->queries, scratch->query_scale, scratch->scores, tokens, tokens);
    for (int64_t token = 0; token < tokens; token += ROWS)
        softmax(scratch->scores + token * tokens, scratch->rounded + token * tokens, scratch->worth + token, tokens);
}

/* Attention of one head, whose query, key and value are in `wide` from `head` on. */
static void attend(const Block *block, const Scratch *scratch, int64_t head, const float *bias) {
    const int64_t tokens = block->tokens, width = block->head_width, step = block->qkv.out;
    const float *queries = scratch->wide + head * 3 * width;
    for (int64_t i = 0; i < tokens * tokens; i += PANEL) _mm_prefetch((const char *)(bias + i), _MM_HINT_T0);
    Linear keys = pack_keys(scratch, queries + width, step, tokens, width, scratch->queries);
    Linear values = pack_values(scratch, queries + 2 * width, step, tokens, width);
    quantise_rows(queries, step, scratch->queries, scratch->query_scale, tokens, width);
    keys.bias = bias;
    score_all(scratch, &keys, tokens);
    linear(STORE, &values, scratch->rounded, scratch->worth, scratch->mixed + head * width,
           block->proj.in + PANEL, tokens);
}

static void mix_tokens(const Block *block, const Scratch *scratch, const float *bias) {
    norm_rows(&block->norm1, scratch->tokens, block->fc2.out, scratch->normed, scratch->whole, scratch->scale,
              block->tokens, block->width);
    linear(STORE, &block->qkv, scratch->whole, scratch->scale, scratch->wide, block->qkv.out, block->tokens);
    for (int64_t head = 0; head < block->heads; head++)
        attend(block, scratch, head, bias + head * block->tokens * block->tokens);
    quantise_rows(scratch->mixed, block->proj.in + PANEL, scratch->whole, scratch->scale, block->tokens, block->proj.in);
    linear(ADD, &block->proj, scratch->whole, scratch->scale, scratch->tokens, block->proj.out, block->tokens);
}

static void transform_tokens(const Block *block, const Scratch *scratch) {
    norm_rows(&block->norm2, scratch->tokens, block->fc2.out, scratch->normed, scratch->whole, scratch->scale,
              block->tokens, block->width);
    linear(GELU, &block->fc1, scratch->whole, scratch->scale, scratch->wide, block->fc1.out, block->tokens);
    quantise_rows(scratch->wide, block->fc1.out, scratch->whole, scratch->scale, block->tokens, block->fc1.out);
    linear(ADD, &block->fc2, scratch->whole, scratch->scale, scratch->tokens, block->fc2.out, block->tokens);
}

/* Threads take one item after the other until there are none. */
typedef struct {
    const void *layer; /* a Block or a Merge */
    float *image, *out;
    int64_t count;
    _Atomic int64_t next, failed;
} Work;

static void run_block(void *data) {
    Work *work = data;
    const Block *block = work->layer;
    const int64_t count = block->tokens, width = block->width, step = block->fc2.out;
    Scratch scratch;
    void *memory = take_memory(block, &scratch);
    for (int64_t window; memory != NULL && (window = work->next++) < work->count;) {
        const int64_t place = window % block->windows;
        const int64_t *order = block->order + place * count;
        float *clip = work->image + (window - place) * count * width;
        for (int64_t token = 0; token < count; token++)
            memcpy(scratch.tokens + token * step, clip + order[token] * width, width * sizeof(float));
        mix_tokens(block, &scratch, block->bias + block->kind[place] * block->heads * count * count);
        transform_tokens(block, &scratch);
        for (int64_t token = 0; token < count; token++)
            memcpy(clip + order[token] * width, scratch.tokens + token * step, width * sizeof(float));
    }
    if (memory == NULL) work->failed = 1;
    free(memory);
}

#define MERGED_ROWS 64 /* at a time */

static void run_merge(void *data) {
    Work *work = data;
    const Merge *merge = work->layer;
    const int64_t width = merge->width, wide = 4 * width;
    const int64_t floats = MERGED_ROWS * wide + ROWS * wide + MERGED_ROWS;
    float *memory = malloc(floats * sizeof(float) + MERGED_ROWS * wide * sizeof(Input));
    if (memory == NULL) {
        work->failed = 1;
        return;
    }
    float *joined = memory, *normed = joined + MERGED_ROWS * wide, *scale = normed + ROWS * wide;
    Input *whole = (Input *)(scale + MERGED_ROWS);
    for (int64_t start; (start = MERGED_ROWS * work->next++) < work->count;) {
        const int64_t rows = work->count - start < MERGED_ROWS ? work->count - start : MERGED_ROWS;
        for (int64_t row = 0; row < rows; row++) {
            const int64_t place = (start + row) % merge->out_tokens;
            const float *clip = work->image + (start + row - place) * wide;
            for (int64_t part = 0; part < 4; part++)
                memcpy(joined + row * wide + part * width, clip + merge->order[4 * place + part] * width,
                       width * sizeof(float));
        }
        norm_rows(&merge->norm, joined, wide, normed, whole, scale, rows, wide);
        linear(STORE, &merge->reduction, whole, scale, work->out + start * 2 * width, 2 * width, rows);
    }
    free(memory);
}

/* GCC's and LLVM's OpenMP: calls `run(data)` on each of `threads` threads. */
typedef void (*Parallel)(void (*run)(void *), void *data, unsigned threads, unsigned flags);

static int share_out(void (*run)(void *), Work *work, Parallel parallel, int threads) {
    if (parallel == NULL || threads == 1)
        run(work);
    else
        parallel(run, work, threads, 0);
    return !work->failed;
}

/* The windows of `clips` images (clips, windows * tokens, width), in place; 0 without memory. */
int salm_block(const Block *block, float *images, int64_t clips, Parallel parallel, int threads) {
    Work work = {.layer = block, .image = images, .count = clips * block->windows};
    return share_out(run_block, &work, parallel, threads);
}

/* images (clips, 4 out_tokens, width) -> out (clips, out_tokens, 2 width); 0 without memory. */
int salm_merge(const Merge *merge, float *images, float *out, int64_t clips, Parallel parallel, int threads) {
    Work work = {.layer = merge, .image = images, .out = out, .count = clips * merge->out_tokens};
    return share_out(run_merge, &work, parallel, threads);
}
