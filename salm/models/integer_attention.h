/* Attention of one head in one window, as two linear layers whose weights are the keys and the values. See
 * swin_integer.c. */
#pragma once
#include "integer_linear.h"
#include <math.h>

#define KEYS 64 /* MAX_PANELS of them, whose scores for ROWS queries stay in registers, with 8 bits */

/* The memory for one head. What `attend` does not write in the padding of panels must be zero. */
typedef struct {
    Input *queries, *probabilities;      /* (tokens, head_width), (tokens, tokens) */
    Weight *keys, *values;               /* (tokens, head_width), (head_width, tokens), in panels */
    int32_t *key_start, *zeros;          /* (tokens), (tokens, or PANEL + head_width where that is more) */
    float *key_scale, *value_scale;      /* (tokens), (PANEL + head_width) */
    float *scores, *query_scale, *worth; /* (tokens, tokens), (tokens), (tokens) */
} Head;

/* A head's keys as the weights of a layer that makes a query its scores; `rows` is memory for their integers. */
static Linear pack_keys(const Head *head, const float *keys, int64_t step, int64_t tokens, int64_t width, Input *rows) {
    const int64_t groups = width / GROUP;
    quantise_rows_to(LARGEST_WEIGHT, keys, step, rows, head->key_scale, tokens, width);
    int32_t *packed = (int32_t *)head->keys;
    const __m128 signs = _mm_castsi128_ps(_mm_set1_epi32(BITS == 8 ? (int32_t)0x80808080 : 0)); /* take 128 off each */
    for (int64_t token = 0; token < tokens; token += 4)
        for (int64_t i = 0; i < groups; i += 2) { /* two groups of four keys, to four keys of two groups */
            __m128 pairs[2];
            for (int j = 0; j < 2; j++) {
                const Input *pair = rows + (token + 2 * j) * width + i * GROUP;
                pairs[j] = _mm_loadh_pi(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)pair)),
                                        (const __m64 *)(pair + width));
            }
            float *place = (float *)packed + (token / PANEL * groups + i) * PANEL + token % PANEL;
            _mm_storeu_ps(place, _mm_xor_ps(_mm_shuffle_ps(pairs[0], pairs[1], 0x88), signs));
            _mm_storeu_ps(place + PANEL, _mm_xor_ps(_mm_shuffle_ps(pairs[0], pairs[1], 0xdd), signs));
        }
#if BITS == 8
    for (int64_t first = 0; first < tokens; first += WIDE_LANES) {
        Whole start = (Whole)WIDE(setzero_ps)();
        const int32_t *weights = packed + first / PANEL * groups * PANEL + first % PANEL;
        for (int64_t i = 0; i < groups; i++)
            start = WIDE(sub_epi32)(start, products(WIDE(set1_epi8)((char)128), load_whole(weights + i * PANEL)));
        store_whole(head->key_start + first, start);
    }
#endif
    return (Linear){.weight = head->keys,
                    .start = head->key_start,
                    .scale = head->key_scale,
                    .bias = (const float *)head->zeros,
                    .in = width,
                    .out = tokens};
}

/* Where a group of probabilities lies in its row: `score` packs them 128 bits by 128 bits. */
INLINE int64_t group_place(int64_t tokens, int64_t group) {
    return VNNI && tokens == KEYS ? group % 4 * 4 + group / 4 : group;
}

