/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbPatchSampler.h"

#include "gdal_priv.h"
#include "ogrsf_frmts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <sstream>
#include <stdexcept>

namespace otb
{
namespace
{

/** Rows are read in strips of at most about this many bytes. */
constexpr std::size_t StripBytes = std::size_t{128} << 20;

int LabelOf(const OGRFeature& feature, int field, const std::string& file)
{
  const OGRFieldType type = feature.GetFieldDefnRef(field)->GetType();
  const double value = type == OFTInteger64 ? static_cast<double>(feature.GetFieldAsInteger64(field)) : feature.GetFieldAsDouble(field);
  if (!(std::abs(value) <= std::numeric_limits<int>::max()))
  {
    throw std::runtime_error(file + ": feature " + std::to_string(feature.GetFID()) + " has the label " + std::to_string(value) +
                             ", expected an integer of 32 bits");
  }
  return static_cast<int>(value);
}

} // namespace

std::vector<PatchSampler::Location> PatchSampler::ReadLocations(const std::string& file, const std::string& field)
{
  GDALAllRegister();
  std::unique_ptr<GDALDataset> dataset(
      static_cast<GDALDataset*>(GDALOpenEx(file.c_str(), GDAL_OF_VECTOR | GDAL_OF_READONLY, nullptr, nullptr, nullptr)));
  if (!dataset)
  {
    throw std::runtime_error(file + ": cannot be read as vector data; check the path and the format");
  }
  std::vector<Location> locations;
  bool hasField = false;
  for (auto* layer : dataset->GetLayers())
  {
    const int index = layer->GetLayerDefn()->GetFieldIndex(field.c_str());
    hasField = hasField || index >= 0;
    for (auto& feature : layer)
    {
      if (index < 0 || !feature->IsFieldSetAndNotNull(index))
      {
        ++m_Rejected["no value in the field"];
        continue;
      }
      const OGRGeometry* geometry = feature->GetGeometryRef();
      if (geometry == nullptr || wkbFlatten(geometry->getGeometryType()) != wkbPoint || geometry->IsEmpty())
      {
        throw std::runtime_error(file + ": feature " + std::to_string(feature->GetFID()) +
                                 " is not a point; make points of the geometries first (PatchesSelection writes such points)");
      }
      Location location;
      location.point[0] = geometry->toPoint()->getX();
      location.point[1] = geometry->toPoint()->getY();
      location.label = LabelOf(*feature, index, file);
      locations.push_back(location);
    }
  }
  if (!hasField)
  {
    throw std::runtime_error(file + ": has no field '" + field + "'; give the name of an existing field");
  }
  return locations;
}

void PatchSampler::AddSource(const std::vector<ImageType::Pointer>& images, SizeValue width, SizeValue height, bool hasNoData, float noData)
{
  if (images.empty() || width == 0 || height == 0)
  {
    throw std::runtime_error("source " + std::to_string(m_Sources.size() + 1) + " needs images and a patch size of at least 1 x 1");
  }
  Source source;
  source.images = images;
  source.width = width;
  source.height = height;
  source.hasNoData = hasNoData;
  source.noData = noData;
  for (std::size_t i = 0; i < images.size(); ++i)
  {
    images[i]->UpdateOutputInformation();
    const auto size = images[i]->GetLargestPossibleRegion().GetSize(), first = images[0]->GetLargestPossibleRegion().GetSize();
    if (size != first)
    {
      std::ostringstream message;
      message << "source " << m_Sources.size() + 1 << ": image " << i + 1 << " has " << size[0] << " x " << size[1]
              << " pixels, image 1 has " << first[0] << " x " << first[1] << "; images of one source are stacked and need one size";
      throw std::runtime_error(message.str());
    }
    source.bands += images[i]->GetNumberOfComponentsPerPixel();
  }
  source.grid = SamplingGrid::FromImage(images[0]);
  m_Sources.push_back(source);
}

void PatchSampler::SetUpGrids()
{
  for (std::size_t i = 1; i < m_Sources.size(); ++i)
  {
    if (std::abs(m_Sources[i].grid.GetSpacing()[0]) > std::abs(m_Sources[m_Coarse].grid.GetSpacing()[0]))
    {
      m_Coarse = i;
    }
  }
  const Source& coarse = m_Sources[m_Coarse];
  for (Source& source : m_Sources)
  {
    const double x = source.width * source.grid.GetSpacing()[0] / (coarse.width * coarse.grid.GetSpacing()[0]);
    const double y = source.height * source.grid.GetSpacing()[1] / (coarse.height * coarse.grid.GetSpacing()[1]);
    // The ratio is exact for patches that are meant to be pairs; images' spacings may be rounded in the last digits.
    source.sameGround = std::abs(x - 1) < SamplingGrid::Tolerance && std::abs(y - 1) < SamplingGrid::Tolerance;
  }
}

bool PatchSampler::Place(const Location& location, std::vector<RegionType>& regions)
{
  const Source& coarse = m_Sources[m_Coarse];
  for (std::size_t i = 0; i < m_Sources.size(); ++i)
  {
    const Source& source = m_Sources[i];
    if (i == m_Coarse || !source.sameGround)
    {
      regions[i] = source.grid.PatchAround(location.point, source.width, source.height);
      if (!source.grid.Contains(regions[i]))
      {
        ++m_Rejected["outside source " + std::to_string(i + 1)];
        return false;
      }
      continue;
    }
    const PatchPair pair = EqualFootprintPatches(coarse.grid, source.grid, location.point, coarse.width, coarse.height);
    if (pair.status == PatchPair::Status::Accepted)
    {
      regions[i] = pair.fine;
      continue;
    }
    const bool isCoarse = pair.status == PatchPair::Status::OutsideCoarse;
    const std::string number = std::to_string((isCoarse ? m_Coarse : i) + 1);
    ++m_Rejected[pair.status == PatchPair::Status::NotNested ? "no equal footprint in source " + number : "outside source " + number];
    return false;
  }
  return true;
}

void PatchSampler::Copy(const Source& source, std::size_t index, const std::vector<std::vector<RegionType>>& regions,
                        std::vector<char>& valid, std::vector<float>& buffer) const
{
  const std::size_t patch = source.width * source.height * source.bands;
  buffer.resize(patch * regions.size());
  std::vector<std::size_t> order(regions.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return regions[a][index].GetIndex(1) < regions[b][index].GetIndex(1); });

