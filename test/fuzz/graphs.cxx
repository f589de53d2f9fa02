/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
// Any bytes as a serialized GraphDef: an obstacle, a frozen graph that has no variable left, or a TensorflowError.
#include "otbFrozenGraph.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)
{
  const std::vector<std::string> kept = {"StatefulPartitionedCall"}; // the models' signatures
  try
  {
    const otb::FrozenGraph frozen(data, size, kept);
    if (!frozen.GetObstacle().empty())
    {
      return 0;
    }
    const float value = 1;
    const std::string written = frozen.Write(
        [&](const std::string&) {
          return otb::FrozenGraph::Value{otb::tf::Float, {}, &value, sizeof(value)};
        });
    const otb::FrozenGraph again(reinterpret_cast<const uint8_t*>(written.data()), written.size(), kept);
    if (!again.GetObstacle().empty() || !again.GetVariables().empty())
    {
      std::abort();
    }
  }
  catch (const otb::TensorflowError&)
  {
  }
  return 0;
}
