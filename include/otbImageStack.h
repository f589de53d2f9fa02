/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbImageStack_h
#define otbImageStack_h

#include "otbSamplingGrid.h"
#include "otbVectorImage.h"

#include <string>
#include <vector>

namespace otb
{

/** \class ImageStack
 * \brief Images of one grid whose bands are stacked: read region by region, as float or, if one of them is double, as double.
 *
 * The stack keeps pointers to the images and pulls them through ITK's pipeline when it reads; it does not keep their sources alive.
 *
 * \ingroup OTBSuperResolutionTools
 */
class ImageStack
{
public:
  using ImageType = itk::ImageBase<2>;
  using RegionType = SamplingGrid::RegionType;

  /** Add an image: a VectorImage of float or double. `name` is what messages call it.
   * \throws SamplingGridError if its grid is not that of the first one, std::invalid_argument for other pixel types. */
  void Add(ImageType* image, const std::string& name);

  bool IsEmpty() const
  {
    return m_Images.empty();
  }

  /** Whether the pixels are double. */
  bool IsWide() const
  {
    return m_Wide;
  }

  unsigned int GetNumberOfBands() const
  {
    return m_Bands;
  }

  /** The grid of the first image. */
  const SamplingGrid& GetGrid() const
  {
    return m_Grid;
  }

  const std::vector<ImageType::Pointer>& GetImages() const
  {
    return m_Images;
  }

  /** Pixels of a region, row by row, bands interleaved. `region` may be larger than what was asked for. */
  template <class TPixel>
  struct View
  {
    const TPixel* pixels = nullptr;
    RegionType region;
  };

  /** Read a region inside the image; TPixel is double if the stack is wide, else float. The view holds until the next Read, and as long as
   * `storage`. \throws itk::ExceptionObject from the images' sources */
  template <class TPixel>
  View<TPixel> Read(const RegionType& region, std::vector<TPixel>& storage) const;

private:
  std::vector<ImageType::Pointer> m_Images;
  SamplingGrid m_Grid;
  unsigned int m_Bands = 0;
  bool m_Wide = false;
};

} // namespace otb

#endif
