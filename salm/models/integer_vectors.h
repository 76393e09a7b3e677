/* Vectors and their rounding: number formats for -DBITS=8 and -DBITS=16, vectors of AVX2 or of AVX-512 VNNI (with 8 bits).
 * See swin_integer.c. */
#pragma once
#include "../vectors.h"
#include <stddef.h>

#define ROWS 4       /* that are summed up, or searched for the largest, together */
#define LEAST 1e-30f /* magnitude of a row that is not nothing */

#if BITS == 8
typedef uint8_t Input; /* 128 and a number */
typedef int8_t Weight;
#define GROUP 4 /* products that become a part of one sum together */
#define LARGEST 127.0f
#define LARGEST_POSITIVE 255.0f /* of inputs without a sign */
typedef uint16_t Bias;          /* of attention: half a float */
#else
typedef int16_t Input, Weight;
#define GROUP 2
#define LARGEST 4095.0f /* 13 bits with the sign */
#define LARGEST_POSITIVE LARGEST
typedef float Bias;
#endif

#ifdef __AVX512VNNI__
#define VNNI 1
typedef __m512 Floats; /* outputs that are finished together */
typedef __m512i Whole;
#define WIDE(operation) _mm512_##operation
#define WIDE_LANES 16
#else
#define VNNI 0
typedef __m256 Floats;
typedef __m256i Whole;
#define WIDE(operation) _mm256_##operation
#define WIDE_LANES LANES
#endif

INLINE Whole load_whole(const void *from) { return (Whole)WIDE(loadu_ps)(from); }
INLINE void store_whole(void *to, Whole whole) { WIDE(storeu_ps)(to, (Floats)whole); }

#if BITS == 8
/* Sums of the products of each group, of inputs without a sign and weights; in 16 bits meanwhile where there is no VNNI.
 */
INLINE Whole products(Whole inputs, Whole weights) {
#if VNNI
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), inputs, weights);
#else
    return _mm256_madd_epi16(_mm256_maddubs_epi16(inputs, weights), _mm256_set1_epi16(1));
#endif
}
#endif

/* Of the integers of keys and values. VPMADDUBSW sums two products with inputs of at most 255 in 16 bits. */
#define LARGEST_WEIGHT (BITS == 8 && !VNNI ? 64.0f : LARGEST)

INLINE __m128 both_add_ps(__m256 all) { return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)); }
INLINE __m128 both_max_ps(__m256 all) { return _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)); }

/* `operation` over the lanes of each of ROWS vectors. `halves`: two halves of the lanes to one. */
#define PAIRS(bits, operation, left, right)                                                                            \
    _mm##bits##_##operation(_mm##bits##_shuffle_ps(left, right, 0x88), _mm##bits##_shuffle_ps(left, right, 0xdd))
#define ACROSS(name, Vector, bits, operation, halves)                                                                  \
    INLINE __m128 name(const Vector *vectors) {                                                                        \
        const Vector first = PAIRS(bits, operation, vectors[0], vectors[1]);                                           \
        const Vector second = PAIRS(bits, operation, vectors[2], vectors[3]);                                          \
        return both_##operation(halves(operation, PAIRS(bits, operation, first, second)));                             \
    }
#define AS_IT_IS(operation, all) all
ACROSS(sums_of, __m256, 256, add_ps, AS_IT_IS)
ACROSS(largest_of, __m256, 256, max_ps, AS_IT_IS)
#if VNNI
#define HALVES(operation, all) _mm256_##operation(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1))
ACROSS(wide_sums_of, __m512, 512, add_ps, HALVES)
ACROSS(wide_largest_of, __m512, 512, max_ps, HALVES)
#else
#define wide_sums_of sums_of
#define wide_largest_of largest_of
#endif

INLINE Floats load_bias(const Bias *bias) {
#if VNNI
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)bias));
#elif BITS == 8
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)bias));
#else
    return _mm256_loadu_ps(bias);
#endif
}

INLINE __m256 magnitude(__m256 values) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), values); }

/* `scale` (a constant) times 2^x for x <= 0, in integers. 2^f is its best polynomial: of degree 3 for 0 <= f < 1, to
 * 7.6e-5 of itself, and of degree 5 for |f| <= 1/2, to 4e-7. */
