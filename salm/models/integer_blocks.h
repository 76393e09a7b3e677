/* Patches, blocks and patch merging, each for the items that one thread takes. See swin_integer.c. */
#pragma once
#include "../threads.h"
#include "integer_attention.h"
#include <stdlib.h>

#define PATCH 4
#define PART_ROWS 8 /* of a part of a window, or a multiple: whole tiles */

typedef struct {
    const float *weight, *bias;
    float eps;
} Norm;

/* 4 x 4 patches of an image to tokens. */
typedef struct {
    const float *weight, *bias; /* (maps, PATCH, PATCH, width), (width) */
    Norm norm;
    int64_t maps, width, side; /* side: of the image, a multiple of PATCH * ROWS */
} Patches;

/* The weights of norms are in those of the layers behind them; what is left of a norm is its `eps`. */
typedef struct {
    Linear qkv, proj, fc1, fc2; /* outputs of qkv: query, key, value of each head, (heads, 3, head_width) */
    const Bias *bias;           /* (kinds, heads, tokens, tokens), in units of ln 2 as all scores */
    const int64_t *kind;        /* (windows): whose bias it is */
    const int64_t *order;       /* (windows, tokens): places in the image */
    int64_t width, heads, head_width, tokens, windows;
    float eps1, eps2;
} Block;

typedef struct {
    Linear reduction;
    const int64_t *order; /* (out_tokens, 4): places in the image */
    int64_t width, out_tokens;
    float eps;
} Merge;

INLINE void broadcast_rows(__m128 numbers, __m256 *rows) {
    float each[ROWS];
    _mm_storeu_ps(each, numbers);
    for (int row = 0; row < ROWS; row++) rows[row] = _mm256_broadcast_ss(each + row);
}

INLINE void find_means(const float *in, int64_t in_step, int64_t width, __m256 *mean) {
    __m256 total[ROWS];
    for (int row = 0; row < ROWS; row++) total[row] = _mm256_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES)
        for (int row = 0; row < ROWS; row++)
            total[row] = _mm256_add_ps(total[row], _mm256_loadu_ps(in + row * in_step + i));
    broadcast_rows(_mm_div_ps(sums_of(total), _mm_set1_ps(width)), mean);
}

/* One over the deviation from the mean of each of ROWS rows, and the largest such difference. */
INLINE __m128 find_deviations(const float *in, int64_t in_step, int64_t width, float eps, const __m256 *mean,
                              __m128 *largest) {
    __m256 squares[ROWS], most[ROWS];
    for (int row = 0; row < ROWS; row++) squares[row] = most[row] = _mm256_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES)
        for (int row = 0; row < ROWS; row++) {
            __m256 centred = _mm256_sub_ps(_mm256_loadu_ps(in + row * in_step + i), mean[row]);
            squares[row] = _mm256_fmadd_ps(centred, centred, squares[row]);
            most[row] = _mm256_max_ps(most[row], magnitude(centred));
        }
    *largest = largest_of(most);
    __m128 variance = _mm_div_ps(sums_of(squares), _mm_set1_ps(width));
    return _mm_div_ps(_mm_set1_ps(1.0f), _mm_sqrt_ps(_mm_add_ps(variance, _mm_set1_ps(eps))));
}

/* Layer norm without weights, as integers: in, rows `in_step` apart -> out (rows, width), `worth`: what one of them is. */
static void norm_rows(float eps, const float *in, int64_t in_step, Input *out, float *worth, int64_t rows,
                      int64_t width) {
    for (int64_t row = 0; row < rows; row += ROWS, in += ROWS * in_step, out += ROWS * width) {
        __m256 mean[ROWS];
        __m128 largest;
        find_means(in, in_step, width, mean);
        __m128 factor = find_deviations(in, in_step, width, eps, mean, &largest);
        quantise(in, in_step, mean, largest, LARGEST, out, worth + row, width);
        _mm_storeu_ps(worth + row, _mm_mul_ps(_mm_loadu_ps(worth + row), factor));
    }
}

