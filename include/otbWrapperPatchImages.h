/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWrapperPatchImages_h
#define otbWrapperPatchImages_h

#include "otbPatchReader.h"
#include "otbServedImage.h"

#include "otbImageFileReader.h"
#include "otbWrapperApplication.h"

#include <string>
#include <vector>

namespace otb
{
namespace Wrapper
{

/** The images of an application's image list, and the plain files they come from. \throws ServedImageError for files that cannot be read
 * \ingroup OTBSuperResolutionTools */
inline std::vector<PatchReader::Input> PatchImagesOf(Application& application, const std::string& key)
{
  FloatVectorImageListType::Pointer list = application.GetParameterImageList(key);
  const auto names = application.GetParameterStringList(key);
  std::vector<PatchReader::Input> inputs;
  for (unsigned int k = 0; k < list->Size(); ++k)
  {
    FloatVectorImageType* image = list->GetNthElement(k);
    const auto* reader = dynamic_cast<const ImageFileReader<FloatVectorImageType>*>(image->GetSource().GetPointer());
    const bool isFile = reader != nullptr && k < names.size() && !names[k].empty();
    if (isFile)
    {
      RequireServableFile(names[k]);
    }
    const bool isPlain = isFile && names[k].find('?') == std::string::npos && names[k] == reader->GetFileName();
    inputs.push_back({image, isPlain ? names[k] : ""});
  }
  return inputs;
}

} // namespace Wrapper
} // namespace otb

#endif