INLINE Whole scaled_exp2(float scale, Floats x) {
#if VNNI
    Floats f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF), p = _mm512_set1_ps(scale * 7.80245872e-2f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(scale * 0.226067189f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(scale * 0.695833450f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(scale * 0.999925223f));
    return _mm512_cvtps_epi32(_mm512_scalef_ps(p, x));
#else
    x = _mm256_max_ps(x, _mm256_set1_ps(-100.0f));
    Whole n = _mm256_cvtps_epi32(x);
    Floats f = _mm256_sub_ps(x, _mm256_cvtepi32_ps(n)), p = _mm256_set1_ps(scale * 1.32764748e-3f);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(scale * 9.67554189e-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(scale * 5.55071309e-2f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(scale * 0.240221202f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(scale * 0.693146944f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(scale * 1.00000012f));
    return _mm256_cvtps_epi32((Floats)_mm256_add_epi32((Whole)p, _mm256_slli_epi32(n, 23)));
#endif
}

#if VNNI
/* GELU is x / 2 and an even rest: its best line of each eighth of |x| up to 31 / 8, and |x| / 2 beyond. Within 8e-4, less
 * than the rounding of the next layer's inputs. */
static const _Alignas(64) float GELU_SLOPES[32] = {
    0.0497382248f, 0.147674427f, 0.241096649f, 0.327340545f, 0.40422251f,  0.470163531f, 0.524255444f, 0.566266639f,
    0.596591377f,  0.616152918f, 0.626274791f, 0.628536531f, 0.624629783f, 0.616228436f, 0.60488277f,  0.591943315f,
    0.578515902f,  0.565445702f, 0.553325481f, 0.54252172f,  0.533211891f, 0.525426624f, 0.519091629f, 0.51406561f,
    0.51017192f,   0.507222981f, 0.505037533f, 0.503451504f, 0.502323673f, 0.501537422f, 0.500999836f, 0.5f};
static const _Alignas(64) float GELU_STARTS[32] = {-0.000775643655f, -0.0129937185f,  -0.0363030296f,  -0.0685790964f,
                                                   -0.106939851f,    -0.148062997f,   -0.188537524f,   -0.225203662f,
                                                   -0.255440067f,    -0.277367476f,   -0.289952202f,   -0.293005303f,
                                                   -0.287104842f,    -0.273423963f,   -0.253551689f,   -0.229282468f,
                                                   -0.202427513f,    -0.174658796f,   -0.147397455f,   -0.121749744f,
                                                   -0.0984871422f,   -0.0780625611f,  -0.0606521743f,  -0.0462119374f,
                                                   -0.034538986f,    -0.0253302076f,  -0.018232795f,   -0.0128840454f,
                                                   -0.0089397272f,   -0.00609184249f, -0.00407752712f, 0};

INLINE Floats gelu(Floats x) {
    const Floats eighths = _mm512_set1_ps(0x1.8p20f); /* leaves whole eighths: n in the lowest bits */
    const Floats size = _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x);
    Whole n = (Whole)_mm512_add_round_ps(size, eighths, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    n = _mm512_min_epi32(n, (Whole)_mm512_set1_ps(0x1.8p20f + 31.0f / 8));
    Floats slope = _mm512_permutex2var_ps(_mm512_load_ps(GELU_SLOPES), n, _mm512_load_ps(GELU_SLOPES + 16));
    Floats start = _mm512_permutex2var_ps(_mm512_load_ps(GELU_STARTS), n, _mm512_load_ps(GELU_STARTS + 16));
    return _mm512_fmadd_ps(x, _mm512_set1_ps(0.5f), _mm512_fmadd_ps(size, slope, start));
}
#else
/* x (1/2 + z P(z^2)) with z = x, but 4.25 at most in magnitude. P makes it 0 and x beyond, and is the best of its
 * degree: 1e-4 from GELU. */
INLINE Floats gelu(Floats x) {
    Floats z = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(4.25f)), _mm256_set1_ps(-4.25f));
    Floats square = _mm256_mul_ps(z, z);
    Floats p = _mm256_set1_ps(-8.46045789e-10f);
    p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(7.57085559e-8f));
    p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(-2.93880657e-6f));
    p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(6.55271506e-5f));
    p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(-9.40448546e-4f));
    p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(9.25783347e-3f));
    p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(-6.54535592e-2f));
    p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(0.398420155f));
    return _mm256_mul_ps(x, _mm256_fmadd_ps(p, z, _mm256_set1_ps(0.5f)));
}
#endif

