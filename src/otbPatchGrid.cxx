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
namespace
{

/** A second image goes with the first pixel by pixel. It need not be georeferenced, but must not be elsewhere. */
void RequireSamePixels(const PatchGrid::ImageType* image, PatchGrid::MaskType* other, const std::string& name)
{
  other->UpdateOutputInformation();
  const auto& size = other->GetLargestPossibleRegion().GetSize();
  const auto& whole = image->GetLargestPossibleRegion().GetSize();
  if (size != whole)
  {
    std::ostringstream message;
    message << "the " << name << " has " << size[0] << " x " << size[1] << " pixels, the image " << whole[0] << " x " << whole[1]
            << "; they must be the same";
    throw std::runtime_error(message.str());
  }
  if (!other->GetProjectionRef().empty())
  {
    SamplingGrid::FromImage(image).RequireSame(SamplingGrid::FromImage(other), "the image and the " + name);
  }
}

/** A random order that is the same everywhere, unlike std::shuffle's. */
template <class T>
void Shuffle(std::vector<T>& values)
{
  std::mt19937 engine;
  for (std::size_t k = values.size(); k > 1; --k)
  {
    std::swap(values[k - 1], values[engine() % k]);
  }
}

} // namespace

std::vector<PatchGrid::Site> PatchGrid::Place(ImageType* image, MaskType* mask, std::size_t bytes) const
{
  image->UpdateOutputInformation();
  const auto whole = image->GetLargestPossibleRegion();
  if (mask)
  {
    RequireSamePixels(image, mask, "mask");
  }
  const long width = static_cast<long>(whole.GetSize(0)), height = static_cast<long>(whole.GetSize(1)), radius = size / 2;
  const bool needsPixels = noData.has_value();
  const auto isOnGrid = [&](long i, int k)
  {
    return (i - (radius + 1)) % step == (offset[k] % step + step) % step;
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
    Shuffle(groups);
  }
  return groups;
}

std::vector<PatchGrid::Histogram> PatchGrid::CountLabels(const std::vector<Site>& sites, const ImageType* image, MaskType* labels,
                                                         unsigned int classes, std::size_t& ignored) const
{
  RequireSamePixels(image, labels, "label image");
  const auto geometry = SamplingGrid::FromImage(image);
  const auto &start = image->GetLargestPossibleRegion().GetIndex(), &first = labels->GetLargestPossibleRegion().GetIndex();
  std::vector<Histogram> histograms;
  histograms.reserve(sites.size());
  std::vector<unsigned int> counts(classes + 1, 0); // the last one for other labels
  SamplingGrid::RegionType window;
  ignored = 0;
  const auto add = [&](itk::IndexValueType column, unsigned int change)
  {
    const auto& held = labels->GetBufferedRegion();
    const std::size_t width = held.GetSize(0);
    const auto left = static_cast<std::size_t>(column - start[0] + first[0] - held.GetIndex(0));
    const auto top = static_cast<std::size_t>(window.GetIndex(1) - start[1] + first[1] - held.GetIndex(1));
    const float* from = labels->GetBufferPointer() + top * width + left;
    for (std::size_t y = 0; y < window.GetSize(1); ++y, from += width)
    {
      const bool isClass = *from >= 0 && *from < static_cast<float>(classes) && *from == std::floor(*from);
      counts[isClass ? static_cast<std::size_t>(*from) : classes] += change; // change may be -1, modulo 2^32
    }
  };
  itk::IndexValueType begin = 0, end = 0; // columns that are counted
  for (const Site& site : sites)
  {
    const auto region = geometry.PatchAround(this->PointOf(site, geometry), size, size);
    if (histograms.empty() || region.GetIndex(1) != window.GetIndex(1))
    {
      window = geometry.GetRegion();
      window.SetIndex(1, region.GetIndex(1));
      window.SetSize(1, region.GetSize(1));
      auto same = window;
      same.SetIndex(0, first[0]);
      same.SetIndex(1, window.GetIndex(1) - start[1] + first[1]);
      labels->SetRequestedRegion(same);
      labels->PropagateRequestedRegion();
      labels->UpdateOutputData();
      std::fill(counts.begin(), counts.end(), 0u);
      begin = end = region.GetIndex(0);
    }
    // Sites of a row come from left to right: the window slides.
    const auto left = region.GetIndex(0), right = left + static_cast<itk::IndexValueType>(region.GetSize(0));
    for (; begin < std::min(left, end); ++begin)
    {
      add(begin, -1u);
    }
    begin = left;
    for (end = std::max(end, left); end < right; ++end)
    {
      add(end, 1u);
    }
    Histogram histogram;
    for (unsigned int label = 0; label < classes; ++label)
    {
      if (counts[label] > 0)
      {
        histogram.emplace_back(label, counts[label]);
      }
    }
    ignored += counts[classes];
    histograms.push_back(std::move(histogram));
  }
  return histograms;
}

std::vector<PatchGrid::Group> PatchGrid::Balance(const std::vector<Histogram>& patches, unsigned int classes, double share)
{
  constexpr Group none = 3;
  constexpr double step = 0.95; // a patch within this share of the best gain is as good as the best
  const auto wanted = static_cast<std::size_t>(std::max(1.0, std::round(share * static_cast<double>(patches.size()))));
  std::vector<double> pixels(classes, 0);
  // Gains only shrink as patches are chosen, so that an old one is a bound. Counts lie in the order in which they are visited, again and
  // again.
  struct Candidate
  {
    std::size_t patch;
    std::size_t first; // of its counts
    std::size_t last;
    double bound;
  };
  std::vector<Candidate> candidates;
  for (std::size_t k = 0; k < patches.size(); ++k)
  {
    candidates.push_back({k, 0, 0, 0});
  }
  Shuffle(candidates);
  Histogram counts;
  const auto gainOf = [&](const Candidate& candidate)
  {
    double gain = 0;
    for (std::size_t k = candidate.first; k < candidate.last; ++k)
    {
      gain += std::log1p(counts[k].second / (1 + pixels[counts[k].first]));
    }
    return gain;
  };
  double level = 0;
  for (Candidate& candidate : candidates)
  {
    const Histogram& patch = patches[candidate.patch];
    candidate.first = counts.size();
    counts.insert(counts.end(), patch.begin(), patch.end());
    candidate.last = counts.size();
    candidate.bound = gainOf(candidate);
    level = std::max(level, candidate.bound);
  }
  std::vector<Group> groups(patches.size(), none);
  for (std::size_t chosen = 0; chosen < wanted && level > 0;)
  {
    double best = 0;
    std::size_t left = 0;
    for (Candidate candidate : candidates)
    {
      if (candidate.bound >= level && chosen < wanted)
      {
        candidate.bound = gainOf(candidate);
        if (candidate.bound >= level)
        {
          groups[candidate.patch] = 0;
          ++chosen;
          for (std::size_t k = candidate.first; k < candidate.last; ++k)
          {
            pixels[counts[k].first] += counts[k].second;
          }
          continue;
        }
      }
      best = std::max(best, candidate.bound);
      candidates[left++] = candidate;
    }
    candidates.resize(left);
    level = std::min(level * step, best);
  }
  return groups;
}

} // namespace otb
