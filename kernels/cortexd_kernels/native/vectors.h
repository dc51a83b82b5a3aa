// Vectors of floats as wide as the instruction set has them, and weights read into them.
//
// Everything here rounds as written, whatever the compiler makes of it: the library is built without contraction of products and
// sums, and `fma` says where one rounding is meant. A loop over vectors and the same loop over more rows therefore give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
using vf = __m512;
#elif defined(__AVX2__)
using vf = __m256;
#elif defined(__ARM_NEON)
using vf = float32x4_t;
#else
typedef float vf __attribute__((vector_size(16)));
#endif

constexpr int VL = sizeof(vf) / sizeof(float);
typedef int32_t vi __attribute__((vector_size(sizeof(vf))));

inline vf load(const float* p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}

inline void store(float* p, vf x) { memcpy(p, &x, sizeof x); }

inline vf broadcast(float x) { return vf{} + x; }

inline vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_NEON)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

inline vf root(vf x) {
#if defined(__AVX512F__)
    return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(x);
#else
    for (int i = 0; i < VL; i++) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

// The sum of all lanes: halves are added until one number is left.
inline float sum(vf x) {
#if defined(__AVX2__) || defined(__AVX512F__)
#if defined(__AVX512F__)
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
#else
    __m256 half = x;
#endif
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}

// e^x to 2 units in the last place; 0 and infinity are never reached, and what is not a number stays none.
inline vf exponential(vf x) {
    const vf highest = broadcast(88.0f), lowest = broadcast(-87.0f), magic = broadcast(12582912.0f);  // 1.5 * 2^23 rounds
    x = x > highest ? highest : x;
    x = x < lowest ? lowest : x;
    vf n = fma(x, broadcast(1.44269504f), magic);
    vi bits;
    memcpy(&bits, &n, sizeof bits);
    bits = (bits - 0x4b400000 + 127) << 23;
    vf scale;
    memcpy(&scale, &bits, sizeof scale);
    n = n - magic;
    x = fma(n, broadcast(-0.693359375f), x);
    x = fma(n, broadcast(2.12194440e-4f), x);
    vf p = broadcast(1.9875691500e-4f);
    p = fma(p, x, broadcast(1.3981999507e-3f));
    p = fma(p, x, broadcast(8.3334519073e-3f));
    p = fma(p, x, broadcast(4.1665795894e-2f));
    p = fma(p, x, broadcast(1.6666665459e-1f));
    p = fma(p, x, broadcast(5.0000001201e-1f));
    p = fma(p * x, x, x) + 1.0f;
    return p * scale;
}

inline vf sigmoid(vf x) { return 1.0f / (1.0f + exponential(-x)); }

inline vf hyperbolic_tangent(vf x) { return 1.0f - 2.0f / (1.0f + exponential(x + x)); }

// Weights as they lie in memory. `load(row, k, scales)` gives those of columns k to k + VL of a row, in fp32.
// A row of columns numbers takes `columns * bits / 8` bytes.

struct Float32 {
    static constexpr int bits = 32;
    static vf load(const char* row, int k) { return ::load(reinterpret_cast<const float*>(row) + k); }
};

struct Bfloat16 {
    static constexpr int bits = 16;
    static vf load(const char* row, int k) {
        const char* p = row + 2 * k;
#if defined(__AVX512F__)
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
#elif defined(__AVX2__)
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
#else
        uint16_t half[VL];
        memcpy(half, p, sizeof half);
        vi bits;
        for (int i = 0; i < VL; i++) bits[i] = half[i] << 16;
        vf x;
        memcpy(&x, &bits, sizeof x);
        return x;
#endif
    }
};

struct Float16 {
    static constexpr int bits = 16;
    static vf load(const char* row, int k) {
        const char* p = row + 2 * k;
#if defined(__AVX512F__)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
        uint16_t half[VL];
        memcpy(half, p, sizeof half);
        vi bits;
        for (int i = 0; i < VL; i++) bits[i] = (half[i] & 0x7fff) << 13;
        vf x;
        memcpy(&x, &bits, sizeof x);
        x = x * 0x1p112f;  // the exponent's other bias; subnormals come out right too
        const vi infinite = (bits >= 0x0f800000) & 0x7f800000;
        memcpy(&bits, &x, sizeof bits);
        bits |= infinite;
        for (int i = 0; i < VL; i++) bits[i] |= (int32_t)((uint32_t)(half[i] & 0x8000) << 16);
        memcpy(&x, &bits, sizeof x);
        return x;
#endif
    }
};

struct Int8 {
    static constexpr int bits = 8;
    static vf load(const char* row, int k) {
        const char* p = row + k;
#if defined(__AVX512F__)
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
        vf x;
        for (int i = 0; i < VL; i++) x[i] = (signed char)p[i];
        return x;
#endif
    }
};

}  // namespace
