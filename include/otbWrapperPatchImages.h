/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWrapperPatchImages_h
#define otbWrapperPatchImages_h

#include "otbPatchReader.h"
#include "otbWrapperSources.h"

#include <string>

namespace otb
{
namespace Wrapper
{

/** The images of a source's list, and the plain files they come from. \param name of the source in messages
 * \throws as Sources::Stack
 * \ingroup OTBSuperResolutionTools */
inline PatchImages PatchImagesOf(Sources& sources, InputImageListParameter& list, const std::string& name)
{
  PatchImages images;
  images.stack = sources.Stack(list, name);
  for (std::size_t k = 0; k < list.Size(); ++k)
  {
    const std::string file = list.GetNthFileName(k);
    images.files.push_back(file.find('?') == std::string::npos ? file : "");
  }
  return images;
}

} // namespace Wrapper
} // namespace otb

#endif