/* Layer norm of ROWS rows: rows (ROWS, width) -> out (ROWS, width), which may be the same. */
INLINE void norm_tokens(const Norm *norm, const float *rows, float *out, int64_t width) {
    __m256 mean[ROWS], factor[ROWS];
    __m128 largest;
    find_means(rows, width, width, mean);
    broadcast_rows(find_deviations(rows, width, width, norm->eps, mean, &largest), factor);
    for (int64_t i = 0; i < width; i += LANES) {
        __m256 weight = _mm256_loadu_ps(norm->weight + i), bias = _mm256_loadu_ps(norm->bias + i);
        for (int row = 0; row < ROWS; row++) {
            __m256 centred = _mm256_sub_ps(_mm256_loadu_ps(rows + row * width + i), mean[row]);
            __m256 normed = _mm256_mul_ps(centred, factor[row]);
            _mm256_storeu_ps(out + row * width + i, _mm256_fmadd_ps(normed, weight, bias));
        }
    }
}

/* The memory for one window. */
typedef struct {
    float *tokens; /* (tokens, fc2.out): residual sums */
    float *wide;   /* outputs of layers, (tokens, out) */
    float *mixed;  /* values mixed by attention, (tokens, proj.in + PANEL): heads are written in whole panels */
    float *scale;  /* (tokens): what an integer is worth */
    Input *whole;  /* inputs of layers, (tokens, in) */
    Head head;
} Scratch;

static int64_t larger(int64_t first, int64_t second) { return first > second ? first : second; }
static int64_t smaller(int64_t first, int64_t second) { return first < second ? first : second; }

#define LINE 64 /* bytes of a line of the cache */
static int64_t whole_lines(int64_t size) { return (size + LINE - 1) / LINE * LINE; }

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
        {&scratch->whole, count * widest * sizeof(Input)},
        {&scratch->head.queries, count * block->head_width * sizeof(Input)},
        {&scratch->head.probabilities, count * count * sizeof(Input)},
        {&scratch->head.keys, count * block->head_width * sizeof(Weight)},
        {&scratch->head.values, count * padded * sizeof(Weight)},
        {&scratch->head.key_start, count * sizeof(int32_t)},
        {&scratch->head.zeros, larger(count, padded) * sizeof(int32_t)},
        {&scratch->head.key_scale, count * sizeof(float)},
        {&scratch->head.value_scale, padded * sizeof(float)},
        {&scratch->head.scores, count * count * sizeof(float)},
        {&scratch->head.query_scale, count * sizeof(float)},
        {&scratch->head.worth, count * sizeof(float)},
    };
    const int64_t num_parts = sizeof parts / sizeof *parts;
    int64_t total = 0;
    for (int64_t i = 0; i < num_parts; i++) total += parts[i].size = whole_lines(parts[i].size);
    char *memory = aligned_alloc(LINE, total), *next = memory;
    if (memory == NULL) return NULL;
    for (int64_t i = 0; i < num_parts; next += parts[i++].size) memcpy(parts[i].part, &next, sizeof next);
    memset(scratch->head.values, 0, count * padded * sizeof(Weight));
    memset(scratch->head.key_start, 0, count * sizeof(int32_t));
    memset(scratch->head.zeros, 0, larger(count, padded) * sizeof(int32_t));
    memset(scratch->head.value_scale, 0, padded * sizeof(float));
    return memory;
}

/* Heads whose queries, keys and values fill whole tiles, and stay in the cache until they are used. */
static int64_t heads_together(const Block *block) {
    int64_t count = 1;
    while (count < block->heads && count * 3 * block->head_width % (TILE_PANELS * PANEL)) count++;
    return count;
}