/* A head's values as the weights of a layer that mixes them. */
static Linear pack_values(const Head *head, const float *values, int64_t step, int64_t tokens, int64_t width) {
    int32_t *packed = (int32_t *)head->values;
    const __m256i kept = _mm256_set1_epi32((int32_t)((1LL << BITS) - 1));
    for (int64_t column = 0; column < width; column += LANES) {
        __m256 largest = _mm256_set1_ps(LEAST);
        for (int64_t token = 0; token < tokens; token++)
            largest = _mm256_max_ps(largest, magnitude(_mm256_loadu_ps(values + token * step + column)));
        const __m256 factor = _mm256_div_ps(_mm256_set1_ps(LARGEST_WEIGHT), largest);
        _mm256_storeu_ps(head->value_scale + column, _mm256_mul_ps(largest, _mm256_set1_ps(1.0f / LARGEST_WEIGHT)));
        int32_t *place = packed + column / PANEL * (tokens / GROUP) * PANEL + column % PANEL;
        for (int64_t token = 0; token < tokens; token += GROUP) {
            int32_t *panel = place + group_place(tokens, token / GROUP) * PANEL;
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
    return (Linear){.weight = head->values,
                    .start = head->zeros,
                    .scale = head->value_scale,
                    .bias = (const float *)head->zeros,
                    .in = tokens,
                    .out = (width + PANEL - 1) / PANEL * PANEL};
}

/* ROWS rows of scores, still without their bias, to their softmax in integers, and what one of them is worth in each. */
INLINE void softmax(float *scores, const Bias *bias, Input *out, float *worth, int64_t tokens) {
    Floats largest[ROWS], total[ROWS];
    float numbers[ROWS];
    for (int row = 0; row < ROWS; row++) largest[row] = WIDE(set1_ps)(-INFINITY);
    for (int64_t i = 0; i < tokens; i += WIDE_LANES)
        for (int row = 0; row < ROWS; row++) {
            float *at = scores + row * tokens + i;
            Floats score = WIDE(add_ps)(WIDE(loadu_ps)(at), load_bias(bias + row * tokens + i));
            WIDE(storeu_ps)(at, score);
            largest[row] = WIDE(max_ps)(largest[row], score);
        }
    _mm_storeu_ps(numbers, wide_largest_of(largest));
    for (int row = 0; row < ROWS; row++) {
        largest[row] = WIDE(set1_ps)(numbers[row]);
        total[row] = WIDE(setzero_ps)();
    }
    for (int64_t i = 0; i < tokens; i += WIDE_LANES)
        for (int row = 0; row < ROWS; row++) {
            Floats score = WIDE(loadu_ps)(scores + row * tokens + i);
            Whole whole = scaled_exp2(LARGEST_POSITIVE, WIDE(sub_ps)(score, largest[row]));
            total[row] = WIDE(add_ps)(total[row], WIDE(cvtepi32_ps)(whole));
            store_wide(whole, out + row * tokens + i);
        }
    _mm_storeu_ps(worth, _mm_div_ps(_mm_set1_ps(1.0f), wide_sums_of(total)));
}

#if VNNI
/* Scores of ROWS queries with KEYS keys, and each query's largest. */
typedef struct {
    __m512 of[ROWS][MAX_PANELS];
    float largest[ROWS];
} Scores;

/* The softmax of one query's scores in integers, in the order of `group_place`; gives their sum, in parts. */
INLINE __m512 exponents(const Scores *scores, int row, Input *out) {
    const __m512 largest = _mm512_set1_ps(scores->largest[row]);
    __m512i whole[MAX_PANELS];
#pragma GCC unroll 4
    for (int panel = 0; panel < MAX_PANELS; panel++)
        whole[panel] = scaled_exp2(LARGEST_POSITIVE, _mm512_sub_ps(scores->of[row][panel], largest));
    __m512i first = _mm512_packus_epi32(whole[0], whole[1]), second = _mm512_packus_epi32(whole[2], whole[3]);
    _mm512_storeu_si512(out + row * KEYS, _mm512_packus_epi16(first, second));
    return _mm512_cvtepi32_ps(
        _mm512_add_epi32(_mm512_add_epi32(whole[0], whole[1]), _mm512_add_epi32(whole[2], whole[3])));
}

/* Scores of ROWS queries; between the products, which leave other units of the processor idle, the softmax of those
 * `before` them (NULL: none), as `softmax` has it. */
INLINE void score(const Linear *keys, const Input *queries, const float *query_scale, const Bias *bias, Scores *scores,
                  const Scores *before, Input *out, float *worth) {
    Sums sums[ROWS];
    __m512 largest[ROWS], total[ROWS];
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 4
        for (int panel = 0; panel < MAX_PANELS; panel++)
            sums[row][panel] = _mm512_loadu_si512(keys->start + panel * PANEL);
    const int64_t panel_step = PANEL * keys->in;
    int64_t k = 0;
    if (before != NULL) {
#pragma GCC unroll 4
        for (int row = 0; row < ROWS; row++) {
            total[row] = exponents(before, row, out);
            if (k == keys->in) continue; /* narrow heads have fewer groups than there are rows */
            multiply_group(ROWS, MAX_PANELS, queries + k, keys->in, keys->weight + k * PANEL, panel_step, sums);
            k += GROUP;
        }
        _mm_storeu_ps(worth, _mm_div_ps(_mm_set1_ps(1.0f), wide_sums_of(total)));
    }
    for (; k < keys->in; k += GROUP)
        multiply_group(ROWS, MAX_PANELS, queries + k, keys->in, keys->weight + k * PANEL, panel_step, sums);
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++) {
        __m512 *of = scores->of[row];
#pragma GCC unroll 4
        for (int panel = 0; panel < MAX_PANELS; panel++) {
            __m512 scale =
                _mm512_mul_ps(_mm512_set1_ps(query_scale[row]), _mm512_loadu_ps(keys->scale + panel * PANEL));
            of[panel] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[row][panel]), scale,
                                        load_bias(bias + row * KEYS + panel * PANEL));
        }
        largest[row] = _mm512_max_ps(_mm512_max_ps(of[0], of[1]), _mm512_max_ps(of[2], of[3]));
    }
    _mm_storeu_ps(scores->largest, wide_largest_of(largest));
}

