/* Patches, blocks and patch merging of a Swin transformer with matrix products of integers, for x86-64.
 *
 * Compiled for processors with AVX2, FMA and F16C, with -DBITS=16 or -DBITS=8, the latter also for AVX-512 VNNI.
 * `salm.models.integer` compiles this file, lays the weights out as it expects them, and has the structures below once
 * more. One window after the other goes through a whole block, so that it stays in its core's cache.
 *
 * A linear layer's inputs are scaled row by row, to 8 bits or to 13, its weights output by output such that no sum can
 * leave 32 bits (see `salm.models.integer`). VPDPBUSD sums four products of which one factor has no sign: 128 is added
 * to each input, and taken off again where the sums start. So it is for VPMADDUBSW, which sums two of them in 16 bits.
 * VPMADDWD sums two products of 16-bit numbers. Attention is two such layers, whose weights are the keys and the values.
 * All else is float32: patches, norms, softmax, GELU and residual sums; with 8 bits the bias of attention is half
 * floats.
 *
 * Counts: `in`, `out`, `head_width` and `tokens` are multiples of 8, 16, 8 and 16.
 */
#include "integer_blocks.h"

typedef struct {
    const Block *blocks;
    int64_t count;
    const Merge *merge; /* NULL: none */
} Stage;

typedef struct {
    const Patches *patches;
    const Stage *const *stages;
    const Norm *norm; /* of the last tokens */
} Branch;

/* One branch, or two that are coupled before each stage. */
typedef struct {
    const Branch *branches[2];    /* the second one NULL: none */
    const float *const *stitches; /* of each stage: (4, width), see `run_stitch` */
    int64_t stages;
} Tower;

/* images (clips, maps, side, side) -> out (clips, (side / PATCH)^2, width). */
int salm_patches(const Patches *patches, const float *images, int64_t maps, float *out, int64_t clips,
                 Parallel parallel, int threads) {
    Work work = {.layer = patches, .image = images, .maps = maps, .out = out};
    work.items.count = clips * (patches->side / PATCH);
    return share_out(run_patches, &work, &work.items, parallel, threads);
}

/* The blocks of a stage, and the merging of their tokens, if any: images (clips, tokens, width) -> out, of the same size,
 * which may be the same, and merged (clips, tokens / 4, 2 width); 0 without memory. */
int salm_stage(const Stage *stage, const float *images, float *out, float *merged, int64_t clips, Parallel parallel,
               int threads) {
    for (int64_t i = 0; i < stage->count; i++) {
        Work work = {.layer = stage->blocks + i, .image = i == 0 ? images : out, .out = out};
        if (!share_out_block(&work, clips, parallel, threads)) return 0;
    }
    if (stage->merge == NULL) return 1;
    Work work = {.layer = stage->merge, .image = out, .out = merged};
    return share_out_merge(&work, clips, parallel, threads);
}

typedef struct {
    Items items; /* ROWS tokens each */
    const float *weight;
    const Norm *norm;
    float *first, *second;
    int64_t width;
} Rows;

/* Tokens of two branches mixed: first * own + second * taken, and second * kept + (what first is now) * given. */
static void run_stitch(void *data) {
    Rows *rows = data;
    const int64_t width = rows->width;
    const float *own = rows->weight, *taken = own + width, *given = taken + width, *kept = given + width;
    for (int64_t item; (item = rows->items.next++) < rows->items.count;)
        for (int64_t row = item * ROWS; row < (item + 1) * ROWS; row++)
            for (int64_t i = 0; i < width; i += LANES) {
                float *first_at = rows->first + row * width + i, *second_at = rows->second + row * width + i;
                __m256 second = _mm256_loadu_ps(second_at);
                __m256 first = _mm256_mul_ps(_mm256_loadu_ps(first_at), _mm256_loadu_ps(own + i));
                first = _mm256_fmadd_ps(second, _mm256_loadu_ps(taken + i), first);
                second = _mm256_mul_ps(second, _mm256_loadu_ps(kept + i));
                second = _mm256_fmadd_ps(first, _mm256_loadu_ps(given + i), second);
                _mm256_storeu_ps(first_at, first);
                _mm256_storeu_ps(second_at, second);
            }
}

static void run_norm(void *data) {
    Rows *rows = data;
    for (int64_t item; (item = rows->items.next++) < rows->items.count;) {
        const int64_t place = item * ROWS * rows->width;
        norm_tokens(rows->norm, rows->first + place, rows->second + place, rows->width);
    }
}

