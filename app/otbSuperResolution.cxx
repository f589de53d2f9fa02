/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbSamplingGrid.h"
#include "otbWrapperApplication.h"
#include "otbWrapperApplicationFactory.h"

namespace otb
{
namespace Wrapper
{
class SuperResolution : public Application
{
public:
  using Self    = SuperResolution;
  using Pointer = itk::SmartPointer<Self>;
  itkNewMacro(Self);
  itkTypeMacro(SuperResolution, otb::Wrapper::Application);

private:
  void DoInit() override
  {
    SetName("SuperResolution");
  }
  void DoUpdateParameters() override
  {
  }
  void DoExecute() override
  {
  }
};
} // namespace Wrapper
} // namespace otb
OTB_APPLICATION_EXPORT(otb::Wrapper::SuperResolution)