/* `exponents` of ROWS queries, and what one of them is worth in each. */
INLINE void exponents_of_rows(const Scores *scores, Input *out, float *worth) {
    __m512 total[ROWS];
    for (int row = 0; row < ROWS; row++) total[row] = exponents(scores, row, out);
    _mm_storeu_ps(worth, _mm_div_ps(_mm_set1_ps(1.0f), wide_sums_of(total)));
}

static void weigh_all_keys(const Head *head, const Linear *keys, const Bias *bias) {
    Scores scores[3]; /* of some queries, and of the two before them: so far behind, the softmax need not wait */
    for (int64_t token = 0; token < KEYS; token += ROWS) {
        const int64_t before = token - 2 * ROWS, place = before < 0 ? 0 : before;
        score(keys, head->queries + token * keys->in, head->query_scale + token, bias + token * KEYS,
              scores + token / ROWS % 3, before < 0 ? NULL : scores + before / ROWS % 3,
              head->probabilities + place * KEYS, head->worth + place);
    }
    for (int64_t token = KEYS - 2 * ROWS; token < KEYS; token += ROWS)
        exponents_of_rows(scores + token / ROWS % 3, head->probabilities + token * KEYS, head->worth + token);
}
#endif

/* How much each query takes of each key's value, in integers, and what one of them is worth in each row. */
static void weigh_keys(const Head *head, const Linear *keys, const Bias *bias, int64_t tokens) {
#if VNNI
    if (tokens == KEYS) {
        weigh_all_keys(head, keys, bias);
        return;
    }
#endif
    linear(WEIGH, keys, head->queries, head->query_scale, head->scores, tokens, tokens);
    for (int64_t token = 0; token < tokens; token += ROWS)
        softmax(head->scores + token * tokens, bias + token * tokens, head->probabilities + token * tokens,
                head->worth + token, tokens);
}

/* qkv: queries, keys and values, (tokens, 3, width) with rows `step` apart -> mixed: (tokens, width), written in whole
 * panels, with rows `mixed_step` apart. bias: (tokens, tokens). Scores are in units of ln 2. */
static void attend(const Head *head, const float *qkv, int64_t step, int64_t tokens, int64_t width, const Bias *bias,
                   float *mixed, int64_t mixed_step) {
    const Linear keys = pack_keys(head, qkv + width, step, tokens, width, head->queries);
    const Linear values = pack_values(head, qkv + 2 * width, step, tokens, width);
    quantise_rows(qkv, step, head->queries, head->query_scale, tokens, width);
    weigh_keys(head, &keys, bias, tokens);
    linear(WEIGH, &values, head->probabilities, head->worth, mixed, mixed_step, tokens);
}
