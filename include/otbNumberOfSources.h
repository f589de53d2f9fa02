/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbNumberOfSources_h
#define otbNumberOfSources_h

#include <cstdlib>
#include <string>

namespace otb
{

/** \brief Reads OTB_TF_NSOURCES: how many groups "source1", "source2"... an application has.
 *
 * \return 1 when the variable is unset. 0 when it is not an integer from 1 to 99: `value` is what it holds, for the message.
 * \ingroup OTBSuperResolutionTools
 */
inline unsigned int ReadNumberOfSources(std::string& value)
{
  const char* text = std::getenv("OTB_TF_NSOURCES");
  if (text == nullptr)
  {
    return 1;
  }
  value = text;
  const bool isInteger = !value.empty() && value.size() <= 2 && value.find_first_not_of("0123456789") == std::string::npos;
  return isInteger ? static_cast<unsigned int>(std::stoi(value)) : 0;
}

} // namespace otb

#endif
