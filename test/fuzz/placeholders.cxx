/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
// Any model's input (type and shape) and any text as its user placeholder: values that fill exactly the tensor, or a TensorflowError.
#include "otbTensorflowPlaceholder.h"

#include <cstdlib>
#include <cstring>
#include <memory>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)
{
  // type, rank (255: unknown), a byte or eight a dimension, the text
  const uint8_t* const end = data + size;
  const auto next = [&]() -> uint8_t
  {
    return data < end ? *data++ : 0;
  };
  otb::TensorflowTensorInfo input;
  input.key = "input";
  input.type = static_cast<otb::tf::DataType>(next());
  const unsigned int rank = next();
  input.unknownRank = rank == 255;
  for (unsigned int k = 0; k < rank % 8; ++k)
  {
    int64_t length = static_cast<int8_t>(next());
    if (length == 127 && end - data >= 8)
    {
      std::memcpy(&length, data, 8);
      data += 8;
    }
    input.shape.push_back(length);
  }
  try
  {
    const auto placeholder = otb::UserPlaceholder::Parse(std::string(data, end));
    size_t count = 1;
    for (const int64_t length : placeholder.ShapeFor(input))
    {
      count *= static_cast<size_t>(length);
    }
    if (placeholder.values.empty() || count != placeholder.values.size())
    {
      std::abort();
    }
    const std::unique_ptr<char[]> values(new char[count * otb::tf::SizeOf(input.type)]);
    placeholder.WriteValues(input, values.get());
  }
  catch (const otb::TensorflowError&)
  {
  }
  return 0;
}
