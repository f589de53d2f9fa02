/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbTensorflowPlaceholder.h"
#include "otbTensorflowTensor.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <locale>
#include <sstream>

namespace otb
{
namespace
{
std::string Trimmed(const std::string& text)
{
  const auto first = text.find_first_not_of(" \t\n\r");
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(" \t\n\r") - first + 1);
}

bool IsWord(const std::string& text, const char* word)
{
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower == word;
}

/** A decimal number, whatever the locale. */
bool ReadReal(const std::string& text, double& value)
{
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  stream >> std::noskipws >> value;
  return !text.empty() && !stream.fail() && stream.peek() == std::istringstream::traits_type::eof();
}

/** A whole number of 64 bits, without the detour through a double. */
template <class TInteger>
bool ReadInteger(const std::string& text, TInteger& value)
{
  const size_t digits = text.find_first_of("0123456789");
  if (digits == std::string::npos || digits > 1 || text.find_first_not_of("0123456789", digits) != std::string::npos ||
      (digits == 1 && text[0] != '-' && text[0] != '+'))
  {
    return false;
  }
  errno = 0;
  if constexpr (std::is_signed<TInteger>::value)
  {
    value = static_cast<TInteger>(std::strtoll(text.c_str(), nullptr, 10));
  }
  else
  {
    value = static_cast<TInteger>(std::strtoull(text.c_str(), nullptr, 10));
    if (text[0] == '-' && value != 0)
    {
      return false;
    }
  }
  return errno == 0;
}

template <class TValue>
bool ReadValue(const std::string& text, TValue& value)
{
  if constexpr (std::is_same<TValue, int64_t>::value || std::is_same<TValue, uint64_t>::value)
  {
    if (ReadInteger(text, value))
    {
      return true;
    }
  }
  double real = 0;
  if constexpr (std::is_same<TValue, tensorflow_tensor::Boolean>::value)
  {
    const bool yes = IsWord(text, "true");
    const bool isNumber = !yes && !IsWord(text, "false") && ReadReal(text, real);
    value.byte = yes || real == 1 ? 1 : 0;
    return isNumber ? real == 0 || real == 1 : yes || IsWord(text, "false");
  }
  else
  {
    if (!ReadReal(text, real))
    {
      return false;
    }
    value = tensorflow_tensor::Convert<TValue>(real);
    if constexpr (std::is_integral<TValue>::value)
    {
      // 2^63 clamped to 2^63 - 1 is 2^63 again as a double
      return static_cast<double>(value) == real && std::abs(real) < 9.2e18;
    }
    return true;
  }
}
} // namespace

UserPlaceholder UserPlaceholder::Parse(const std::string& expression)
{
  UserPlaceholder placeholder;
  placeholder.expression = expression;
  const auto equal = expression.find('=');
  placeholder.name = Trimmed(expression.substr(0, equal));
  if (equal == std::string::npos || placeholder.name.empty())
  {
    throw TensorflowError("user placeholder \"" + expression + "\" is not name=value or name=(value, value)");
  }
  std::string text = Trimmed(expression.substr(equal + 1));
  placeholder.isList = !text.empty() && text.front() == '(';
  if (placeholder.isList != (!text.empty() && text.back() == ')') || text == "(")
  {
    throw TensorflowError("user placeholder \"" + expression + "\" misses a parenthesis; lists are written name=(value, value)");
  }
  if (placeholder.isList)
  {
    text = text.substr(1, text.size() - 2);
  }
  for (size_t begin = 0; begin <= text.size();)
  {
    const auto comma = std::min(text.find(',', begin), text.size());
    placeholder.values.push_back(Trimmed(text.substr(begin, comma - begin)));
    begin = comma + 1;
  }
  if (!placeholder.isList && placeholder.values.size() > 1)
  {
    throw TensorflowError("user placeholder \"" + expression + "\" misses its parentheses; lists are written name=(value, value)");
  }
  if (std::any_of(placeholder.values.begin(), placeholder.values.end(), [](const std::string& value) { return value.empty(); }))
  {
    throw TensorflowError("user placeholder \"" + expression + "\" lacks a value");
  }
  return placeholder;
}

std::vector<int64_t> UserPlaceholder::ShapeFor(const TensorflowTensorInfo& input) const
{
  const auto count = static_cast<int64_t>(values.size());
  if (input.unknownRank)
  {
    return {count};
  }
  auto shape = input.shape;
  int64_t known = 1;
  for (const int64_t size : shape)
  {
    known = size < 0 ? known : std::min(known, count + 1) * std::min(size, count + 1); // whatever is more than count does not fit
  }
  const bool divides = known > 0 && count % known == 0;
  int64_t rest = divides ? count / known : 1;
  for (auto size = shape.rbegin(); size != shape.rend(); ++size)
  {
    if (*size < 0)
    {
      *size = rest;
      rest = 1;
    }
  }
  if (!divides || rest != 1)
  {
    std::string declared;
    for (const int64_t size : input.shape)
    {
      declared += (declared.empty() ? "" : ", ") + (size < 0 ? "?" : std::to_string(size));
    }
    throw TensorflowError("user placeholder \"" + expression + "\" has " + std::to_string(count) + " values, but the model's input \"" +
                          input.key + "\" has the shape [" + declared + "]");
  }
  return shape;
}

void UserPlaceholder::WriteValues(const TensorflowTensorInfo& input, void* to) const
{
  if (tf::SizeOf(input.type) == 0)
  {
    throw TensorflowError("user placeholder \"" + expression + "\": the model's input \"" + input.key + "\" is " + tf::NameOf(input.type) +
                          ", but only numbers and booleans can be given");
  }
  tensorflow_tensor::WithType(input.type,
                              [&](auto null)
                              {
                                auto* typed = static_cast<decltype(null)*>(to);
                                for (size_t k = 0; k < values.size(); ++k)
                                {
                                  if (!ReadValue(values[k], typed[k]))
                                  {
                                    throw TensorflowError("user placeholder \"" + expression + "\": \"" + values[k] + "\" is no value of " +
                                                          tf::NameOf(input.type) + ", the type of the model's input \"" + input.key + "\"");
                                  }
                                }
                              });
}

TensorflowModel::Feed ReadUserPlaceholder(const TensorflowModel& model, const std::string& expression)
{
  const auto placeholder = UserPlaceholder::Parse(expression);
  const auto& input = model.GetInput(placeholder.name);
  const auto shape = placeholder.ShapeFor(input);
  std::vector<uint64_t> memory(placeholder.values.size()); // checked before a tensor is asked for
  placeholder.WriteValues(input, memory.data());
  const auto tensor = model.NewTensor(input.type, shape);
  std::memcpy(model.GetData(tensor), memory.data(), placeholder.values.size() * tf::SizeOf(input.type));
  return {&input, tensor};
}

} // namespace otb
