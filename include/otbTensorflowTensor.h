/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowTensor_h
#define otbTensorflowTensor_h

#include "otbTensorflowLibrary.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace otb
{

/** \brief Values of tensors from and to pixels: every numeric type of TensorFlow, in loops that compilers vectorise.
 *
 * Integers are rounded to the nearest (halves away from zero) and clamped. A 64 bit integer passes unchanged through a double up to 2^53.
 * Quantised types are the integers that they are stored as.
 */
namespace tensorflow_tensor
{
/** IEEE 754 binary16. */
struct Half
{
  uint16_t bits;
};

/** The upper half of a float. */
struct BFloat16
{
  uint16_t bits;
};

/** One byte, 0 or not. */
struct Boolean
{
  uint8_t byte;
};

inline float FloatOfBits(uint32_t bits)
{
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t BitsOfFloat(float value)
{
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

/** A float between whose rounding to half or bfloat16 and that of the double there is no difference: inexact results have an odd last bit.
 */
inline float RoundedToOdd(double value)
{
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || !(std::abs(value) <= std::numeric_limits<float>::max()))
  {
    return nearest;
  }
  const bool tooFar = std::abs(static_cast<double>(nearest)) > std::abs(value);
  return FloatOfBits((BitsOfFloat(nearest) - (tooFar ? 1u : 0u)) | 1u);
}

/** Nearest half, ties to even; 65520 and more are infinite. */
inline Half HalfOf(float value)
{
  const uint32_t bits = BitsOfFloat(value), magnitude = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
  const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  // Below 2^-14 a half is a multiple of 2^-24: the sum with 2^23 leaves that multiple in the last bits.
  const uint32_t subnormal = BitsOfFloat(FloatOfBits(magnitude < 0x38800000u ? magnitude : 0u) * 16777216.0f + 8388608.0f) - 0x4b000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return {static_cast<uint16_t>(sign | half)};
}

inline float FloatOf(Half half)
{
  const uint32_t magnitude = half.bits & 0x7fffu, sign = static_cast<uint32_t>(half.bits & 0x8000u) << 16;
  const uint32_t shifted = magnitude << 13;
  const uint32_t subnormal = BitsOfFloat(static_cast<float>(static_cast<int32_t>(magnitude)) * (1.0f / 16777216.0f));
  uint32_t bits = shifted + (112u << 23);
  bits = magnitude < 0x400u ? subnormal : bits;
  bits = magnitude >= 0x7c00u ? shifted + (224u << 23) : bits;
  return FloatOfBits(sign | bits);
}

/** Nearest bfloat16, ties to even. */
inline BFloat16 BFloat16Of(float value)
{
  const uint32_t bits = BitsOfFloat(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded)};
}

inline float FloatOf(BFloat16 value)
{
  return FloatOfBits(static_cast<uint32_t>(value.bits) << 16);
}

/** One value as another type: integers are rounded to the nearest and clamped, and take `notANumber` for NaN. */
template <class TOutput, class TValue>
inline TOutput Convert(TValue value, TOutput notANumber = TOutput())
{
  using Limits = std::numeric_limits<TOutput>;
  if constexpr (std::is_same<TOutput, TValue>::value)
  {
    return value;
  }
  else if constexpr (std::is_same<TValue, Half>::value || std::is_same<TValue, BFloat16>::value)
  {
    return Convert<TOutput>(FloatOf(value), notANumber);
  }
  else if constexpr (std::is_same<TValue, Boolean>::value)
  {
    return static_cast<TOutput>(value.byte != 0 ? 1 : 0);
  }
  else if constexpr (std::is_same<TOutput, Half>::value)
  {
    return HalfOf(sizeof(TValue) <= 2 || std::is_same<TValue, float>::value ? static_cast<float>(value)
                                                                            : RoundedToOdd(static_cast<double>(value)));
  }
  else if constexpr (std::is_same<TOutput, BFloat16>::value)
  {
    return BFloat16Of(sizeof(TValue) <= 2 || std::is_same<TValue, float>::value ? static_cast<float>(value)
                                                                                : RoundedToOdd(static_cast<double>(value)));
  }
  else if constexpr (std::is_same<TOutput, Boolean>::value)
  {
    return {static_cast<uint8_t>(value < 0 || value > 0 ? 1 : 0)}; // NaN: no
  }
  else if constexpr (std::is_floating_point<TOutput>::value)
  {
    return static_cast<TOutput>(value);
  }
  else if constexpr (std::is_integral<TValue>::value)
  {
    if constexpr (std::is_signed<TValue>::value)
    {
      if constexpr (std::is_unsigned<TOutput>::value)
      {
        using Unsigned = typename std::make_unsigned<TValue>::type;
        value = value < 0 ? TValue(0) : value;
        return static_cast<Unsigned>(value) > Limits::max() ? Limits::max() : static_cast<TOutput>(value);
      }
      else
      {
        return value < Limits::min() ? Limits::min() : value > Limits::max() ? Limits::max() : static_cast<TOutput>(value);
      }
    }
    else
    {
      using Unsigned = typename std::make_unsigned<TOutput>::type;
      return value > static_cast<Unsigned>(Limits::max()) ? Limits::max() : static_cast<TOutput>(value);
    }
  }
  else if constexpr (sizeof(TOutput) <= 4)
  {
    // float holds all 8 and 16 bit integers, double all of 32 bits
    using Working = typename std::conditional<(sizeof(TOutput) <= 2), TValue, double>::type;
    using Integer = typename std::conditional<(sizeof(TOutput) <= 2), int32_t, int64_t>::type;
    constexpr auto low = static_cast<Working>(Limits::min());
    constexpr auto high = static_cast<Working>(Limits::max());
    // no branches, and comparisons that NaN fails: see -fno-trapping-math in src/CMakeLists.txt
    const auto given = static_cast<Working>(value);
    auto work = given > low ? given : low;
    work = work < high ? work : high;
    const auto whole = static_cast<Integer>(work);
    const auto rest = work - static_cast<Working>(whole); // exact; the sum with 0.5 would not be
    const auto rounded = static_cast<TOutput>(whole + static_cast<Integer>(2 * rest));
    const bool nan = !(given == given);
    return nan ? notANumber : rounded;
  }
  else
  {
    const auto work = static_cast<double>(value);
    constexpr double low = static_cast<double>(Limits::min()), end = static_cast<double>(Limits::max()); // the maximum + 1, as it rounds up
    if (work != work)
    {
      return notANumber;
    }
    return work <= low ? Limits::min() : work >= end ? Limits::max() : static_cast<TOutput>(std::round(work));
  }
}

#if defined(__SSE2__)
/** Convert<TOutput> of four floats, for integers of 16 bits, as 32 bits each: GCC makes many more instructions of it. */
template <class TOutput>
inline __m128i RoundedFour(const float* values, __m128i notANumber)
{
  const __m128 given = _mm_loadu_ps(values);
  const __m128 low = _mm_set1_ps(std::numeric_limits<TOutput>::min()), high = _mm_set1_ps(std::numeric_limits<TOutput>::max());
  const __m128 work = _mm_min_ps(_mm_max_ps(given, low), high);
  const __m128i whole = _mm_cvttps_epi32(work);
  const __m128 rest = _mm_sub_ps(work, _mm_cvtepi32_ps(whole));
  const __m128i rounded = _mm_add_epi32(whole, _mm_cvttps_epi32(_mm_add_ps(rest, rest)));
  const __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(given, given));
  return _mm_or_si128(_mm_and_si128(nan, notANumber), _mm_andnot_si128(nan, rounded));
}

/** The same of eight, packed. */
template <class TOutput>
inline void RoundEight(const float* values, TOutput* to, __m128i notANumber)
{
  __m128i first = RoundedFour<TOutput>(values, notANumber), second = RoundedFour<TOutput>(values + 4, notANumber);
  if constexpr (std::is_unsigned<TOutput>::value) // there is no unsigned pack
  {
    const __m128i half = _mm_set1_epi32(32768);
    first = _mm_sub_epi32(first, half);
    second = _mm_sub_epi32(second, half);
  }
  __m128i packed = _mm_packs_epi32(first, second);
  if constexpr (std::is_unsigned<TOutput>::value)
  {
    packed = _mm_xor_si128(packed, _mm_set1_epi16(-32768));
  }
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
}
#endif

/** Convert of `count` values, one after the other. */
template <class TOutput, class TValue>
inline void ConvertAll(const TValue* values, TOutput* to, size_t count, TOutput notANumber = TOutput())
{
  size_t k = 0;
#if defined(__SSE2__)
  if constexpr (std::is_same<TValue, float>::value && std::is_integral<TOutput>::value && sizeof(TOutput) == 2)
  {
    const __m128i instead = _mm_set1_epi32(notANumber);
    for (; k + 8 <= count; k += 8)
    {
      RoundEight(values + k, to + k, instead);
    }
  }
#endif
  for (; k < count; ++k)
  {
    to[k] = Convert<TOutput>(values[k], notANumber);
  }
}

/** Calls `call(value)` with a null value of the C++ type that a tensor's values have. \throws TensorflowError for types without numbers. */
template <class TCall>
void WithType(tf::DataType type, TCall call)
{
  switch (type)
  {
  case tf::Float:
    return call(float());
  case tf::Double:
    return call(double());
  case tf::Half:
    return call(Half());
  case tf::BFloat16:
    return call(BFloat16());
  case tf::UInt8:
  case tf::QUInt8:
    return call(uint8_t());
  case tf::Int8:
  case tf::QInt8:
    return call(int8_t());
  case tf::UInt16:
  case tf::QUInt16:
    return call(uint16_t());
  case tf::Int16:
  case tf::QInt16:
    return call(int16_t());
  case tf::UInt32:
    return call(uint32_t());
  case tf::Int32:
  case tf::QInt32:
    return call(int32_t());
  case tf::UInt64:
    return call(uint64_t());
  case tf::Int64:
    return call(int64_t());
  case tf::Bool:
    return call(Boolean());
  default:
    throw TensorflowError("tensors of " + tf::NameOf(type) +
                          " hold no pixels; export the model with float16, bfloat16, float32, float64, bool or an integer type");
  }
}

/** `count` pixel values into a tensor's values of the given type. \throws TensorflowError for types without numbers. */
template <class TPixel>
void FromPixels(tf::DataType type, const TPixel* pixels, void* values, size_t count)
{
  WithType(type,
           [&](auto null)
           {
             using Value = decltype(null);
             ConvertAll(pixels, static_cast<Value*>(values), count);
           });
}

/** `count` values of a tensor into pixel values; NaN becomes `notANumber` in integers. \throws TensorflowError for types without numbers.
 */
template <class TPixel>
void ToPixels(tf::DataType type, const void* values, TPixel* pixels, size_t count, TPixel notANumber = TPixel(0))
{
  WithType(type, [&](auto null) { ConvertAll(static_cast<const decltype(null)*>(values), pixels, count, notANumber); });
}

/** The same for `count` pixels of `bands` values, into pixels that are `stride` values apart: one of several tensors stacked band-wise. */
template <class TPixel>
void ToPixels(tf::DataType type, const void* values, TPixel* pixels, size_t count, size_t bands, size_t stride, TPixel notANumber)
{
  if (bands == stride)
  {
    return ToPixels(type, values, pixels, count * bands, notANumber);
  }
  WithType(type,
           [&](auto null)
           {
             const auto* from = static_cast<const decltype(null)*>(values);
             for (size_t k = 0; k < count; ++k)
             {
               for (size_t band = 0; band < bands; ++band)
               {
                 pixels[k * stride + band] = Convert<TPixel>(from[k * bands + band], notANumber);
               }
             }
           });
}

/** Coarse pixels between the one that is converted and the one that is fetched: processors do not do it by themselves beyond a page. */
constexpr size_t FetchedAhead = 8;

/** Where memory will be read soon: a hint, for any address. */
inline void PrefetchFrom(const void* address)
{
#if defined(__GNUC__)
  __builtin_prefetch(address);
#endif
}

/** First of several, and how many. */
struct Span
{
  size_t first, count;
};

/** Rows of fine pixels from a line of coarse ones, whose channels they are, in the order (row phase, column phase, band).
 * \param values of the line, from its first coarse pixel on
 * \param pixels of the first row; the next are `stride` values apart
 * \param phases row phases
 * \param columns fine ones
 * \param factor fine pixels along a side of a coarse one */
template <class TPixel>
void ToPixelsOfPhases(tf::DataType type, const void* values, TPixel* pixels, size_t stride, Span phases, Span columns, size_t factor,
                      size_t bands, TPixel notANumber)
{
  WithType(type,
           [&](auto null)
           {
             using Value = decltype(null);
             const size_t length = factor * bands, step = factor * length; // values of a coarse pixel's row phase, and of all of them
             const size_t begin = columns.first * bands, end = begin + columns.count * bands;
             for (size_t coarse = begin / length; coarse * length < end; ++coarse)
             {
               const size_t low = std::max(begin, coarse * length), high = std::min(end, (coarse + 1) * length);
               const auto* from = static_cast<const Value*>(values) + coarse * step + phases.first * length + (low - coarse * length);
               TPixel* to = pixels + (low - begin);
               for (size_t row = 0; row < phases.count; ++row, from += length, to += stride)
               {
                 PrefetchFrom(from + FetchedAhead * step);
                 if (high - low == 16) // factor 4, four bands: a length that compilers know and unroll
                 {
                   ConvertAll(from, to, 16, notANumber);
                 }
                 else
                 {
                   ConvertAll(from, to, high - low, notANumber);
                 }
               }
             }
           });
}

} // namespace tensorflow_tensor
} // namespace otb

#endif
