/* Blocks and patch merging of a Swin transformer with 16-bit matrix products, for x86-64 with AVX2 and FMA.
 *
 * `salm.models.int16` compiles this file, lays the weights out as it expects them, and has the structures below once
 * more. One window after the other goes through a whole block, so that it stays in its core's cache.
 *
 * A linear layer's inputs are scaled row by row to 13 bits, its weights output by output so that no sum can leave 32
 * bits (see `salm.models.int16`). Products of pairs are summed by VPMADDWD, twice as many per cycle as FMA has. All
 * else is float32: norms, attention between tokens, softmax, GELU and residual sums.
 *
 * Counts: `in` is even; `out`, `head_width` and `tokens` are multiples of 16, 8 and 8.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define LANES 8
#define PANEL 16
#define TILE_ROWS 6
#define LARGEST_INPUT 4095.0f /* 13 bits with the sign */

/* Weights in panels of 16 outputs: (out / 16, in / 2, 16, 2). A sum times its row's scale and `scale` is the output. */
typedef struct {
    const int16_t *weight;
    const float *scale, *bias;
    int64_t in, out;
} Linear;

typedef struct {
    const float *weight, *bias;
    float eps;
} Norm;

typedef struct {
    Norm norm1, norm2;
    Linear qkv, proj, fc1, fc2; /* outputs of qkv: query, key, value of each head, (heads, 3, head_width) */
    const float *bias;          /* (biases, heads, tokens, tokens): one for all windows, or one for each */
    const int64_t *order;       /* (windows, tokens): places in the image */
    int64_t width, heads, head_width, tokens, windows, biases;
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

/* exp(x) for x <= 0 to 3e-7 of itself: 2^n e^r with |r| <= log(2) / 2, e^r by its Taylor series of degree 6. */
INLINE __m256 exp_of_negative(__m256 x) {
    x = _mm256_max_ps(x, _mm256_set1_ps(-87.0f));
    __m256 n = _mm256_mul_ps(x, _mm256_set1_ps(1.44269504f));
    n = _mm256_round_ps(n, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x); /* log(2), in two parts */
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.0f / 720);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
}

/* x (1 + erf(x / sqrt 2)) / 2; erf to 3e-7 by Abramowitz & Stegun 1964, 7.1.28. */
INLINE __m256 gelu(__m256 x) {
    __m256 z = _mm256_mul_ps(magnitude(x), _mm256_set1_ps(0.70710678f));
    __m256 p = _mm256_set1_ps(0.0000430638f);
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0.0002765672f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0.0001520143f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0.0092705272f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0.0422820123f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(0.0705230784f));
    p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.0f));
    for (int squaring = 0; squaring < 4; squaring++) p = _mm256_mul_ps(p, p);
    /* 1 + erf is 1 / p below zero and 2 - 1 / p above. */
    __m256 rest = _mm256_div_ps(_mm256_set1_ps(1.0f), p);
    __m256 both = _mm256_blendv_ps(_mm256_sub_ps(_mm256_set1_ps(2.0f), rest), rest, x);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(0.5f)), both);
}

/* A row to 13-bit integers; gives what one of them is worth. `largest`: of all magnitudes in the row. */
INLINE float quantise(const float *row, int16_t *out, int64_t count, float largest) {
    __m256 factor = _mm256_set1_ps(largest > 0.0f ? LARGEST_INPUT / largest : 0.0f);
    int64_t i = 0;
    for (; i + 2 * LANES <= count; i += 2 * LANES) {
        __m256i first = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(row + i), factor));
        __m256i second = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(row + i + LANES), factor));
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xd8);
        _mm256_storeu_si256((__m256i *)(out + i), packed);
    }
    for (; i < count; i++) out[i] = (int16_t)lrintf(row[i] * _mm256_cvtss_f32(factor));
    return largest / LARGEST_INPUT;
}

/* Layer norm of a row, as 13-bit integers; `normed` is memory for the row. */
static float norm_and_quantise(const Norm *norm, const float *row, float *normed, int16_t *out, int64_t width) {
    __m256 total = _mm256_setzero_ps(), squares = _mm256_setzero_ps(), largest = _mm256_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) total = _mm256_add_ps(total, _mm256_loadu_ps(row + i));
    __m256 mean = _mm256_set1_ps(sum_lanes(total) / width);
    for (int64_t i = 0; i < width; i += LANES) {
        __m256 centred = _mm256_sub_ps(_mm256_loadu_ps(row + i), mean);
        squares = _mm256_fmadd_ps(centred, centred, squares);
    }
    __m256 factor = _mm256_set1_ps(1.0f / sqrtf(sum_lanes(squares) / width + norm->eps));
    for (int64_t i = 0; i < width; i += LANES) {
        __m256 centred = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(row + i), mean), factor);
        __m256 value = _mm256_fmadd_ps(centred, _mm256_loadu_ps(norm->weight + i), _mm256_loadu_ps(norm->bias + i));
        largest = _mm256_max_ps(largest, magnitude(value));
        _mm256_storeu_ps(normed + i, value);
    }
    return quantise(normed, out, width, max_lanes(largest));
}

