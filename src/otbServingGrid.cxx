/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbServingGrid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>

namespace otb
{
namespace
{
using IndexValue = ServingGrid::IndexValue;

/** Beyond this many output pixels, blocks that nest in all sources are of no use. */
constexpr IndexValue LargestStep = 16384;

/** No model looks at so many pixels; sums and products of such numbers are far from 64 bits. */
constexpr IndexValue LargestField = 65536;

std::string Text(double value)
{
  std::ostringstream text;
  text.precision(10);
  text << value;
  return text.str();
}
} // namespace

IndexValue ServingGrid::Mirror(IndexValue index, IndexValue size)
{
  IndexValue folded = index % (2 * size);
  folded += folded < 0 ? 2 * size : 0;
  return folded < size ? folded : 2 * size - 1 - folded;
}

IndexValue ServingGrid::FloorTo(IndexValue value, IndexValue start, IndexValue step)
{
  const IndexValue offset = value - start;
  return start + (offset >= 0 ? offset / step : -((-offset + step - 1) / step)) * step;
}

bool ServingGrid::AsFraction(double value, IndexValue& numerator, IndexValue& denominator)
{
  for (IndexValue q = 1; q <= 1000 && value < 1e6; ++q)
  {
    const double p = std::round(value * static_cast<double>(q));
    const double tolerance = q <= 100 ? 1e-5 : 2e-7; // typed with five digits, or a float32
    if (p >= 1 && p <= LargestField * static_cast<double>(q) &&
        std::abs(p - value * static_cast<double>(q)) <= tolerance * value * static_cast<double>(q))
    {
      numerator = static_cast<IndexValue>(p);
      denominator = q;
      return true;
    }
  }
  return false;
}

std::string ServingGrid::Name(size_t source) const
{
  return "source " + std::to_string(source + 1);
}

ServingGrid::ServingGrid(const std::vector<Source>& sources, double scale, const PairType& expressionField, Mode mode)
    : m_Sources(sources), m_Mode(mode)
{
  if (!(scale > 0) || !std::isfinite(scale))
  {
    throw SamplingGridError("spacing scale " + Text(scale) + " must be positive");
  }
  IndexValue up = 1, down = 1;
  const bool isFraction = AsFraction(scale, up, down);
  if (isFraction)
  {
    scale = static_cast<double>(up) / static_cast<double>(down); // what a float32 parameter meant
  }
  else if (mode == Mode::FullyConvolutional)
  {
    throw SamplingGridError("spacing scale " + Text(scale) +
                            " is no fraction p/q with q up to 1000; a fully convolutional model needs one (e.g. 0.25, 0.6666667, 2)");
  }

  const SamplingGrid& first = m_Sources.front().grid;
  PairType size;
  for (unsigned int k = 0; k < 2; ++k)
  {
    const auto begin = static_cast<double>(first.GetRegion().GetIndex(k));
    const auto length = static_cast<double>(first.GetRegion().GetSize(k));
    double low = 0, high = length; // in pixels of the first source from its corner
    for (size_t i = 1; i < m_Sources.size(); ++i)
    {
      const SamplingGrid& other = m_Sources[i].grid;
      first.RequireSameReferenceSystem(other, "source 1 and " + Name(i));
      if ((other.GetSpacing()[k] > 0) != (first.GetSpacing()[k] > 0))
      {
        throw SamplingGridError(Name(i) + " is mirrored with respect to source 1: " + other.Describe() + " and " + first.Describe() +
                                "; warp one of them (gdalwarp)");
      }
      const auto footprint = other.GetFootprint();
      low = std::max(low, first.PositionOf(footprint.first)[k] - begin);
      high = std::min(high, first.PositionOf(footprint.last)[k] - begin);
    }
    if (!(std::max(std::abs(low), std::abs(high)) / scale <= std::numeric_limits<int>::max()))
    {
      throw SamplingGridError("spacing scale " + Text(scale) + " makes an image of " + Text(high / scale) + " pixels from " + Text(high) +
                              "; check it and the sources' grids");
    }
    if (high / scale > std::numeric_limits<int>::max())
    {
      throw SamplingGridError("spacing scale " + Text(scale) + " gives an image of " + Text(high / scale) +
                              " rows or columns, more than a file can have; check it");
    }
    m_First[k] = static_cast<IndexValue>(std::ceil(low / scale - SamplingGrid::Tolerance));
    size[k] = static_cast<IndexValue>(std::floor(high / scale + SamplingGrid::Tolerance)) - m_First[k];
    if (size[k] < 1)
    {
      std::string grids;
      for (size_t i = 0; i < m_Sources.size(); ++i)
      {
        grids += (i > 0 ? "; " : "") + Name(i) + ": " + m_Sources[i].grid.Describe();
      }
      throw SamplingGridError("no output pixel of " + Text(scale) + " x source 1's spacing fits into what the sources cover (" + grids +
                              "); check the images and the spacing scale");
    }
  }
  if (isFraction)
  {
    m_Output = first.Rescaled(up, down, m_First, size);
  }
  else
  {
    SamplingGrid::SpacingType spacing = first.GetSpacing();
    spacing *= scale;
    m_Output = SamplingGrid(first.GetCorner(), spacing, first.GetRegion()).Rescaled(1, 1, m_First, size);
  }

  for (unsigned int k = 0; k < 2; ++k)
  {
    const std::string axis = k == 0 ? "x" : "y";
    if (expressionField[k] < 1)
    {
      throw SamplingGridError("expression field " + std::to_string(expressionField[k]) + " in " + axis + " must be at least 1");
    }
    if (mode == Mode::Patches && expressionField[k] != 1)
    {
      throw SamplingGridError("expression field " + std::to_string(expressionField[k]) + " in " + axis +
                              ": without the fully convolutional mode each patch gives one output pixel; set output.efield" + axis +
                              " to 1, or model.fullyconv on");
    }
    for (size_t i = 0; i < m_Sources.size(); ++i)
    {
      if (m_Sources[i].receptiveField[k] < 1 || m_Sources[i].receptiveField[k] > LargestField)
      {
        throw SamplingGridError(Name(i) + ": receptive field " + std::to_string(m_Sources[i].receptiveField[k]) + " in " + axis +
                                " must be from 1 to " + std::to_string(LargestField));
      }
    }
  }
  m_Axes.resize(m_Sources.size());
  if (mode == Mode::FullyConvolutional)
  {
    this->SetUpConvolution(scale, expressionField);
  }
}

void ServingGrid::SetUpConvolution(double scale, const PairType& expressionField)
{
  for (unsigned int k = 0; k < 2; ++k)
  {
    const std::string axis = k == 0 ? "x" : "y";
    IndexValue step = expressionField[k];
    for (size_t i = 0; i < m_Sources.size(); ++i)
    {
      Axis& a = m_Axes[i][k];
      const double ratio = scale * m_Sources[0].grid.GetSpacing()[k] / m_Sources[i].grid.GetSpacing()[k];
      if (!AsFraction(ratio, a.up, a.down) || (step = std::lcm(step, a.down)) > LargestStep)
      {
        throw SamplingGridError("an output pixel is " + Text(ratio) + " pixels of " + Name(i) + " (" + m_Sources[i].grid.Describe() +
                                "; output: " + m_Output.Describe() +
                                "): no small block holds whole pixels of both; resample the source or change the spacing scale");
      }
    }
    m_Step[k] = step;

    // where blocks may start, counted from the first source's corner: on pixel edges of every source
    const auto positionOf = [&](size_t i, IndexValue index)
    {
      SamplingGrid::PositionType at{{0, 0}};
      at[k] = static_cast<double>(index - m_First[k]);
      return m_Sources[i].grid.PositionOf(m_Output.PointAt(at))[k];
    };
    const auto offEdge = [&](size_t i, IndexValue index)
    {
      const double position = positionOf(i, index);
      return std::abs(position - std::round(position));
    };
    IndexValue anchor = 0;
    size_t culprit = 0;
    for (bool found = false; !found && anchor < step; anchor += found ? 0 : 1)
    {
      found = true;
      for (size_t i = 0; found && i < m_Sources.size(); ++i)
      {
        found = offEdge(i, anchor) <= SamplingGrid::Tolerance;
        culprit = found ? culprit : i;
      }
    }
    const auto end = FloorTo(m_First[k] + static_cast<IndexValue>(m_Output.GetRegion().GetSize(k)), anchor, step);
    for (size_t i = 0; i < m_Sources.size() && anchor < step; ++i)
    {
      // the same at the other end: spacings that are almost a fraction drift
      const auto& a = m_Axes[i][k];
      const double exact =
          std::round(positionOf(i, anchor)) + static_cast<double>(end - anchor) * static_cast<double>(a.up) / static_cast<double>(a.down);
      if (std::abs(positionOf(i, end) - exact) > SamplingGrid::Tolerance)
      {
        anchor = step;
        culprit = i;
      }
    }
    if (anchor >= step)
    {
      throw SamplingGridError(Name(culprit) + " does not nest in the output: the " + (k == 0 ? "columns" : "rows") + " of " +
                              m_Sources[culprit].grid.Describe() + " have no common edges with those of " + m_Output.Describe() +
                              "; resample it onto source 1's grid, or use patches (model.fullyconv off)");
    }
    m_Anchor[k] = FloorTo(0, anchor - m_First[k], step);

    for (size_t i = 0; i < m_Sources.size(); ++i)
    {
      Axis& a = m_Axes[i][k];
      a.start = static_cast<IndexValue>(std::round(positionOf(i, m_Anchor[k] + m_First[k])));
      const double perPixel = static_cast<double>(a.up) / static_cast<double>(a.down);
      const auto field = static_cast<double>(m_Sources[i].receptiveField[k]);
      const auto expression = static_cast<double>(expressionField[k]);
      // OTBTF: the receptive field beyond the pixels between the first and the last output centre, its greater half first
      const double beyond = field - 1 - (expression - 1) * perPixel;
      if (beyond < SamplingGrid::Tolerance - 1)
      {
        throw SamplingGridError(Name(i) + ": receptive field " + std::to_string(m_Sources[i].receptiveField[k]) + " in " + axis +
                                " is smaller than the " + Text(1 + (expression - 1) * perPixel) + " pixels of expression field " +
                                std::to_string(expressionField[k]) + " with spacing scale " + Text(scale) +
                                "; check the receptive field, the expression field and the spacing scale");
      }
      const auto whole = static_cast<IndexValue>(std::floor(std::max(0.0, beyond) + SamplingGrid::Tolerance));
      itk::Index<2> index{{0, 0}};
      index[k] = m_Anchor[k];
      const IndexValue centre = m_Sources[i].grid.PatchAround(m_Output.CentreOf(index), 1, 1).GetIndex(k) - a.start;
      a.before = (whole + 1) / 2 - centre;
      a.margin = static_cast<IndexValue>(std::floor(field - expression * perPixel + SamplingGrid::Tolerance));
    }
  }
}

ServingGrid::RegionType ServingGrid::Aligned(const RegionType& output) const
{
  RegionType aligned;
  for (unsigned int k = 0; k < 2; ++k)
  {
    const IndexValue end = output.GetIndex(k) + static_cast<IndexValue>(output.GetSize(k));
    const IndexValue first = FloorTo(output.GetIndex(k), m_Anchor[k], m_Step[k]);
    const IndexValue last = FloorTo(end + m_Step[k] - 1, m_Anchor[k], m_Step[k]);
    aligned.SetIndex(k, first);
    aligned.SetSize(k, static_cast<itk::SizeValueType>(last - first));
  }
  return aligned;
}

ServingGrid::RegionType ServingGrid::Fed(size_t source, const RegionType& aligned) const
{
  RegionType fed;
  for (unsigned int k = 0; k < 2; ++k)
  {
    const Axis& a = m_Axes[source][k];
    const IndexValue size = static_cast<IndexValue>(aligned.GetSize(k)) / a.down * a.up + a.margin;
    if (size < 1)
    {
      throw SamplingGridError(Name(source) + ": nothing is left to feed for " + std::to_string(aligned.GetSize(k)) +
                              " output pixels; check the receptive field");
    }
    fed.SetIndex(k, a.start + (aligned.GetIndex(k) - m_Anchor[k]) / a.down * a.up - a.before);
    fed.SetSize(k, static_cast<itk::SizeValueType>(size));
  }
  return fed;
}

IndexValue ServingGrid::Lead(unsigned int axis) const
{
  const Axis& a = m_Axes[0][axis];
  return a.before >= 0 && a.before * a.down % a.up == 0 ? a.before * a.down / a.up : -1;
}

IndexValue ServingGrid::Covered(IndexValue fed) const
{
  const Axis& a = m_Axes[0][0]; // the same along both axes
  return fed * a.down % a.up == 0 ? fed * a.down / a.up : -1;
}

IndexValue ServingGrid::AlignedSizeFor(size_t source, unsigned int axis, IndexValue fed) const
{
  const Axis& a = m_Axes[source][axis];
  const IndexValue core = fed - a.margin;
  return core > 0 && core <= std::numeric_limits<int>::max() && core * a.down % a.up == 0 && core * a.down / a.up % m_Step[axis] == 0
             ? core * a.down / a.up
             : 0;
}

std::vector<IndexValue> ServingGrid::PatchStarts(size_t source, unsigned int axis, const RegionType& output) const
{
  std::vector<IndexValue> starts(output.GetSize(axis));
  const auto& from = m_Sources[source];
  auto index = output.GetIndex();
  for (auto& start : starts)
  {
    const auto patch = from.grid.PatchAround(m_Output.CentreOf(index), static_cast<SamplingGrid::SizeValue>(from.receptiveField[0]),
                                             static_cast<SamplingGrid::SizeValue>(from.receptiveField[1]));
    start = patch.GetIndex(axis);
    ++index[axis];
  }
  return starts;
}

std::vector<std::pair<IndexValue, IndexValue>> ServingGrid::Under(size_t source, unsigned int axis, const RegionType& output) const
{
  const auto& grid = m_Sources[source].grid;
  const IndexValue first = grid.GetRegion().GetIndex(axis), end = first + static_cast<IndexValue>(grid.GetRegion().GetSize(axis));
  const auto positionOf = [&](IndexValue index)
  {
    SamplingGrid::PositionType at{{0, 0}};
    at[axis] = static_cast<double>(index);
    return grid.PositionOf(m_Output.PointAt(at))[axis];
  };
  std::vector<std::pair<IndexValue, IndexValue>> under(output.GetSize(axis));
  IndexValue index = output.GetIndex(axis);
  for (auto& range : under)
  {
    range.first = static_cast<IndexValue>(std::floor(positionOf(index) + SamplingGrid::Tolerance));
    range.first = std::min(std::max(range.first, first), end - 1);
    range.second = static_cast<IndexValue>(std::ceil(positionOf(index + 1) - SamplingGrid::Tolerance));
    range.second = std::min(std::max(range.second, range.first + 1), end);
    ++index;
  }
  return under;
}

} // namespace otb
