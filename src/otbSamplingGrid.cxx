/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbSamplingGrid.h"

#include "otbImageCommons.h"

#include <ogr_srs_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iomanip>
#include <limits>
#include <memory>
#include <sstream>
#include <type_traits>

namespace otb
{
namespace
{
/** Index beyond all images, whose sizes are 32-bit integers: what points at infinity get. */
constexpr double Far = 1e15;

/** A position as an index; positions that are huge or not a number become an index that no image has. */
SamplingGrid::IndexValue ToIndex(double position)
{
  return static_cast<SamplingGrid::IndexValue>(position < -Far ? -Far : position < Far ? position : Far);
}

SamplingGrid::SizeValue ToSize(double pixels)
{
  if (!(pixels <= std::numeric_limits<int>::max()))
  {
    std::ostringstream message;
    message << "an image of " << pixels << " rows or columns cannot be made; at most " << std::numeric_limits<int>::max()
            << " are possible: check the factor or scale";
    throw SamplingGridError(message.str());
  }
  return static_cast<SamplingGrid::SizeValue>(pixels);
}
} // namespace

SamplingGrid::SamplingGrid(const PointType& corner, const SpacingType& spacing, const RegionType& region)
    : m_Corner(corner), m_Spacing(spacing), m_Region(region)
{
  if (spacing[0] == 0 || spacing[1] == 0 || !std::isfinite(spacing[0]) || !std::isfinite(spacing[1]))
  {
    throw SamplingGridError("spacing " + std::to_string(spacing[0]) + " x " + std::to_string(spacing[1]) +
                            " is not that of an image; both must be finite and not zero");
  }
  if (!std::isfinite(corner[0]) || !std::isfinite(corner[1]))
  {
    throw SamplingGridError("the grid has no finite corner (" + this->Describe() + ")");
  }
  if (region.GetSize(0) == 0 || region.GetSize(1) == 0)
  {
    throw SamplingGridError("the grid has no pixel (" + this->Describe() + ")");
  }
}

SamplingGrid SamplingGrid::FromImage(const ImageType* image)
{
  // OTB keeps a positive spacing and puts its sign into the direction matrix.
  const auto& direction = image->GetDirection();
  const RegionType& region = image->GetLargestPossibleRegion();
  if (direction[0][1] != 0 || direction[1][0] != 0)
  {
    std::ostringstream message;
    message << "the image's direction (" << direction[0][0] << ", " << direction[0][1] << "; " << direction[1][0] << ", " << direction[1][1]
            << ") is rotated or sheared; warp it to an axis-aligned grid (gdalwarp) first";
    throw SamplingGridError(message.str());
  }
  SpacingType spacing;
  PointType corner;
  for (unsigned int k = 0; k < 2; ++k)
  {
    spacing[k] = image->GetSpacing()[k] * direction[k][k];
    corner[k] = image->GetOrigin()[k] + (static_cast<double>(region.GetIndex(k)) - 0.5) * spacing[k];
  }
  SamplingGrid grid(corner, spacing, region);
  if (const auto* common = dynamic_cast<const ImageCommons*>(image))
  {
    grid.m_ReferenceSystem = common->GetProjectionRef();
  }
  return grid;
}

void SamplingGrid::RequireAxisAligned(const double* geoTransform, const std::string& name)
{
  if (geoTransform[2] != 0 || geoTransform[4] != 0)
  {
    std::ostringstream message;
    message << name << ": its geotransform is rotated or sheared (terms " << geoTransform[2] << " and " << geoTransform[4]
            << " must be 0); warp it to an axis-aligned grid (gdalwarp) first";
    throw SamplingGridError(message.str());
  }
}

void SamplingGrid::ApplyTo(ImageType* image) const
{
  ImageType::DirectionType direction;
  ImageType::SpacingType spacing;
  direction.SetIdentity();
  for (unsigned int k = 0; k < 2; ++k)
  {
    direction[k][k] = m_Spacing[k] < 0 ? -1.0 : 1.0;
    spacing[k] = std::abs(m_Spacing[k]);
  }
  image->SetLargestPossibleRegion(m_Region);
  image->SetDirection(direction);
  image->SetSpacing(spacing);
  image->SetOrigin(this->GetOrigin());
}

SamplingGrid::PointType SamplingGrid::GetOrigin() const
{
  PointType origin;
  for (unsigned int k = 0; k < 2; ++k)
  {
    origin[k] = m_Corner[k] + (0.5 - static_cast<double>(m_Region.GetIndex(k))) * m_Spacing[k];
  }
  return origin;
}

SamplingGrid SamplingGrid::Refined(unsigned int factor) const
{
  if (factor == 0)
  {
    throw SamplingGridError("factor 0 must be at least 1");
  }
  RegionType region;
  SpacingType spacing;
  for (unsigned int k = 0; k < 2; ++k)
  {
    region.SetIndex(k, m_Region.GetIndex(k) * static_cast<IndexValue>(factor));
    region.SetSize(k, ToSize(static_cast<double>(m_Region.GetSize(k)) * factor));
    spacing[k] = m_Spacing[k] / factor;
  }
  return SamplingGrid(m_Corner, spacing, region);
}

SamplingGrid SamplingGrid::Rescaled(IndexValue multiple, IndexValue divisor, const std::array<IndexValue, 2>& first,
                                    const std::array<IndexValue, 2>& size) const
{
  PointType corner;
  SpacingType spacing;
  RegionType region;
  for (unsigned int k = 0; k < 2; ++k)
  {
    spacing[k] = m_Spacing[k] * static_cast<double>(multiple) / static_cast<double>(divisor);
    corner[k] = m_Corner[k] + static_cast<double>(first[k]) * spacing[k];
    region.SetSize(k, ToSize(static_cast<double>(std::max<IndexValue>(0, size[k]))));
  }
  return SamplingGrid(corner, spacing, region);
}

SamplingGrid SamplingGrid::Scaled(double scale) const
{
  if (!(scale > 0) || !std::isfinite(scale))
  {
    throw SamplingGridError("scale " + std::to_string(scale) + " must be positive");
  }
  const double inverse = std::round(1 / scale);
  if (inverse >= 1 && std::abs(inverse * scale - 1) < 1e-6) // float32 parameters: 0.1f is not 0.1
  {
    ToSize(inverse);
    return this->Refined(static_cast<unsigned int>(inverse));
  }
  RegionType region;
  SpacingType spacing;
  for (unsigned int k = 0; k < 2; ++k)
  {
    region.SetSize(k, ToSize(std::floor(static_cast<double>(m_Region.GetSize(k)) / scale + Tolerance)));
    spacing[k] = m_Spacing[k] * scale;
  }
  return SamplingGrid(m_Corner, spacing, region);
}

SamplingGrid SamplingGrid::Cropped(const RegionType& region) const
{
  return SamplingGrid(this->FootprintOf(region).first, m_Spacing, region);
}

SamplingGrid::PointType SamplingGrid::CentreOf(const itk::Index<2>& index) const
{
  return this->PointAt({static_cast<double>(index[0]) + 0.5, static_cast<double>(index[1]) + 0.5});
}

SamplingGrid::PositionType SamplingGrid::PositionOf(const PointType& point) const
{
  PositionType position;
  for (unsigned int k = 0; k < 2; ++k)
  {
    position[k] = (point[k] - m_Corner[k]) / m_Spacing[k] + static_cast<double>(m_Region.GetIndex(k));
  }
  return position;
}

SamplingGrid::PointType SamplingGrid::PointAt(const PositionType& position) const
{
  PointType point;
  for (unsigned int k = 0; k < 2; ++k)
  {
    point[k] = m_Corner[k] + (position[k] - static_cast<double>(m_Region.GetIndex(k))) * m_Spacing[k];
  }
  return point;
}

SamplingGrid::Footprint SamplingGrid::FootprintOf(const RegionType& region) const
{
  PositionType first, last;
  for (unsigned int k = 0; k < 2; ++k)
  {
    first[k] = static_cast<double>(region.GetIndex(k));
    last[k] = first[k] + static_cast<double>(region.GetSize(k));
  }
  return {this->PointAt(first), this->PointAt(last)};
}

bool SamplingGrid::RegionOf(const Footprint& footprint, RegionType& region, std::string& why) const
{
  const PositionType first = this->PositionOf(footprint.first), last = this->PositionOf(footprint.last);
  for (unsigned int k = 0; k < 2; ++k)
  {
    const double start = std::round(first[k]), end = std::round(last[k]);
    const bool areEdges = std::abs(first[k] - start) <= Tolerance && std::abs(last[k] - end) <= Tolerance; // false for NaN
    if (!areEdges || end <= start || start < -Far || end > Far)
    {
      std::ostringstream message;
      message << std::setprecision(12) << (k == 0 ? "column" : "row") << " edges " << first[k] << " and " << last[k]
              << " of the footprint are not pixel edges of the grid with " << this->Describe();
      why = message.str();
      return false;
    }
    region.SetIndex(k, static_cast<IndexValue>(start));
    region.SetSize(k, static_cast<SizeValue>(end - start));
  }
  return true;
}

bool SamplingGrid::Contains(const RegionType& region) const
{
  return m_Region.IsInside(region);
}

SamplingGrid::RegionType SamplingGrid::PatchAround(const PointType& point, SizeValue width, SizeValue height) const
{
  const PositionType position = this->PositionOf(point);
  const SizeValue size[2] = {width, height};
  RegionType region;
  for (unsigned int k = 0; k < 2; ++k)
  {
    region.SetIndex(k, ToIndex(std::floor(position[k] + Tolerance)) - static_cast<IndexValue>(size[k] / 2));
    region.SetSize(k, size[k]);
  }
  return region;
}

bool SamplingGrid::IsSame(const SamplingGrid& other) const
{
  if (m_Region.GetSize() != other.m_Region.GetSize())
  {
    return false;
  }
  const Footprint mine = this->GetFootprint(), theirs = other.GetFootprint();
  for (unsigned int k = 0; k < 2; ++k)
  {
    const double tolerance = Tolerance * std::abs(m_Spacing[k]);
    if (!(std::abs(mine.first[k] - theirs.first[k]) <= tolerance && std::abs(mine.last[k] - theirs.last[k]) <= tolerance))
    {
      return false;
    }
  }
  return true;
}

void SamplingGrid::RequireSame(const SamplingGrid& other, const std::string& what) const
{
  if (!this->IsSame(other))
  {
    throw SamplingGridError(what + ": the grids differ: " + this->Describe() + " and " + other.Describe());
  }
  this->RequireSameReferenceSystem(other, what);
}

void SamplingGrid::RequireSameReferenceSystem(const SamplingGrid& other, const std::string& what) const
{
  if (m_ReferenceSystem.empty() || other.m_ReferenceSystem.empty() || m_ReferenceSystem == other.m_ReferenceSystem)
  {
    return;
  }
  // one system has many spellings: what counts is where it puts the image
  using System = std::unique_ptr<std::remove_pointer<OGRSpatialReferenceH>::type, decltype(&OSRDestroySpatialReference)>;
  const System here(OSRNewSpatialReference(m_ReferenceSystem.c_str()), OSRDestroySpatialReference);
  const System there(OSRNewSpatialReference(other.m_ReferenceSystem.c_str()), OSRDestroySpatialReference);
  if (!here || !there)
  {
    return;
  }
  OSRSetAxisMappingStrategy(here.get(), OAMS_TRADITIONAL_GIS_ORDER);
  OSRSetAxisMappingStrategy(there.get(), OAMS_TRADITIONAL_GIS_ORDER);
  const std::unique_ptr<std::remove_pointer<OGRCoordinateTransformationH>::type, decltype(&OCTDestroyCoordinateTransformation)> transform(
      OCTNewCoordinateTransformation(here.get(), there.get()), OCTDestroyCoordinateTransformation);
  const auto footprint = this->GetFootprint();
  std::array<double, 2> centre{};
  for (unsigned int k = 0; k < 2; ++k)
  {
    centre[k] = (footprint.first[k] + footprint.last[k]) / 2;
  }
  auto moved = centre;
  const bool isKnown = transform && OCTTransform(transform.get(), 1, &moved[0], &moved[1], nullptr) != 0;
  if (isKnown && std::abs(moved[0] - centre[0]) <= std::abs(m_Spacing[0]) && std::abs(moved[1] - centre[1]) <= std::abs(m_Spacing[1]))
  {
    return;
  }
  const auto name = [](OGRSpatialReferenceH system)
  {
    const char* text = OSRGetName(system);
    return std::string(text == nullptr ? "one without a name" : text);
  };
  throw SamplingGridError(what + ": the coordinate reference systems differ: " + name(here.get()) + " and " + name(there.get()) +
                          "; warp one of the images (gdalwarp)");
}

std::string SamplingGrid::Describe() const
{
  std::ostringstream text;
  text << std::setprecision(12) << "corner (" << m_Corner[0] << ", " << m_Corner[1] << ") spacing " << m_Spacing[0] << " x " << m_Spacing[1]
       << " size " << m_Region.GetSize(0) << " x " << m_Region.GetSize(1);
  return text.str();
}

PatchPair EqualFootprintPatches(const SamplingGrid& coarse, const SamplingGrid& fine, const SamplingGrid::PointType& point,
                                SamplingGrid::SizeValue width, SamplingGrid::SizeValue height)
{
  PatchPair pair;
  pair.coarse = coarse.PatchAround(point, width, height);
  if (!coarse.Contains(pair.coarse))
  {
    pair.status = PatchPair::Status::OutsideCoarse;
    pair.why = "the patch leaves the coarse image";
  }
  else if (fine.RegionOf(coarse.FootprintOf(pair.coarse), pair.fine, pair.why))
  {
    const bool inside = fine.Contains(pair.fine);
    pair.status = inside ? PatchPair::Status::Accepted : PatchPair::Status::OutsideFine;
    pair.why = inside ? "" : "the patch leaves the fine image";
  }
  return pair;
}

} // namespace otb