/* Norm and attention of the heads from `first` up to `end`, which start and end where `heads_together` has them. */
static void mix_tokens(const Block *block, const Scratch *scratch, const Bias *bias, int64_t first, int64_t end) {
    const int64_t each = 3 * block->head_width, together = heads_together(block);
    norm_rows(block->eps1, scratch->tokens, block->fc2.out, scratch->whole, scratch->scale, block->tokens,
              block->width);
    for (int64_t count; first < end; first += count) {
        count = smaller(together, end - first);
        const int64_t columns = first + count < block->heads ? count * each : block->qkv.out - first * each;
        const Linear qkv = columns_of(&block->qkv, first * each, columns);
        linear(STORE, &qkv, scratch->whole, scratch->scale, scratch->wide, columns, block->tokens);
        for (int64_t head = first; head < first + count; head++)
            attend(&scratch->head, scratch->wide + (head - first) * each, columns, block->tokens, block->head_width,
                   bias + head * block->tokens * block->tokens, scratch->mixed + head * block->head_width,
                   block->proj.in + PANEL);
    }
}

/* What comes after attention: its projection and the MLP, of the first `rows` tokens. */
static void transform_tokens(const Block *block, const Scratch *scratch, int64_t rows) {
    const int64_t step = block->fc2.out;
    quantise_rows(scratch->mixed, block->proj.in + PANEL, scratch->whole, scratch->scale, rows, block->proj.in);
    linear(ADD, &block->proj, scratch->whole, scratch->scale, scratch->tokens, step, rows);
    norm_rows(block->eps2, scratch->tokens, step, scratch->whole, scratch->scale, rows, block->width);
    linear(GELU, &block->fc1, scratch->whole, scratch->scale, scratch->wide, block->fc1.out, rows);
    quantise_rows(scratch->wide, block->fc1.out, scratch->whole, scratch->scale, rows, block->fc1.out);
    linear(ADD, &block->fc2, scratch->whole, scratch->scale, scratch->tokens, step, rows);
}

/* Where the window is of which an item is a part. */
typedef struct {
    const int64_t *order; /* of its tokens, in the clip */
    const Bias *bias;
    const float *image;
    float *out, *mixed;
    int64_t part;
} Place;

typedef struct Work {
    Items items;
    const void *layer; /* Patches, a Block or a Merge */
    const float *image;
    float *out;
    int64_t maps; /* of an image, for patches: they are of the first ones */
    int64_t rows; /* of an item, for a Merge */
    /* For a Block. A window is `parts` items, `step` is what is done with each. mixed, for two steps: what attention gave,
     * (windows, tokens, proj.in). */
    int64_t parts;
    void (*step)(const struct Work *work, const Place *place, const Scratch *scratch);
    float *mixed;
} Work;

static Place place_of(const Work *work, int64_t item) {
    const Block *block = work->layer;
    const int64_t count = block->tokens, window = item / work->parts, of_clip = window % block->windows;
    const int64_t clip = (window - of_clip) * count * block->width;
    return (Place){.order = block->order + of_clip * count,
                   .bias = block->bias + block->kind[of_clip] * block->heads * count * count,
                   .image = work->image + clip,
                   .out = work->out + clip,
                   .mixed = work->mixed == NULL ? NULL : work->mixed + window * count * block->proj.in,
                   .part = item % work->parts};
}

/* How many of `most` tokens follow one another in the image and in `scratch`. */
static int64_t run_of(const Block *block, const int64_t *order, int64_t most) {
    int64_t run = 1;
    while (run < most && order[run] == order[0] + run && block->fc2.out == block->width) run++;
    return run;
}

/* The window's tokens from `first` up to `end`, to be the first of `scratch`. */
static void take_tokens(const Block *block, const Place *place, const Scratch *scratch, int64_t first, int64_t end) {
    const int64_t width = block->width;
    float *to = scratch->tokens;
    for (int64_t run; first < end; first += run, to += run * block->fc2.out) {
        run = run_of(block, place->order + first, end - first);
        memcpy(to, place->image + place->order[first] * width, run * width * sizeof(float));
    }
}

