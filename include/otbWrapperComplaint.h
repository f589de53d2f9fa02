/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWrapperComplaint_h
#define otbWrapperComplaint_h

#include "itkMacro.h"

#include <exception>
#include <string>

namespace otb
{
namespace Wrapper
{

/** What `work` throws, for the application's one FATAL message; empty when it ends well. Applications tell it by otbAppLogFATAL, which only
 * their own members can call. \ingroup OTBSuperResolutionTools */
template <class TWork>
std::string ComplaintOf(const TWork& work)
{
  try
  {
    work();
    return {};
  }
  catch (const std::exception& error)
  {
    return *error.what() == '\0' ? "unknown error" : error.what();
  }
}

/** The same but for exceptions of ITK, which pass: OTB tells them itself. */
template <class TWork>
std::string OwnComplaintOf(const TWork& work)
{
  std::exception_ptr passing;
  const std::string complaint = ComplaintOf(
      [&]()
      {
        try
        {
          work();
        }
        catch (const itk::ExceptionObject&)
        {
          passing = std::current_exception();
        }
      });
  if (passing)
  {
    std::rethrow_exception(passing);
  }
  return complaint;
}

} // namespace Wrapper
} // namespace otb

#endif
