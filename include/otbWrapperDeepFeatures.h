/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWrapperDeepFeatures_h
#define otbWrapperDeepFeatures_h

#include "otbLegacyMacros.h"
#include "otbNumberOfSources.h"

#include "otbMacro.h"
#include "otbWrapperApplicationRegistry.h"
#include "otbWrapperCompositeApplication.h"

#include <dlfcn.h>

#include <string>
#include <vector>

namespace otb
{
namespace Wrapper
{

/** \class DeepFeatures
 * \brief What the applications share that hand the outputs of a TensorFlow model to one of OTB's learning applications, in memory.
 * \ingroup OTBSuperResolutionTools
 */
class DeepFeatures : public CompositeApplication
{
public:
  using Self = DeepFeatures;
  using Pointer = itk::SmartPointer<Self>;
  itkTypeMacro(DeepFeatures, otb::Wrapper::CompositeApplication);

protected:
  /** Makes TensorflowModelServe the internal application "features", with its parameters in the groups sourceN, `modelGroup`, output and
   * optim; and `learning` the internal application "learning". Without them this application has no parameters, and says why.
   * \param needed what the learning application itself is made of: OTB crashes if one of these is missing
   * \return whether all are there */
  bool AddApplications(const std::string& learning, const std::string& description, std::vector<std::string> needed,
                       const std::string& modelGroup)
  {
    this->ClearApplications();
    needed.insert(needed.begin(), "TensorflowModelServe");
    needed.push_back(learning);
    for (const auto& name : needed)
    {
      if (!IsThere(name))
      {
        // this application's own log has no output yet, and an exception here would end the launcher
        otbLogMacro(Fatal, << GetName() << ": needs the application " << name
                           << ", which is in none of the folders of OTB_APPLICATION_PATH (" << ApplicationRegistry::GetApplicationPath()
                           << "); add the folder that holds otbapp_" << name << ".so");
        return false;
      }
    }
    this->AddApplication("TensorflowModelServe", "features", "Features of the model");
    this->AddApplication(learning, "learning", description);

    std::string ignored; // TensorflowModelServe tells about a value that is no number
    const unsigned int sources = std::max(1u, ReadNumberOfSources(ignored));
    for (unsigned int k = 1; k <= sources; ++k)
    {
      const std::string key = "source" + std::to_string(k);
      this->ShareParameter(key, "features." + key, "Source " + std::to_string(k));
    }
    this->ShareParameter(modelGroup, "features.model", "Deep model");
    this->ShareParameter("output", "features.output", "Features");
    this->ShareParameter("optim", "features.optim", "Optimisation");
    return true;
  }

  /** The features, computed when they are asked for. */
  ImageBaseType* ComputeFeatures()
  {
    this->ExecuteInternal("features");
    return this->GetInternalApplication("features")->GetParameterOutputImage("out");
  }

private:
  static bool IsThere(const std::string& name)
  {
    if (ApplicationRegistry::CreateApplication(name).IsNotNull())
    {
      return true;
    }
    // OTB's own applications are beside its libraries; a launcher that is not started through its script does not know
    Dl_info library;
    if (dladdr(reinterpret_cast<void*>(&ApplicationRegistry::CleanRegistry), &library) == 0 || library.dli_fname == nullptr)
    {
      return false;
    }
    const std::string file = library.dli_fname, folder = file.substr(0, file.rfind('/')) + "/otb/applications";
    const std::string before = ApplicationRegistry::GetApplicationPath();
    if (file.find('/') == std::string::npos || (':' + before + ':').find(':' + folder + ':') != std::string::npos)
    {
      return false;
    }
    ApplicationRegistry::SetApplicationPath(before + (before.empty() ? "" : ":") + folder);
    return ApplicationRegistry::CreateApplication(name).IsNotNull();
  }
};

} // namespace Wrapper
} // namespace otb

#endif
