// Vectors of floats as wide as the instruction set has them, and weights read into them.
//
// Everything here rounds as written, whatever the compiler makes of it: the library is built without contraction of products and
// sums, and `fma` says where one rounding is meant. A loop over vectors and the same loop over more rows therefore give the same bits.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <vector>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
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
typedef int16_t vs __attribute__((vector_size(sizeof(vf))));  // twice as many
typedef int16_t half_vs __attribute__((vector_size(sizeof(vf) / 2)));

// Numbers that begin with a line of the cache, so that no vector lies across two.
template <class T>
struct InLines {
    using value_type = T;
    static constexpr std::align_val_t line{64};
    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), line)); }
    void deallocate(T* p, size_t) { ::operator delete(p, line); }
    bool operator==(const InLines&) const { return true; }
};
using Floats = std::vector<float, InLines<float>>;

inline vf load(const float* p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}

inline void store(float* p, vf x) { memcpy(p, &x, sizeof x); }

// The first `count` of a vector, zero from there on.
inline vf load(const float* p, int count) {
    if (count >= VL) return load(p);
    vf x{};
    memcpy(&x, p, count * sizeof(float));
    return x;
}

inline void store(float* p, vf x, int count) {
    if (count >= VL) return store(p, x);
    memcpy(p, &x, count * sizeof(float));
}

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

// x, computed here and now, and not again from memory for each use.
template <class V>
inline V in_register(V x) {
#if defined(__x86_64__)
    asm("" : "+v"(x));
#endif
    return x;
}