  const RegionType& whole = source.grid.GetRegion();
  const auto rowBytes = whole.GetSize(0) * source.bands * sizeof(float);
  const auto rows = static_cast<SamplingGrid::IndexValue>(std::max<std::size_t>(source.height, StripBytes / rowBytes));
  for (std::size_t begin = 0; begin < order.size();)
  {
    // A strip: all following patches that end within `rows` rows of the first one's top.
    const auto top = regions[order[begin]][index].GetIndex(1);
    std::size_t end = begin;
    RegionType strip = regions[order[begin]][index];
    while (end < order.size())
    {
      const RegionType& region = regions[order[end]][index];
      if (region.GetIndex(1) + static_cast<SamplingGrid::IndexValue>(source.height) > top + rows)
      {
        break;
      }
      const auto left = std::min(strip.GetIndex(0), region.GetIndex(0));
      const auto right = std::max(strip.GetUpperIndex()[0], region.GetUpperIndex()[0]);
      strip.SetIndex(0, left);
      strip.SetSize(0, static_cast<SizeValue>(right - left + 1));
      strip.SetSize(1, static_cast<SizeValue>(region.GetUpperIndex()[1] - top + 1));
      ++end;
    }
    unsigned int band = 0;
    for (const ImageType::Pointer& image : source.images)
    {
      image->SetRequestedRegion(strip);
      image->PropagateRequestedRegion();
      image->UpdateOutputData();
      const RegionType& held = image->GetBufferedRegion();
      const unsigned int bands = image->GetNumberOfComponentsPerPixel();
      for (std::size_t k = begin; k < end; ++k)
      {
        const RegionType& region = regions[order[k]][index];
        float* to = buffer.data() + order[k] * patch + band;
        for (SizeValue y = 0; y < source.height; ++y)
        {
          const auto row = static_cast<std::size_t>(region.GetIndex(1) - held.GetIndex(1)) + y;
          const auto left = static_cast<std::size_t>(region.GetIndex(0) - held.GetIndex(0));
          const float* from = image->GetBufferPointer() + (row * held.GetSize(0) + left) * bands;
          for (SizeValue x = 0; x < source.width; ++x, from += bands, to += source.bands)
          {
            std::copy(from, from + bands, to);
          }
        }
      }
      band += bands;
    }
    begin = end;
  }
  if (source.hasNoData)
  {
    const bool isNaN = std::isnan(source.noData);
    for (std::size_t k = 0; k < regions.size(); ++k)
    {
      const float* first = buffer.data() + k * patch;
      if (std::any_of(first, first + patch, [&](float value) { return value == source.noData || (isNaN && std::isnan(value)); }))
      {
        valid[k] = 0;
      }
    }
  }
}