/* The reverse. */
static void give_tokens(const Block *block, const Place *place, const Scratch *scratch, int64_t first, int64_t end) {
    const int64_t width = block->width;
    const float *from = scratch->tokens;
    for (int64_t run; first < end; first += run, from += run * block->fc2.out) {
        run = run_of(block, place->order + first, end - first);
        memcpy(place->out + place->order[first] * width, from, run * width * sizeof(float));
    }
}

/* The steps of a block: all of it, or the attention of some heads, and then the rest for some tokens. */
static void whole_window(const Work *work, const Place *place, const Scratch *scratch) {
    const Block *block = work->layer;
    take_tokens(block, place, scratch, 0, block->tokens);
    mix_tokens(block, scratch, place->bias, 0, block->heads);
    transform_tokens(block, scratch, block->tokens);
    give_tokens(block, place, scratch, 0, block->tokens);
}

static void some_heads(const Work *work, const Place *place, const Scratch *scratch) {
    const Block *block = work->layer;
    const int64_t together = heads_together(block), groups = (block->heads + together - 1) / together;
    const int64_t first = groups * place->part / work->parts * together;
    const int64_t end = smaller(groups * (place->part + 1) / work->parts * together, block->heads);
    if (first == end) return; /* more parts than heads */
    take_tokens(block, place, scratch, 0, block->tokens);
    mix_tokens(block, scratch, place->bias, first, end);
    const int64_t column = first * block->head_width, size = (end - first) * block->head_width * sizeof(float);
    for (int64_t token = 0; token < block->tokens; token++)
        memcpy(place->mixed + token * block->proj.in + column,
               scratch->mixed + token * (block->proj.in + PANEL) + column, size);
}

static void some_tokens(const Work *work, const Place *place, const Scratch *scratch) {
    const Block *block = work->layer;
    const int64_t groups = block->tokens / PART_ROWS;
    const int64_t first = groups * place->part / work->parts * PART_ROWS;
    const int64_t end = groups * (place->part + 1) / work->parts * PART_ROWS;
    take_tokens(block, place, scratch, first, end);
    for (int64_t token = first; token < end; token++)
        memcpy(scratch->mixed + (token - first) * (block->proj.in + PANEL), place->mixed + token * block->proj.in,
               block->proj.in * sizeof(float));
    transform_tokens(block, scratch, end - first);
    give_tokens(block, place, scratch, first, end);
}

static void run_block(void *data) {
    Work *work = data;
    Scratch scratch;
    void *memory = take_memory(work->layer, &scratch);
    for (int64_t item; memory != NULL && (item = work->items.next++) < work->items.count;) {
        const Place place = place_of(work, item);
        work->step(work, &place, &scratch);
    }
    if (memory == NULL) work->items.failed = 1;
    free(memory);
}

/* A block of all clips: window after window, or, where there are fewer windows than threads, part after part of them.
 * Gives whether there was memory enough. */
static int share_out_block(Work *work, int64_t clips, Parallel parallel, int threads) {
    const Block *block = work->layer;
    const int64_t windows = clips * block->windows;
    if (windows == 0) return 1;
    work->parts = smaller((threads + windows - 1) / windows, block->tokens / PART_ROWS);
    work->items.count = windows * work->parts;
    work->step = work->parts == 1 ? whole_window : some_heads;
    if (work->parts == 1) return share_out(run_block, work, &work->items, parallel, threads);
    work->mixed = malloc(windows * block->tokens * block->proj.in * sizeof(float));
    if (work->mixed == NULL) return 0;
    int done = share_out(run_block, work, &work->items, parallel, threads);
    work->items.next = 0; /* once more, for the second step */
    work->step = some_tokens;
    done = done && share_out(run_block, work, &work->items, parallel, threads);
    free(work->mixed);
    return done;
}