/* LANES inputs; with 8 bits the lowest byte of each. */
INLINE void store_inputs(__m256i whole, Input *out) {
#if VNNI
    _mm_storel_epi64((__m128i *)out, _mm256_cvtepi32_epi8(whole));
#elif BITS == 8
    whole = _mm256_and_si256(whole, _mm256_set1_epi32(255));
    __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)out, _mm_packus_epi16(packed, packed));
#else
    __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storeu_si128((__m128i *)out, packed);
#endif
}

/* WIDE_LANES of them. */
INLINE void store_wide(Whole whole, Input *out) {
#if VNNI
    _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8(whole));
#else
    store_inputs(whole, out);
#endif
}

/* A row less `mean` (NULL: nothing), times `factor`, as inputs of a layer. */
INLINE void round_row(const float *row, const __m256 *mean, float factor, Input *out, int64_t width) {
    int64_t i = 0;
    const float shift = 0x1.8p23f + 128; /* with 8 bits: leaves the whole number and 128 in the lowest byte of a sum */
#if VNNI
    for (; i + WIDE_LANES <= width; i += WIDE_LANES) {
        __m512 value = _mm512_loadu_ps(row + i);
        if (mean != NULL) value = _mm512_sub_ps(value, _mm512_broadcast_f32x8(*mean));
        store_wide((Whole)_mm512_fmadd_ps(value, _mm512_set1_ps(factor), _mm512_set1_ps(shift)), out + i);
    }
#endif
    for (; i < width; i += LANES) {
        __m256 value = _mm256_loadu_ps(row + i);
        if (mean != NULL) value = _mm256_sub_ps(value, *mean);
        if (BITS == 8)
            store_inputs((__m256i)_mm256_fmadd_ps(value, _mm256_set1_ps(factor), _mm256_set1_ps(shift)), out + i);
        else
            store_inputs(_mm256_cvtps_epi32(_mm256_mul_ps(value, _mm256_set1_ps(factor))), out + i);
    }
}

/* ROWS rows, `step` apart, less `mean` (NULL: nothing), to integers: out (ROWS, width); `worth`: what one of them is in
 * each row. `largest`: of the magnitudes in each, which becomes the integer `most`. */
INLINE void quantise(const float *rows, int64_t step, const __m256 *mean, __m128 largest, float most, Input *out,
                     float *worth, int64_t width) {
    float factors[ROWS];
    __m128 factor = _mm_div_ps(_mm_set1_ps(most), _mm_max_ps(largest, _mm_set1_ps(LEAST)));
    _mm_storeu_ps(factors, factor);
    _mm_storeu_ps(worth, _mm_mul_ps(largest, _mm_set1_ps(1.0f / most)));
    for (int row = 0; row < ROWS; row++)
        round_row(rows + row * step, mean == NULL ? NULL : mean + row, factors[row], out + row * width, width);
}

/* Rows to integers of at most `most` (a constant): out (count, width). */
INLINE void quantise_rows_to(float most, const float *rows, int64_t step, Input *out, float *worth, int64_t count,
                             int64_t width) {
    for (int64_t row = 0; row < count; row += ROWS, rows += ROWS * step, out += ROWS * width) {
        __m256 largest[ROWS];
        for (int i = 0; i < ROWS; i++) largest[i] = magnitude(_mm256_loadu_ps(rows + i * step));
        for (int64_t i = LANES; i < width; i += LANES)
            for (int j = 0; j < ROWS; j++)
                largest[j] = _mm256_max_ps(largest[j], magnitude(_mm256_loadu_ps(rows + j * step + i)));
        quantise(rows, step, NULL, largest_of(largest), most, out, worth + row, width);
    }
}

static void quantise_rows(const float *rows, int64_t step, Input *out, float *worth, int64_t count, int64_t width) {
    quantise_rows_to(LARGEST, rows, step, out, worth, count, width);
}
