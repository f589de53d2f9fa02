/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbPatchGrid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <sstream>
#include <stdexcept>

namespace otb
{

std::vector<PatchGrid::Site> PatchGrid::Place(ImageType* image, MaskType* mask, std::size_t bytes) const
{
  image->UpdateOutputInformation();
  const auto whole = image->GetLargestPossibleRegion();
  if (mask)
  {
    mask->UpdateOutputInformation();
    const auto size = mask->GetLargestPossibleRegion().GetSize();
    if (size != whole.GetSize())
    {
      std::ostringstream message;
      message << "the mask has " << size[0] << " x " << size[1] << " pixels, the image " << whole.GetSize(0) << " x " << whole.GetSize(1)
              << "; they must be the same";
      throw std::runtime_error(message.str());
    }
  }
  const long width = static_cast<long>(whole.GetSize(0)), height = static_cast<long>(whole.GetSize(1)), radius = size / 2;
  const bool needsPixels = noData.has_value();
  const auto isOnGrid = [&](long i, int k)
  {
    return (i - (radius + 1)) % step == offset[k] % step;
  };
  const auto isNoData = [&](float value)
  {
    return value == *noData || (std::isnan(*noData) && std::isnan(value));
  };

  std::vector<Site> sites;
  std::vector<long> run(width, 0); // valid pixels in a column, up to the current row
  const auto bands = image->GetNumberOfComponentsPerPixel();
  const long rows = std::max<long>(1, static_cast<long>(bytes / 4 / (static_cast<std::size_t>(width) * (bands + 1) * sizeof(float))));
  for (long top = 0; top < height; top += rows)
  {
    ImageType::RegionType strip = whole;
    strip.SetIndex(1, whole.GetIndex(1) + top);
    strip.SetSize(1, static_cast<std::size_t>(std::min(rows, height - top)));
    if (needsPixels)
    {
      image->SetRequestedRegion(strip);
      image->PropagateRequestedRegion();
      image->UpdateOutputData();
    }
    if (mask)
    {
      MaskType::RegionType same = strip;
      same.SetIndex(0, mask->GetLargestPossibleRegion().GetIndex(0));
      same.SetIndex(1, mask->GetLargestPossibleRegion().GetIndex(1) + top);
      mask->SetRequestedRegion(same);
      mask->PropagateRequestedRegion();
      mask->UpdateOutputData();
    }
    for (long row = top; row < top + static_cast<long>(strip.GetSize(1)); ++row)
    {
      const float* masked = nullptr;
      if (mask)
      {
        const auto& held = mask->GetBufferedRegion();
        const auto line = row - (held.GetIndex(1) - mask->GetLargestPossibleRegion().GetIndex(1));
        masked = mask->GetBufferPointer() + static_cast<std::size_t>(line) * held.GetSize(0);
      }
      if (!needsPixels)
      {
        if (row >= radius && row < height - radius && isOnGrid(row, 1))
        {
          for (long column = radius; column < width - radius; ++column)
          {
            if (isOnGrid(column, 0) && (!masked || masked[column] == 1.f))
            {
              sites.push_back({{whole.GetIndex(0) + column, whole.GetIndex(1) + row}});
            }
          }
        }
        continue;
      }
      const auto& held = image->GetBufferedRegion();
      const auto line = row - (held.GetIndex(1) - whole.GetIndex(1));
      const float* from = image->GetBufferPointer() + static_cast<std::size_t>(line) * held.GetSize(0) * bands;
      for (long column = 0; column < width; ++column, from += bands)
      {
        const bool isValid = !std::all_of(from, from + bands, isNoData) && (!masked || masked[column] != 0.f);
        run[column] = isValid ? run[column] + 1 : 0;
      }
      // This row is the last of the patches whose centre is `radius` rows above.
      const long centre = row - radius;
      if (centre < radius || !isOnGrid(centre, 1))
      {
        continue;
      }
      long clear = 0; // columns up to the current one whose run covers the patch's height
      for (long column = 0; column < width; ++column)
      {
        clear = run[column] > 2 * radius ? clear + 1 : 0;
        const long middle = column - radius;
        if (clear > 2 * radius && middle >= radius && isOnGrid(middle, 0))
        {
          sites.push_back({{whole.GetIndex(0) + middle, whole.GetIndex(1) + centre}});
        }
      }
    }
  }
  return sites;
}

SamplingGrid::PointType PatchGrid::PointOf(const Site& site, const SamplingGrid& geometry) const
{
  SamplingGrid::PositionType position;
  for (unsigned int k = 0; k < 2; ++k)
  {
    const bool isReversed = geometry.GetSpacing()[k] < 0;
    position[k] = static_cast<double>(site[k]) + (size % 2 ? 0.5 : isReversed ? 1.0 : 0.0);
  }
  return geometry.PointAt(position);
}

std::vector<PatchGrid::Group> PatchGrid::Chessboard(const std::vector<Site>& sites) const
{
  std::vector<Group> groups;
  groups.reserve(sites.size());
  for (const Site& site : sites)
  {
    groups.push_back(static_cast<Group>((site[0] / step + site[1] / step) % 2));
  }
  return groups;
}

std::vector<PatchGrid::Group> PatchGrid::Split(std::size_t count, const std::array<double, 3>& shares, bool random)
{
  const double total = shares[0] + shares[1] + shares[2];
  if (!(total > 0))
  {
    throw std::runtime_error("the shares of the groups that are written are all 0; raise strategy.split.trainprop");
  }
  std::array<double, 3> progress = {0, 0, 0};
  std::vector<Group> groups(count);
  for (Group& group : groups)
  {
    group = 3;
    for (Group candidate = 0; candidate < 3; ++candidate)
    {
      if (shares[candidate] > 0 && (group == 3 || progress[candidate] < progress[group]))
      {
        group = candidate;
      }
    }
    progress[group] += total / shares[group];
  }
  if (random)
  {
    // Not std::shuffle: its result differs between standard libraries.
    std::mt19937 engine;
    for (std::size_t k = count; k > 1; --k)
    {
      std::swap(groups[k - 1], groups[engine() % k]);
    }
  }
  return groups;
}

} // namespace otb
