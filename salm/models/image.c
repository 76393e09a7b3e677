/* Feature maps, normed, to the image that a branch reads: `MapNorm.image` in one pass, for x86-64 with AVX2.
 *
 * `salm.models.compiled_image` compiles this file and has `Image` once more.
 */
#include "../threads.h"
#include "../vectors.h"
#include <string.h>

#define MELS 64
#define SIDE 256
#define FRAMES (SIDE / MELS * SIDE) /* of an image: its quarters stand one below the other */
#define TOGETHER 16                 /* frames that fill lines of the cache */
#define TAPS 4

typedef struct {
    const float *factor, *shift; /* (maps, MELS) */
    const int64_t *places;       /* (TAPS, FRAMES): frames that an image's frame is made of; NULL: itself */
    const float *weights;        /* (TAPS, FRAMES) */
    int64_t maps;
} Image;

typedef struct {
    Items items; /* TOGETHER frames of a map each */
    const Image *image;
    const float *maps; /* (clips, maps, frames, MELS) */
    float *out;        /* (clips, maps, SIDE, SIDE) */
    int64_t frames;
} Work;

/* The `number`th frame of an image, not normed yet: its mels from `column` on. */
INLINE __m256 frame_at(const Image *image, const float *map, int64_t number, int64_t column) {
    if (image->places == NULL) return _mm256_loadu_ps(map + number * MELS + column);
    __m256 sum = _mm256_setzero_ps();
    for (int64_t tap = number; tap < TAPS * FRAMES; tap += FRAMES)
        sum = _mm256_fmadd_ps(_mm256_broadcast_ss(image->weights + tap),
                              _mm256_loadu_ps(map + image->places[tap] * MELS + column), sum);
    return sum;
}

static void run(void *data) {
    Work *work = data;
    const Image *image = work->image;
    const int64_t filled = image->places == NULL ? work->frames : FRAMES; /* behind them the image is zero */
    for (int64_t item; (item = work->items.next++) < work->items.count;) {
        const int64_t number = item / (FRAMES / TOGETHER), first = item % (FRAMES / TOGETHER) * TOGETHER;
        const float *map = work->maps + number * work->frames * MELS;
        const float *factor = image->factor + number % image->maps * MELS;
        const float *shift = image->shift + number % image->maps * MELS;
        _Alignas(32) float frames[TOGETHER][MELS];
        for (int i = 0; i < TOGETHER; i++) {
            if (first + i >= filled) {
                memset(frames[i], 0, sizeof frames[i]);
                continue;
            }
            for (int64_t column = 0; column < MELS; column += LANES)
                _mm256_store_ps(frames[i] + column,
                                _mm256_fmadd_ps(frame_at(image, map, first + i, column),
                                                _mm256_loadu_ps(factor + column), _mm256_loadu_ps(shift + column)));
        }
        float *out = work->out + (number * SIDE + first / SIDE * MELS) * SIDE + first % SIDE;
        for (int64_t column = 0; column < MELS; column += LANES)
            for (int64_t i = 0; i < TOGETHER; i += LANES) {
                __m256 block[LANES];
                for (int j = 0; j < LANES; j++) block[j] = _mm256_load_ps(frames[i + j] + column);
                transpose(block);
                for (int j = 0; j < LANES; j++) _mm256_storeu_ps(out + (column + j) * SIDE + i, block[j]);
            }
    }
}

/* maps (clips, maps, frames, MELS) -> out (clips, maps, SIDE, SIDE); `frames`: at most FRAMES. */
void salm_image(const Image *image, const float *maps, float *out, int64_t clips, int64_t frames, Parallel parallel,
                int threads) {
    Work work = {.image = image,
                 .maps = maps,
                 .out = out,
                 .frames = frames,
                 .items.count = clips * image->maps * (FRAMES / TOGETHER)};
    share_out(run, &work, &work.items, parallel, threads);
}