/* 12 sums, two weights, an input and a product fill the 16 registers: GCC spills sums where it may reorder products. */
INLINE __m256i multiply_add(__m256i sum, __m256i input, __m256i weight) {
    __m256i product;
    __asm__ volatile("vpmaddwd %3, %2, %0\n\tvpaddd %0, %1, %1" : "=&x"(product), "+x"(sum) : "x"(input), "x"(weight));
    return sum;
}

/* `rows` rows (a constant) of one panel. */
INLINE void linear_tile(int rows, const Linear *layer, const int16_t *panel, const int16_t *in, const float *in_scale,
                        float *out, int64_t first) {
    __m256i sums[TILE_ROWS][2];
    for (int row = 0; row < rows; row++) sums[row][0] = sums[row][1] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int64_t k = 0; k < layer->in; k += 2, panel += 2 * PANEL) {
        _mm_prefetch((const char *)(panel + 512), _MM_HINT_T0);
        __m256i left = _mm256_load_si256((const __m256i *)panel);
        __m256i right = _mm256_load_si256((const __m256i *)(panel + PANEL));
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            int32_t pair;
            memcpy(&pair, in + row * layer->in + k, sizeof pair);
            __m256i input = _mm256_set1_epi32(pair);
            sums[row][0] = multiply_add(sums[row][0], input, left);
            sums[row][1] = multiply_add(sums[row][1], input, right);
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++)
        for (int half = 0; half < 2; half++) {
            int64_t column = first + half * LANES;
            __m256 scale = _mm256_mul_ps(_mm256_set1_ps(in_scale[row]), _mm256_loadu_ps(layer->scale + column));
            __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[row][half]), scale);
            value = _mm256_add_ps(value, _mm256_loadu_ps(layer->bias + column));
            _mm256_storeu_ps(out + row * layer->out + column, value);
        }
}

/* in (rows, in) -> out (rows, out). */
static void linear(const Linear *layer, const int16_t *in, const float *in_scale, float *out, int64_t rows) {
    for (int64_t first = 0; first < layer->out; first += PANEL) {
        const int16_t *panel = layer->weight + first * layer->in;
        int64_t row = 0;
#define TILES(count)                              \
    for (; row + count <= rows; row += count)     \
        linear_tile(count, layer, panel, in + row * layer->in, in_scale + row, out + row * layer->out, first)
        TILES(TILE_ROWS);
        TILES(4);
        TILES(1);
#undef TILES
    }
}

/* Matrices lie row by row, `step` floats apart. */
typedef struct {
    float *at;
    int64_t step;
} Matrix;

/* out += a b for 4 rows and `vectors` (a constant) vectors of columns, from `row` and `column` on. */
INLINE void product_tile(int vectors, Matrix a, Matrix b, Matrix out, int64_t depth, int64_t row, int64_t column) {
    __m256 sums[4][3];
    float *at = out.at + row * out.step + column;
    for (int i = 0; i < 4; i++)
        for (int v = 0; v < vectors; v++) sums[i][v] = _mm256_loadu_ps(at + i * out.step + v * LANES);
    for (int64_t k = 0; k < depth; k++)
        for (int i = 0; i < 4; i++) {
            __m256 factor = _mm256_set1_ps(a.at[(row + i) * a.step + k]);
            for (int v = 0; v < vectors; v++) {
                __m256 values = _mm256_loadu_ps(b.at + k * b.step + column + v * LANES);
                sums[i][v] = _mm256_fmadd_ps(factor, values, sums[i][v]);
            }
        }
    for (int i = 0; i < 4; i++)
        for (int v = 0; v < vectors; v++) _mm256_storeu_ps(at + i * out.step + v * LANES, sums[i][v]);
}

/* out (rows, columns) += a (rows, depth) b (depth, columns); rows: a multiple of 4, columns: of 8. */
static void add_product(Matrix a, Matrix b, Matrix out, int64_t rows, int64_t depth, int64_t columns) {
    int64_t column = 0;
#define COLUMNS(vectors)                                                                \
    for (; column + vectors * LANES <= columns; column += vectors * LANES)              \
        for (int64_t row = 0; row < rows; row += 4) product_tile(vectors, a, b, out, depth, row, column)
    COLUMNS(3);
    COLUMNS(2);
    COLUMNS(1);
#undef COLUMNS
}