/* Tokens of some clips in each branch: now, (clips, tokens, width), and place for those of the next stage. */
typedef struct {
    float *now[2], *next[2];
    int64_t clips, tokens, width;
} Tokens;

static int count_branches(const Tower *tower) { return tower->branches[1] == NULL ? 1 : 2; }

/* Gives the memory that `tokens` then points into, or NULL. */
static void *take_room(const Tower *tower, Tokens *tokens) {
    const int64_t now = tokens->clips * tokens->tokens * tokens->width, next = now / 2;
    float *memory = aligned_alloc(LINE, whole_lines(count_branches(tower) * (now + next) * sizeof(float)));
    for (int i = 0; memory != NULL && i < count_branches(tower); i++) {
        tokens->now[i] = memory + i * (now + next);
        tokens->next[i] = tokens->now[i] + now;
    }
    return memory;
}

/* The stages from `first` up to `end`, each behind its cross-stitch. */
static int run_stages(const Tower *tower, int64_t first, int64_t end, Tokens *tokens, Parallel parallel, int threads) {
    for (int64_t stage = first; stage < end; stage++) {
        if (count_branches(tower) == 2) {
            Rows rows = {.weight = tower->stitches[stage],
                         .first = tokens->now[0],
                         .second = tokens->now[1],
                         .width = tokens->width};
            rows.items.count = tokens->clips * tokens->tokens / ROWS;
            share_out(run_stitch, &rows, &rows.items, parallel, threads);
        }
        for (int i = 0; i < count_branches(tower); i++) {
            const Stage *layers = tower->branches[i]->stages[stage];
            float *now = tokens->now[i];
            if (!salm_stage(layers, now, now, tokens->next[i], tokens->clips, parallel, threads)) return 0;
            if (layers->merge == NULL) continue;
            tokens->now[i] = tokens->next[i];
            tokens->next[i] = now;
        }
        if (tower->branches[0]->stages[stage]->merge == NULL) continue;
        tokens->tokens /= 4;
        tokens->width *= 2;
    }
    return 1;
}

/* The first stages have many tokens, which stay in the cache clip by clip; the others have large weights, which are
 * fetched once for all clips. */
#define EARLY 2

/* Patches and the first `early` stages of one clip, which becomes the one at `place` in `all`. */
static int begin_clip(const Tower *tower, const float *image, int64_t maps, int64_t early, const Tokens *all,
                      int64_t place, Parallel parallel, int threads) {
    const Patches *patches = tower->branches[0]->patches;
    const int64_t line = patches->side / PATCH, size = all->tokens * all->width;
    Tokens clip = {.clips = 1, .tokens = line * line, .width = patches->width};
    void *memory = take_room(tower, &clip);
    int done = memory != NULL;
    for (int i = 0; done && i < count_branches(tower); i++)
        done = salm_patches(tower->branches[i]->patches, image, maps, clip.now[i], 1, parallel, threads);
    done = done && run_stages(tower, 0, early, &clip, parallel, threads);
    for (int i = 0; done && i < count_branches(tower); i++)
        memcpy(all->now[i] + place * size, clip.now[i], size * sizeof(float));
    free(memory);
    return done;
}

/* images (clips, maps, side, side) -> out: the normed last tokens of each branch, (clips, tokens, width); 0 without
 * memory. */
int salm_tower(const Tower *tower, const float *images, int64_t maps, float *const *out, int64_t clips,
               Parallel parallel, int threads) {
    const Patches *patches = tower->branches[0]->patches;
    const int64_t side = patches->side, line = side / PATCH, early = smaller(EARLY, tower->stages - 1);
    if (clips == 0) return 1;
    Tokens all = {.clips = clips, .tokens = line * line >> 2 * early, .width = patches->width << early};
    void *memory = take_room(tower, &all);
    int done = memory != NULL;
    for (int64_t clip = 0; done && clip < clips; clip++)
        done = begin_clip(tower, images + clip * maps * side * side, maps, early, &all, clip, parallel, threads);
    done = done && run_stages(tower, early, tower->stages, &all, parallel, threads);
    for (int i = 0; done && i < count_branches(tower); i++) {
        Rows rows = {.norm = tower->branches[i]->norm, .first = all.now[i], .second = out[i], .width = all.width};
        rows.items.count = clips * all.tokens / ROWS;
        share_out(run_norm, &rows, &rows.items, parallel, threads);
    }
    free(memory);
    return done;
}