// sums + a[2i] b[2i] + a[2i + 1] b[2i + 1] in each lane i, exactly.
inline vi add_pairs(vs a, vs b, vi sums) {
#if defined(__AVX512F__)
    sums += (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    sums += (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    sums += (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    const vi p = (vi)a, q = (vi)b;  // the lower half of each lane comes first
    sums += (p << 16 >> 16) * (q << 16 >> 16) + (p >> 16) * (q >> 16);
#endif
    return in_register(sums);  // else the compiler adds in another order, which takes more registers than there are
}

// As many signed bytes as `vs` has numbers.
inline vs widen(const char* p) {
#if defined(__AVX512F__)
    return (vs)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
    return (vs)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
#else
    typedef signed char bytes __attribute__((vector_size(sizeof(vs) / 2)));
    bytes x;
    memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, vs);
#endif
}

// VL signed bytes.
inline vi widen_to_32(const char* p) {
#if defined(__AVX512F__)
    return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
    return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
    vi x;
    for (int i = 0; i < VL; i++) x[i] = (signed char)p[i];
    return x;
#endif
}

inline vf to_floats(vi x) { return __builtin_convertvector(x, vf); }
inline vf to_floats(vf x) { return x; }

// The nearest integers of numbers between -2^22 and 2^22.
inline vi nearest(vf x) {
    x = x + 12582912.0f;  // 1.5 * 2^23
    vi bits;
    memcpy(&bits, &x, sizeof bits);
    return bits - 0x4b400000;
}

inline vf magnitude(vf x) {
    vi bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0x7fffffff;
    memcpy(&x, &bits, sizeof x);
    return x;
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

#if defined(__AVX2__) || defined(__AVX512F__)
typedef float eight_floats __attribute__((vector_size(32)));
typedef int32_t eight_ints __attribute__((vector_size(32)));

inline eight_floats neighbours(eight_floats a, eight_floats b) { return _mm256_hadd_ps(a, b); }
inline eight_ints neighbours(eight_ints a, eight_ints b) { return (eight_ints)_mm256_hadd_epi32((__m256i)a, (__m256i)b); }

// The sums of the lanes of eight vectors.
template <class Eight, class V>
inline Eight eight_sums(const V* x, int stride) {
    auto half = [&](int i) {
        const auto* p = reinterpret_cast<const __m256i*>(x + i * stride);
        return sizeof(V) == sizeof *p ? (Eight)_mm256_loadu_si256(p) : (Eight)_mm256_loadu_si256(p) + (Eight)_mm256_loadu_si256(p + 1);
    };
    auto four = [&](int i) { return neighbours(neighbours(half(i), half(i + 1)), neighbours(half(i + 2), half(i + 3))); };
    const __m256 a = (__m256)four(0), b = (__m256)four(4);
    return (Eight)_mm256_permute2f128_ps(a, b, 0x20) + (Eight)_mm256_permute2f128_ps(a, b, 0x31);
}
#endif

// The sums of the lanes of VL vectors, of floats or of integers, that lie `stride` vectors apart: halves are added, then neighbours.
template <class V>
inline V sums_of(const V* x, int stride) {
    V y;
#if defined(__AVX2__) || defined(__AVX512F__)
    using Eight = std::conditional_t<std::is_floating_point_v<decltype(V{}[0] + 0)>, eight_floats, eight_ints>;
    for (int i = 0; i < VL; i += 8) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(&y) + i / 8, (__m256i)eight_sums<Eight>(x + i * stride, stride));
    }
#else
    for (int i = 0; i < VL; i++) y[i] = (x[i * stride][0] + x[i * stride][2]) + (x[i * stride][1] + x[i * stride][3]);
#endif
    return y;
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

// Weights as they lie in memory. A row takes `bytes(columns)`. `load(row, k)` gives the numbers of columns k to k + VL in fp32, and
// `scaled` what a factor becomes for them where they have a scale of their own.

struct Float32 {
    static constexpr size_t bytes(size_t columns) { return 4 * columns; }
    static vf scaled(vf factor, const char*, int) { return factor; }
    static vf load(const char* row, int k) { return ::load(reinterpret_cast<const float*>(row) + k); }
};

struct Bfloat16 {
    static constexpr size_t bytes(size_t columns) { return 2 * columns; }
    static vf scaled(vf factor, const char*, int) { return factor; }
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
    static constexpr size_t bytes(size_t columns) { return 2 * columns; }
    static vf scaled(vf factor, const char*, int) { return factor; }
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
    static constexpr size_t bytes(size_t columns) { return columns; }
    static vf load(const char* row, int k) { return to_floats(widen_to_32(row + k)); }
    static vf scaled(vf factor, const char*, int) { return factor; }
};

// Groups of 32 columns, -8 to 7 each, beside the signed byte that scales them: of the 16 bytes before it, byte i holds column i in its
// lower and column i + 16 in its upper half.
struct Int4 {
    static constexpr int group = 32, group_bytes = 17, largest = 8 * 127;
    static constexpr size_t bytes(size_t columns) { return columns / group * group_bytes; }
    static vf load(const char* row, int k) {
        const vi both = widen_to_32(row + bytes(k) + k % 16);
        return to_floats(k % group < 16 ? both << 28 >> 28 : both >> 4);
    }
    static vf scaled(vf factor, const char* row, int k) { return factor * (float)(signed char)row[bytes(k) + group_bytes - 1]; }

    // The group at p, scaled, in the order of its columns.
    static constexpr int parts = group / (2 * VL);
    static void widen(const char* p, vs (&numbers)[parts]) {
#if defined(__AVX512F__)
        vs left;
        for (int i = 0; i < 2 * VL; i++) left[i] = i < 16 ? 12 : 8;
        const __m128i both = _mm_loadu_si128((const __m128i*)p);
        numbers[0] = (vs)_mm512_cvtepi8_epi16(_mm256_broadcastsi128_si256(both)) << left >> 12;
#else
        for (int i = 0; i < parts / 2; i++) {
            const vs both = ::widen(p + i * 2 * VL);
            numbers[i] = both << 12 >> 12, numbers[parts / 2 + i] = both >> 4;
        }
#endif
        int16_t last;  // its upper half is the scale
        memcpy(&last, p + group_bytes - sizeof last, sizeof last);
        const vs scale = in_register(vs{} + last) >> 8;
        for (vs& part : numbers) part *= scale;
    }
};

}  // namespace
