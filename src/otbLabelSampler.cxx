/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLabelSampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace otb
{

LabelSampler::LabelSampler(ImageType* image, std::int64_t noData, unsigned int pad, std::size_t bytes)
    : m_Image(image), m_NoData(noData), m_Bytes(bytes)
{
  image->UpdateOutputInformation();
  m_Grid = SamplingGrid::FromImage(image);
  m_Region = m_Grid.GetRegion();
  std::ostringstream message;
  if (image->GetNumberOfComponentsPerPixel() != 1)
  {
    message << "the label image has " << image->GetNumberOfComponentsPerPixel()
            << " bands, expected 1; choose one with the extended file name 'file.tif?&bands=1'";
  }
  else if (m_Region.GetSize(0) <= 2 * std::size_t{pad} || m_Region.GetSize(1) <= 2 * std::size_t{pad})
  {
    message << "pad is " << pad << ", but the image has only " << m_Region.GetSize(0) << " x " << m_Region.GetSize(1)
            << " pixels: none is left; give a smaller pad";
  }
  if (!message.str().empty())
  {
    throw std::runtime_error(message.str());
  }
  for (unsigned int k = 0; k < 2; ++k)
  {
    m_Region.SetIndex(k, m_Region.GetIndex(k) + static_cast<itk::IndexValueType>(pad));
    m_Region.SetSize(k, m_Region.GetSize(k) - 2 * std::size_t{pad});
  }
}

void LabelSampler::Visit(const std::function<void(itk::IndexValueType, itk::IndexValueType, std::int64_t)>& visit) const
{
  constexpr double least = std::numeric_limits<std::int32_t>::min(), greatest = std::numeric_limits<std::uint32_t>::max();
  const std::size_t width = m_Region.GetSize(0), height = m_Region.GetSize(1);
  const std::size_t rows = std::max<std::size_t>(1, m_Bytes / (width * sizeof(double)));
  for (std::size_t top = 0; top < height; top += rows)
  {
    auto strip = m_Region;
    strip.SetIndex(1, m_Region.GetIndex(1) + static_cast<itk::IndexValueType>(top));
    strip.SetSize(1, std::min(rows, height - top));
    m_Image->SetRequestedRegion(strip);
    m_Image->PropagateRequestedRegion();
    m_Image->UpdateOutputData();
    const auto& held = m_Image->GetBufferedRegion();
    for (std::size_t y = 0; y < strip.GetSize(1); ++y)
    {
      const auto row = strip.GetIndex(1) + static_cast<itk::IndexValueType>(y);
      const double* from = m_Image->GetBufferPointer() + static_cast<std::size_t>(row - held.GetIndex(1)) * held.GetSize(0) +
                           static_cast<std::size_t>(strip.GetIndex(0) - held.GetIndex(0));
      for (std::size_t x = 0; x < width; ++x)
      {
        const double value = from[x];
        if (std::isnan(value))
        {
          continue;
        }
        const auto column = strip.GetIndex(0) + static_cast<itk::IndexValueType>(x);
        if (!(value >= least && value <= greatest) || value != std::floor(value))
        {
          std::ostringstream message;
          message << "the pixel in column " << column << ", row " << row << " is " << value
                  << ", expected an integer label of 32 bits; is this a label image?";
          throw std::runtime_error(message.str());
        }
        const auto label = static_cast<std::int64_t>(value);
        if (label != m_NoData)
        {
          visit(column, row, label);
        }
      }
    }
  }
}

LabelSampler::Counts LabelSampler::Count() const
{
  Counts counts;
  auto last = counts.end(); // neighbours mostly have the same label
  this->Visit(
      [&](itk::IndexValueType, itk::IndexValueType, std::int64_t label)
      {
        if (last == counts.end() || last->first != label)
        {
          last = counts.emplace(label, 0).first;
        }
        ++last->second;
      });
  if (counts.empty())
  {
    throw std::runtime_error("there is no pixel to sample: all are no-data (" + std::to_string(m_NoData) + "); check nodata and pad");
  }
  return counts;
}

LabelSampler::Intervals LabelSampler::Same(const Counts& counts, std::size_t number)
{
  Intervals intervals;
  for (const auto& [label, count] : counts)
  {
    intervals[label] = {std::max<std::size_t>(1, count / number), number};
  }
  return intervals;
}

LabelSampler::Intervals LabelSampler::InTotal(const Counts& counts, std::size_t number)
{
  std::size_t sum = 0;
  for (const auto& entry : counts)
  {
    sum += entry.second;
  }
  Intervals intervals;
  for (const auto& [label, count] : counts)
  {
    intervals[label] = {std::max<std::size_t>(1, sum / number), count};
  }
  return intervals;
}

void LabelSampler::Pick(const Intervals& intervals, const std::function<void(const PointType&, std::int64_t)>& take) const
{
  struct State
  {
    Interval interval;
    std::size_t met = 0;
    std::size_t taken = 0;
  };
  std::map<std::int64_t, State> states;
  for (const auto& [label, interval] : intervals)
  {
    states[label].interval = interval;
  }
  auto last = states.end();
  this->Visit(
      [&](itk::IndexValueType column, itk::IndexValueType row, std::int64_t label)
      {
        if (last == states.end() || last->first != label)
        {
          last = states.find(label);
        }
        State& state = last->second;
        if (++state.met % state.interval.step == 0 && state.taken < state.interval.target)
        {
          ++state.taken;
          take(m_Grid.CentreOf(column, row), label);
        }
      });
}

} // namespace otb
