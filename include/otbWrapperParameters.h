/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWrapperParameters_h
#define otbWrapperParameters_h

#include "otbServedImage.h"

#include "otbMacro.h"
#include "otbWrapperApplication.h"
#include "otbWrapperNumericalParameter.h"
#include "otbWrapperOutputImageParameter.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

/** \file
 * What OTB itself lets pass without a word: values that it changes, files that it overwrites. */

namespace otb
{
namespace Wrapper
{

/** \class CheckedNumber
 * \brief A numerical parameter of OTB's that takes no text but a number; OTB reads a word as 0, and "12x" or, for an integer, "12.5" as 12.
 * \ingroup OTBSuperResolutionTools
 */
template <class TParameter>
class CheckedNumber : public TParameter
{
public:
  using Self = CheckedNumber;
  using Pointer = itk::SmartPointer<Self>;
  itkNewMacro(Self);

  /** Put one in the place of the parameter `key`, with all that is known of that. */
  static void Replace(Application& application, std::string key)
  {
    const typename TParameter::Pointer old = dynamic_cast<TParameter*>(application.GetParameterByKey(key, false));
    const Pointer checked = Self::New();
    checked->m_FullKey = key;
    checked->SetName(old->GetName());
    checked->SetDescription(old->GetDescription());
    checked->SetMandatory(old->GetMandatory());
    checked->SetUserLevel(old->GetUserLevel());
    checked->SetRole(old->GetRole());
    checked->SetMinimumValue(old->GetMinimumValue());
    checked->SetMaximumValue(old->GetMaximumValue());
    checked->SetDefaultValue(old->GetDefaultValue());
    checked->SetAutomaticValue(old->GetAutomaticValue());
    if (old->HasValue())
    {
      checked->SetValue(old->GetValue());
    }
    checked->SetUserValue(old->HasUserValue());
    checked->SetActive(old->GetActive());
    application.GetParameterList()->ReplaceParameter(key, checked.GetPointer());
  }

  /** \throws ServedImageError if the text is no number, or none that the parameter can hold */
  void FromString(const std::string& text) override
  {
    using Limits = std::numeric_limits<typename TParameter::ScalarType>;
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    const bool isNumber =
        end != text.c_str() && text.find_first_not_of(" \t\r\n", static_cast<size_t>(end - text.c_str())) == std::string::npos;
    if (!isNumber || (Limits::is_integer && !(value == std::floor(value) && value >= static_cast<double>(Limits::lowest()) &&
                                              value <= static_cast<double>(Limits::max()))))
    {
      std::ostringstream said;
      said << m_FullKey << " is \"" << text << "\", expected " << (Limits::is_integer ? "an integer" : "a number");
      if (Limits::is_integer && isNumber)
      {
        said << " from " << Limits::lowest() << " to " << Limits::max();
      }
      throw ServedImageError(said.str());
    }
    TParameter::FromString(text);
  }

protected:
  CheckedNumber() = default;
  ~CheckedNumber() override = default;

private:
  std::string m_FullKey; ///< that of the parameter itself has no groups before it
};

/** Let none of an application's own numbers be a word; for the end of its DoInit. */
inline void RefuseWords(Application& application)
{
  for (const auto& key : application.GetParametersKeys(true))
  {
    switch (application.GetParameterByKey(key, false)->GetType())
    {
    case ParameterType_Int:
      CheckedNumber<IntParameter>::Replace(application, key);
      break;
    case ParameterType_Float:
      CheckedNumber<FloatParameter>::Replace(application, key);
      break;
    case ParameterType_RAM:
      CheckedNumber<RAMParameter>::Replace(application, key);
      break;
    default:
      break;
    }
  }
}

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

/** The value of an integer parameter. A minimum that OTB knows would be taken instead of what the user gives.
 * \throws ServedImageError if it is less than `least` */
inline int GetIntegerFrom(Application& application, const std::string& key, int least)
{
  const int value = application.GetParameterInt(key);
  if (value < least)
  {
    throw ServedImageError(key + " is " + std::to_string(value) + ", expected an integer of " + std::to_string(least) + " or more");
  }
  return value;
}

/** The same of a real one from `least` to `most`. */
inline double GetRealWithin(Application& application, const std::string& key, double least, double most)
{
  const double value = application.GetParameterFloat(key);
  if (!(value >= least && value <= most))
  {
    std::ostringstream said;
    said << key << " is " << value << ", expected a number from " << least << " to " << most;
    throw ServedImageError(said.str());
  }
  return value;
}

/** The extended file name of an output image; empty if it has none, in memory. OTB gives a name without an ending ".tif" when it writes: so
 * it is done here, or the product would be looked for under a name that nobody writes. */
inline std::string GetProductName(Application& application, const std::string& key)
{
  auto* parameter = dynamic_cast<OutputImageParameter*>(application.GetParameterByKey(key));
  if (parameter == nullptr || std::string(parameter->GetFileName()).empty())
  {
    return "";
  }
  const std::string note = parameter->CheckFileName(true);
  if (!note.empty())
  {
    otbLogMacro(Warning, << application.GetName() << ": " << key << ": " << note);
  }
  return parameter->GetFileName();
}

/** The extended file names that a parameter holds; none if it is of another kind, or in memory. */
inline std::vector<std::string> GetFileNames(Application& application, const std::string& key)
{
  switch (application.GetParameterType(key))
  {
  case ParameterType_InputImageList:
  case ParameterType_InputFilenameList:
    return application.GetParameterStringList(key);
  case ParameterType_InputImage:
  case ParameterType_InputFilename:
  case ParameterType_OutputImage:
  case ParameterType_OutputFilename:
    return {application.GetParameterAsString(key)};
  default:
    return {};
  }
}

/** \throws ServedImageError if the file of the output `key` is that of another parameter, too: it would be overwritten while it is read, or
 * one product by another */
inline void RequireOwnFile(Application& application, const std::string& key)
{
  namespace fs = std::filesystem;
  const auto pathOf = [](const std::string& name)
  {
    std::error_code failed;
    const fs::path path = FileOfExtendedName(name), whole = fs::weakly_canonical(fs::absolute(path, failed), failed);
    return failed ? path : whole;
  };
  for (const auto& mine : GetFileNames(application, key))
  {
    for (const auto& other : application.GetParametersKeys(true))
    {
      if (other == key || !application.IsParameterEnabled(other) || !application.HasValue(other))
      {
        continue;
      }
      for (const auto& theirs : GetFileNames(application, other))
      {
        if (!mine.empty() && !theirs.empty() && pathOf(mine) == pathOf(theirs))
        {
          throw ServedImageError(key + " and " + other + " are one file: " + FileOfExtendedName(mine) + "; choose another name for " + key);
        }
      }
    }
  }
}

} // namespace Wrapper
} // namespace otb

#endif