void PatchSampler::Sample(const std::vector<Location>& locations)
{
  this->SetUpGrids();
  std::vector<std::vector<RegionType>> regions;
  std::vector<int> labels;
  for (const Location& location : locations)
  {
    std::vector<RegionType> placed(m_Sources.size());
    if (this->Place(location, placed))
    {
      regions.push_back(placed);
      labels.push_back(location.label);
    }
  }
  std::vector<char> valid(regions.size(), 1);
  std::vector<std::vector<float>> buffers(m_Sources.size());
  for (std::size_t i = 0; i < m_Sources.size() && !regions.empty(); ++i)
  {
    this->Copy(m_Sources[i], i, regions, valid, buffers[i]);
  }
  for (std::size_t k = 0; k < labels.size(); ++k)
  {
    if (valid[k])
    {
      m_Labels.push_back(labels[k]);
    }
    else
    {
      ++m_Rejected["no-data"];
    }
  }
  if (m_Labels.empty())
  {
    std::ostringstream message;
    message << "No patch to sample: " << this->Summary();
    if (!locations.empty())
    {
      const auto& point = locations.front().point;
      message << "; the first point is (" << point[0] << ", " << point[1] << "), source 1 has " << m_Sources.front().grid.Describe()
              << "; check the CRS of the points, the sizes and the no-data value";
    }
    throw std::runtime_error(message.str());
  }
  for (std::size_t i = 0; i < m_Sources.size(); ++i)
  {
    const Source& source = m_Sources[i];
    const std::size_t patch = source.width * source.height * source.bands;
    RegionType region;
    region.SetSize(0, source.width);
    region.SetSize(1, source.height * m_Labels.size());
    auto image = ImageType::New();
    image->SetRegions(region);
    image->SetNumberOfComponentsPerPixel(source.bands);
    image->SetSignedSpacing(source.grid.GetSpacing());
    image->Allocate();
    float* to = image->GetBufferPointer();
    for (std::size_t k = 0; k < valid.size(); ++k)
    {
      if (valid[k])
      {
        const float* from = buffers[i].data() + k * patch;
        to = std::copy(from, from + patch, to);
      }
    }
    buffers[i] = {};
    m_Patches.push_back(image);
  }
}

std::string PatchSampler::Summary() const
{
  std::size_t rejected = 0;
  std::ostringstream reasons;
  for (const auto& [reason, count] : m_Rejected)
  {
    reasons << (rejected ? ", " : "") << reason << ": " << count;
    rejected += count;
  }
  std::ostringstream summary;
  summary << "accepted " << m_Labels.size() << ", rejected " << rejected;
  if (rejected)
  {
    summary << " (" << reasons.str() << ")";
  }
  return summary.str();
}

} // namespace otb
