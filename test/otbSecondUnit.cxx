/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
// The same headers as in the test driver, in a second translation unit.
#include "otbModelSidecar.h"
#include "otbPatchImageSource.h"
#include "otbSamplingGrid.h"
#include "otbServedImage.h"
#include "otbTensorflowModel.h"
#include "otbTensorflowModelFilter.h"
#include "otbWrapperSources.h"
#include "otbWrapperTensorflowServing.h"

std::string SecondUnit();
std::string SecondUnit()
{
  return otb::tf::NameOf(otb::tf::Float) + std::to_string(otb::ServingGrid::Mirror(-1, 3));
}
