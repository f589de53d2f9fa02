/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
// Any bytes as model.json: a sidecar whose values keep the promises of the header, or a ModelSidecarError of one line.
#include "otbModelSidecar.h"

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <set>

namespace
{
void Require(bool condition)
{
  if (!condition)
  {
    std::abort();
  }
}

bool IsOneLine(const std::string& text)
{
  for (const unsigned char c : text)
  {
    if (c < 0x20 || c == 0x7F)
    {
      return false;
    }
  }
  return true;
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size)
{
  try
  {
    const auto sidecar = otb::ModelSidecar::Parse(std::string(reinterpret_cast<const char*>(data), size), "model.json");
    Require(sidecar.factor >= 1 && sidecar.factor <= 16 && sidecar.margin <= 4096);
    Require(std::isfinite(sidecar.inputSpacing) && sidecar.inputSpacing >= 0 && std::isfinite(sidecar.noData));
    for (const auto* text : {&sidecar.name, &sidecar.signature, &sidecar.inputName, &sidecar.outputName, &sidecar.outputType})
    {
      Require(!text->empty() && IsOneLine(*text));
    }
    for (const auto* bands : {&sidecar.inputBands, &sidecar.outputBands})
    {
      Require(!bands->empty() && std::set<std::string>(bands->begin(), bands->end()).size() == bands->size());
    }
  }
  catch (const otb::ModelSidecarError& error)
  {
    const std::string message = error.what();
    Require(message.rfind("model.json: ", 0) == 0 && message.size() < 500 && IsOneLine(message));
  }
  return 0;
}