/* Rows to probabilities; what they still have to be divided by is in `totals`. */
static void softmax(float *scores, float *totals, int64_t tokens) {
    for (int64_t row = 0; row < tokens; row++, scores += tokens) {
        __m256 largest = _mm256_loadu_ps(scores), total = _mm256_setzero_ps();
        for (int64_t i = LANES; i < tokens; i += LANES) largest = _mm256_max_ps(largest, _mm256_loadu_ps(scores + i));
        largest = _mm256_set1_ps(max_lanes(largest));
        for (int64_t i = 0; i < tokens; i += LANES) {
            __m256 value = exp_of_negative(_mm256_sub_ps(_mm256_loadu_ps(scores + i), largest));
            total = _mm256_add_ps(total, value);
            _mm256_storeu_ps(scores + i, value);
        }
        totals[row] = sum_lanes(total);
    }
}

/* The memory for one window. */
typedef struct {
    float *tokens;         /* (tokens, width): residual sums */
    float *wide, *narrow;  /* outputs of layers, (tokens, out) */
    float *mixed;          /* values mixed by attention, (tokens, heads * head_width) */
    float *scores, *keys;  /* of one head, (tokens, tokens) and (head_width, tokens) */
    float *totals, *scale; /* (tokens): of the softmax; what an integer is worth */
    float *normed;         /* (width) */
    int16_t *whole;        /* inputs of layers, (tokens, in) */
} Scratch;

static int64_t larger(int64_t first, int64_t second) { return first > second ? first : second; }

/* Gives the memory that `scratch` then points into, or NULL. */
static float *take_memory(const Block *block, Scratch *scratch) {
    const int64_t count = block->tokens, widest = larger(block->fc1.out, block->qkv.out);
    const int64_t sizes[] = {
        count * block->width, count * widest, count * larger(block->fc2.out, block->proj.out), count * block->proj.in,
        count * count, count * block->head_width, count, count, block->width, (count * widest + 1) / 2,
    };
    float **parts[] = {
        &scratch->tokens, &scratch->wide, &scratch->narrow, &scratch->mixed,
        &scratch->scores, &scratch->keys, &scratch->totals, &scratch->scale, &scratch->normed,
    };
    const int64_t num_parts = sizeof parts / sizeof *parts;
    int64_t total = 0;
    for (int64_t part = 0; part <= num_parts; part++) total += sizes[part];
    float *memory = malloc(total * sizeof(float)), *next = memory;
    if (memory == NULL) return NULL;
    for (int64_t part = 0; part < num_parts; part++) {
        *parts[part] = next;
        next += sizes[part];
    }
    scratch->whole = (int16_t *)next;
    return memory;
}

/* Attention of one head, whose query, key and value are in `wide` from `head` on. */
static void attend(const Block *block, const Scratch *scratch, int64_t head, const float *bias) {
    const int64_t tokens = block->tokens, width = block->head_width, step = block->qkv.out;
    Matrix query = {scratch->wide + head * 3 * width, step}, value = {query.at + 2 * width, step};
    Matrix keys = {scratch->keys, tokens}, scores = {scratch->scores, tokens};
    Matrix mixed = {scratch->mixed + head * width, block->proj.in};
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t i = 0; i < width; i++) keys.at[i * tokens + token] = query.at[token * step + width + i];
    memcpy(scores.at, bias, tokens * tokens * sizeof(float));
    add_product(query, keys, scores, tokens, width, tokens);
    softmax(scores.at, scratch->totals, tokens);
    for (int64_t token = 0; token < tokens; token++) memset(mixed.at + token * mixed.step, 0, width * sizeof(float));
    add_product(scores, value, mixed, tokens, tokens, width);
    for (int64_t token = 0; token < tokens; token++) {
        __m256 factor = _mm256_set1_ps(1.0f / scratch->totals[token]);
        float *row = mixed.at + token * mixed.step;
        for (int64_t i = 0; i < width; i += LANES)
            _mm256_storeu_ps(row + i, _mm256_mul_ps(_mm256_loadu_ps(row + i), factor));
    }
}

/* tokens += layer(whole) */
static void add_linear(const Block *block, const Scratch *scratch, const Linear *layer) {
    linear(layer, scratch->whole, scratch->scale, scratch->narrow, block->tokens);
    for (int64_t token = 0; token < block->tokens; token++)
        for (int64_t i = 0; i < block->width; i += LANES) {
            float *at = scratch->tokens + token * block->width + i;
            const float *more = scratch->narrow + token * layer->out + i;
            _mm256_storeu_ps(at, _mm256_add_ps(_mm256_loadu_ps(at), _mm256_loadu_ps(more)));
        }
}