/* ROWS neighbouring patches, the first at `image`, to `vectors` vectors (a constant) of their tokens. */
INLINE void embed_patches(int vectors, const Patches *patches, const float *image, float *tokens, int64_t column) {
    const int64_t width = patches->width, side = patches->side;
    const float *weight = patches->weight + column;
    __m256 sums[ROWS][3];
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 3
        for (int i = 0; i < vectors; i++) sums[row][i] = _mm256_loadu_ps(patches->bias + column + i * LANES);
    for (int64_t line = 0; line < patches->maps * PATCH; line++) {
        const float *pixels = image + (line / PATCH * side + line % PATCH) * side;
        for (int x = 0; x < PATCH; x++, weight += width) {
            __m256 weights[3];
#pragma GCC unroll 3
            for (int i = 0; i < vectors; i++) weights[i] = _mm256_loadu_ps(weight + i * LANES);
#pragma GCC unroll 4
            for (int row = 0; row < ROWS; row++) {
                __m256 pixel = _mm256_broadcast_ss(pixels + row * PATCH + x);
#pragma GCC unroll 3
                for (int i = 0; i < vectors; i++) sums[row][i] = _mm256_fmadd_ps(pixel, weights[i], sums[row][i]);
            }
        }
    }
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 3
        for (int i = 0; i < vectors; i++) _mm256_storeu_ps(tokens + row * width + column + i * LANES, sums[row][i]);
}

static void run_patches(void *data) {
    Work *work = data;
    const Patches *patches = work->layer;
    const int64_t width = patches->width, side = patches->side, per_line = side / PATCH;
    for (int64_t line; (line = work->items.next++) < work->items.count;) {
        const float *image = work->image + (line / per_line * work->maps * side + line % per_line * PATCH) * side;
        float *tokens = work->out + line * per_line * width;
        for (int64_t first = 0; first < per_line; first += ROWS, image += ROWS * PATCH, tokens += ROWS * width) {
            int64_t column = 0;
            for (; column + 3 * LANES <= width; column += 3 * LANES) embed_patches(3, patches, image, tokens, column);
            for (; column < width; column += LANES) embed_patches(1, patches, image, tokens, column);
            norm_tokens(&patches->norm, tokens, tokens, width);
        }
    }
}

#define MERGED_ROWS 64 /* at a time, at most */

static void run_merge(void *data) {
    Work *work = data;
    const Merge *merge = work->layer;
    const int64_t width = merge->width, wide = 4 * width, rows = work->rows;
    float *memory = malloc(rows * (wide + 1) * sizeof(float) + rows * wide * sizeof(Input));
    if (memory == NULL) {
        work->items.failed = 1;
        return;
    }
    float *joined = memory, *scale = joined + rows * wide;
    Input *whole = (Input *)(scale + rows);
    for (int64_t item; (item = work->items.next++) < work->items.count;) {
        for (int64_t row = 0; row < rows; row++) {
            const int64_t token = item * rows + row, place = token % merge->out_tokens;
            const float *clip = work->image + (token - place) * wide;
            for (int64_t part = 0; part < 4; part++)
                memcpy(joined + row * wide + part * width, clip + merge->order[4 * place + part] * width,
                       width * sizeof(float));
        }
        norm_rows(merge->eps, joined, wide, whole, scale, rows, wide);
        linear(STORE, &merge->reduction, whole, scale, work->out + item * rows * 2 * width, 2 * width, rows);
    }
    free(memory);
}

static int share_out_merge(Work *work, int64_t clips, Parallel parallel, int threads) {
    const Merge *merge = work->layer;
    const int64_t tokens = clips * merge->out_tokens;
    for (work->rows = MERGED_ROWS; work->rows > ROWS && (tokens % work->rows || tokens < threads * work->rows);)
        work->rows /= 2;
    work->items.count = tokens / work->rows;
    return share_out(run_merge, work, &work->items, parallel, threads);
}
