/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWrapperNanParameter_h
#define otbWrapperNanParameter_h

#include "otbWrapperApplication.h"

#include <limits>
#include <string>

namespace otb
{
namespace Wrapper
{

/** Lets a parameter of type float be "nan": OTB makes the largest allowed value of it, so that must be one that tells. */
inline void AllowNan(Application& application, const std::string& key)
{
  application.SetMaximumParameterFloatValue(key, std::numeric_limits<float>::infinity());
}

/** The value of such a parameter. */
inline double GetFloatOrNan(Application& application, const std::string& key)
{
  const double value = application.GetParameterFloat(key);
  return value == std::numeric_limits<double>::infinity() ? std::numeric_limits<double>::quiet_NaN() : value;
}

} // namespace Wrapper
} // namespace otb

#endif