static void norm_tokens(const Block *block, const Scratch *scratch, const Norm *norm) {
    const int64_t width = block->width;
    for (int64_t token = 0; token < block->tokens; token++)
        scratch->scale[token] = norm_and_quantise(norm, scratch->tokens + token * width, scratch->normed,
                                                  scratch->whole + token * width, width);
}

static void mix_tokens(const Block *block, const Scratch *scratch, const float *bias) {
    norm_tokens(block, scratch, &block->norm1);
    linear(&block->qkv, scratch->whole, scratch->scale, scratch->wide, block->tokens);
    for (int64_t head = 0; head < block->heads; head++)
        attend(block, scratch, head, bias + head * block->tokens * block->tokens);
    const int64_t width = block->proj.in;
    for (int64_t token = 0; token < block->tokens; token++) {
        __m256 largest = _mm256_setzero_ps();
        const float *row = scratch->mixed + token * width;
        for (int64_t i = 0; i < width; i += LANES)
            largest = _mm256_max_ps(largest, magnitude(_mm256_loadu_ps(row + i)));
        scratch->scale[token] = quantise(row, scratch->whole + token * width, width, max_lanes(largest));
    }
    add_linear(block, scratch, &block->proj);
}

static void transform_tokens(const Block *block, const Scratch *scratch) {
    norm_tokens(block, scratch, &block->norm2);
    linear(&block->fc1, scratch->whole, scratch->scale, scratch->wide, block->tokens);
    const int64_t width = block->fc2.in;
    for (int64_t token = 0; token < block->tokens; token++) {
        __m256 largest = _mm256_setzero_ps();
        float *row = scratch->wide + token * block->fc1.out;
        for (int64_t i = 0; i < width; i += LANES) {
            __m256 value = gelu(_mm256_loadu_ps(row + i));
            largest = _mm256_max_ps(largest, magnitude(value));
            _mm256_storeu_ps(row + i, value);
        }
        scratch->scale[token] = quantise(row, scratch->whole + token * width, width, max_lanes(largest));
    }
    add_linear(block, scratch, &block->fc2);
}

/* Windows `first` to `last` of all clips', of an image (clips, windows * tokens, width), in place; 0 without memory. */
int salm_block(const Block *block, float *image, int64_t first, int64_t last) {
    const int64_t count = block->tokens, width = block->width;
    Scratch scratch;
    float *memory = take_memory(block, &scratch);
    if (memory == NULL) return 0;
    for (int64_t window = first; window < last; window++) {
        const int64_t place = window % block->windows;
        const int64_t *order = block->order + place * count;
        float *clip = image + (window - place) * count * width;
        for (int64_t token = 0; token < count; token++)
            memcpy(scratch.tokens + token * width, clip + order[token] * width, width * sizeof(float));
        mix_tokens(block, &scratch, block->bias + (block->biases > 1 ? place : 0) * block->heads * count * count);
        transform_tokens(block, &scratch);
        for (int64_t token = 0; token < count; token++)
            memcpy(clip + order[token] * width, scratch.tokens + token * width, width * sizeof(float));
    }
    free(memory);
    return 1;
}

/* Tokens `first` to `last` of all clips' merged ones, image (clips, 4 out_tokens, width) -> out (clips, out_tokens,
 * 2 width); 0 without memory. */
int salm_merge(const Merge *merge, const float *image, float *out, int64_t first, int64_t last) {
    const int64_t width = merge->width, wide = 4 * width, at_once = 64;
    float *memory = malloc((2 * wide + at_once + at_once * wide / 2) * sizeof(float));
    if (memory == NULL) return 0;
    float *joined = memory, *normed = joined + wide, *scale = normed + wide;
    int16_t *whole = (int16_t *)(scale + at_once);
    for (int64_t start = first; start < last; start += at_once) {
        const int64_t rows = last - start < at_once ? last - start : at_once;
        for (int64_t row = 0; row < rows; row++) {
            const int64_t place = (start + row) % merge->out_tokens;
            const float *clip = image + (start + row - place) * wide;
            for (int64_t part = 0; part < 4; part++)
                memcpy(joined + part * width, clip + merge->order[4 * place + part] * width, width * sizeof(float));
            scale[row] = norm_and_quantise(&merge->norm, joined, normed, whole + row * wide, wide);
        }
        linear(&merge->reduction, whole, scale, out + start * 2 * width, rows);
    }
    free(memory);
    return 1;
}
