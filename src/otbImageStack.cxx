/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbImageStack.h"

#include <algorithm>
#include <stdexcept>

namespace otb
{

void ImageStack::Add(ImageType* image, const std::string& name)
{
  const bool isDouble = dynamic_cast<VectorImage<double, 2>*>(image) != nullptr;
  if (!isDouble && dynamic_cast<VectorImage<float, 2>*>(image) == nullptr)
  {
    throw std::invalid_argument(name + " is no image of float or double vectors");
  }
  image->UpdateOutputInformation();
  const auto grid = SamplingGrid::FromImage(image);
  if (m_Images.empty())
  {
    m_Grid = grid;
  }
  else
  {
    m_Grid.RequireSame(grid, name);
  }
  m_Wide = m_Wide || isDouble;
  m_Bands += image->GetNumberOfComponentsPerPixel();
  m_Images.push_back(image);
}

namespace
{
template <class TFrom, class TPixel>
void Interleave(const VectorImage<TFrom, 2>* image, const ImageStack::RegionType& region, TPixel* to, size_t step)
{
  const auto& buffered = image->GetBufferedRegion();
  const size_t bands = image->GetNumberOfComponentsPerPixel(), width = region.GetSize(0);
  const TFrom* from = image->GetBufferPointer();
  for (size_t y = 0; y < region.GetSize(1); ++y)
  {
    const auto row = static_cast<size_t>(region.GetIndex(1) - buffered.GetIndex(1)) + y;
    const TFrom* line = from + (row * buffered.GetSize(0) + static_cast<size_t>(region.GetIndex(0) - buffered.GetIndex(0))) * bands;
    TPixel* out = to + y * width * step;
    for (size_t x = 0; x < width; ++x, line += bands, out += step)
    {
      std::copy_n(line, bands, out);
    }
  }
}
} // namespace

template <class TPixel>
ImageStack::View<TPixel> ImageStack::Read(const RegionType& region, std::vector<TPixel>& storage) const
{
  size_t firstBand = 0;
  for (const auto& image : m_Images)
  {
    // same grid, but the indices may count from elsewhere
    const auto& largest = image->GetLargestPossibleRegion();
    RegionType here = region;
    for (unsigned int k = 0; k < 2; ++k)
    {
      here.SetIndex(k, region.GetIndex(k) - m_Grid.GetRegion().GetIndex(k) + largest.GetIndex(k));
    }
    image->SetRequestedRegion(here);
    image->PropagateRequestedRegion();
    image->UpdateOutputData();
    const auto* same = dynamic_cast<const VectorImage<TPixel, 2>*>(image.GetPointer());
    if (m_Images.size() == 1 && same != nullptr)
    {
      return {same->GetBufferPointer(), same->GetBufferedRegion()};
    }
    storage.resize(region.GetNumberOfPixels() * m_Bands);
    if (same != nullptr)
    {
      Interleave(same, here, storage.data() + firstBand, m_Bands);
    }
    else
    {
      const auto* narrow = dynamic_cast<const VectorImage<float, 2>*>(image.GetPointer());
      if (narrow == nullptr)
      {
        throw std::logic_error("a stack with doubles is read as double");
      }
      Interleave(narrow, here, storage.data() + firstBand, m_Bands);
    }
    firstBand += image->GetNumberOfComponentsPerPixel();
  }
  return {storage.data(), region};
}

template ImageStack::View<float> ImageStack::Read<float>(const RegionType&, std::vector<float>&) const;
template ImageStack::View<double> ImageStack::Read<double>(const RegionType&, std::vector<double>&) const;

} // namespace otb
