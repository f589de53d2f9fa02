/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
// Any bytes as a serialized MetaGraphDef: signatures no larger than the input, or a TensorflowError.
#include "otbTensorflowModel.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)
{
  try
  {
    size_t read = 0;
    for (const auto& signature : otb::ReadTensorflowSignatures(data, size))
    {
      for (const auto* tensors : {&signature.second.inputs, &signature.second.outputs})
      {
        for (const auto& tensor : *tensors)
        {
          read += tensor.second.tensor.size() + tensor.second.shape.size() + otb::tf::SizeOf(tensor.second.type);
          read += otb::tf::NameOf(tensor.second.type).empty() ? 1 : 0;
          if (tensor.first != tensor.second.key)
          {
            std::abort();
          }
        }
      }
    }
    if (read > 8 * size)
    {
      std::abort();
    }
  }
  catch (const otb::TensorflowError&)
  {
  }
  return 0;
}
