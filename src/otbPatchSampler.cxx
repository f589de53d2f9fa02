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
#include <sstream>
#include <stdexcept>

namespace otb
{
namespace
{

/** Patches are searched for no-data in groups of at most about this many bytes. */
constexpr std::size_t GroupBytes = std::size_t{32} << 20;

int LabelOf(const OGRFeature& feature, int field, const std::string& file)
{
  const OGRFieldType type = feature.GetFieldDefnRef(field)->GetType();
  const double value = type == OFTInteger64 ? static_cast<double>(feature.GetFieldAsInteger64(field)) : feature.GetFieldAsDouble(field);
  if (!(value >= std::numeric_limits<int>::min() && value <= std::numeric_limits<int>::max()))
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

void PatchSampler::AddSource(std::shared_ptr<const PatchReader> reader, bool hasNoData, float noData)
{
  Source source;
  source.reader = std::move(reader);
  source.hasNoData = hasNoData;
  source.noData = noData;
  if (!m_Sources.empty())
  {
    m_Sources.front().reader->GetGrid().RequireSameReferenceSystem(source.reader->GetGrid(),
                                                                   "source 1 and source " + std::to_string(m_Sources.size() + 1));
  }
  m_Sources.push_back(std::move(source));
}

void PatchSampler::FindCoarsest()
{
  const auto spacing = [](const Source& source, unsigned int k)
  {
    return source.reader->GetGrid().GetSpacing()[k];
  };
  for (std::size_t i = 1; i < m_Sources.size(); ++i)
  {
    if (std::abs(spacing(m_Sources[i], 0)) > std::abs(spacing(m_Sources[m_Coarse], 0)))
    {
      m_Coarse = i;
    }
  }
  const Source& coarse = m_Sources[m_Coarse];
  for (Source& source : m_Sources)
  {
    const double x = source.reader->GetWidth() * spacing(source, 0) / (coarse.reader->GetWidth() * spacing(coarse, 0));
    const double y = source.reader->GetHeight() * spacing(source, 1) / (coarse.reader->GetHeight() * spacing(coarse, 1));
    // The ratio is exact for patches that are meant to be pairs; images' spacings may be rounded in the last digits.
    source.sameGround = std::abs(x - 1) < SamplingGrid::Tolerance && std::abs(y - 1) < SamplingGrid::Tolerance;
  }
}

bool PatchSampler::Place(const Location& location, std::vector<IndexType>& corners)
{
  const PatchReader& coarse = *m_Sources[m_Coarse].reader;
  for (std::size_t i = 0; i < m_Sources.size(); ++i)
  {
    const PatchReader& reader = *m_Sources[i].reader;
    if (i == m_Coarse || !m_Sources[i].sameGround)
    {
      const auto region = reader.GetGrid().PatchAround(location.point, reader.GetWidth(), reader.GetHeight());
      if (!reader.GetGrid().Contains(region))
      {
        ++m_Rejected["outside source " + std::to_string(i + 1)];
        return false;
      }
      corners[i] = region.GetIndex();
      continue;
    }
    const PatchPair pair = EqualFootprintPatches(coarse.GetGrid(), reader.GetGrid(), location.point, coarse.GetWidth(), coarse.GetHeight());
    if (pair.status == PatchPair::Status::Accepted)
    {
      corners[i] = pair.fine.GetIndex();
      continue;
    }
    const bool isCoarse = pair.status == PatchPair::Status::OutsideCoarse;
    const std::string number = std::to_string((isCoarse ? m_Coarse : i) + 1);
    ++m_Rejected[pair.status == PatchPair::Status::NotNested ? "no equal footprint in source " + number : "outside source " + number];
    return false;
  }
  return true;
}

void PatchSampler::FindNoData(const Source& source, std::vector<char>& valid)
{
  const PatchReader& reader = *source.reader;
  // The parameter is a float32, so that pixels of real types are compared as such; integers of 32 bits must not be rounded.
  const auto search = [&](auto zero, GDALDataType type)
  {
    using Pixel = decltype(zero);
    const auto noData = static_cast<Pixel>(source.noData);
    const bool isNaN = std::isnan(source.noData);
    const std::size_t patch = reader.GetWidth() * reader.GetHeight() * reader.GetBands();
    const std::size_t group = std::max<std::size_t>(1, GroupBytes / (patch * sizeof(Pixel)));
    const auto order = reader.ReadingOrder(source.corners.data(), source.corners.size());
    std::vector<Pixel> pixels;
    std::vector<IndexType> corners;
    for (std::size_t begin = 0; begin < order.size(); begin += group)
    {
      const std::size_t end = std::min(order.size(), begin + group);
      corners.clear();
      for (std::size_t k = begin; k < end; ++k)
      {
        corners.push_back(source.corners[order[k]]);
      }
      pixels.resize(patch * corners.size());
      reader.Read(corners.data(), corners.size(), type, pixels.data());
      for (std::size_t k = begin; k < end; ++k)
      {
        const Pixel* first = pixels.data() + (k - begin) * patch;
        if (std::any_of(first, first + patch, [&](Pixel value) { return value == noData || (isNaN && std::isnan(value)); }))
        {
          valid[order[k]] = 0;
        }
      }
    }
  };
  const GDALDataType type = reader.GetType();
  type == GDT_Int32 || type == GDT_UInt32 ? search(0., GDT_Float64) : search(0.f, GDT_Float32);
}

void PatchSampler::Select(const std::vector<Location>& locations)
{
  this->FindCoarsest();
  std::vector<IndexType> corners(m_Sources.size());
  for (const Location& location : locations)
  {
    if (this->Place(location, corners))
    {
      for (std::size_t i = 0; i < m_Sources.size(); ++i)
      {
        m_Sources[i].corners.push_back(corners[i]);
      }
      m_Labels.push_back(location.label);
    }
  }
  std::vector<char> valid(m_Labels.size(), 1);
  for (const Source& source : m_Sources)
  {
    if (source.hasNoData)
    {
      FindNoData(source, valid);
    }
  }
  const auto keep = [&](auto& values)
  {
    std::size_t kept = 0;
    for (std::size_t k = 0; k < valid.size(); ++k)
    {
      if (valid[k])
      {
        values[kept++] = values[k];
      }
    }
    values.resize(kept);
  };
  keep(m_Labels);
  for (Source& source : m_Sources)
  {
    keep(source.corners);
  }
  if (m_Labels.size() < valid.size())
  {
    m_Rejected["no-data"] += valid.size() - m_Labels.size();
  }
  if (m_Labels.empty())
  {
    std::ostringstream message;
    message << "No patch to sample: " << this->Summary();
    if (!locations.empty())
    {
      const auto& point = locations.front().point;
      message << "; the first point is (" << point[0] << ", " << point[1] << "), source 1 has "
              << m_Sources.front().reader->GetGrid().Describe() << "; check the CRS of the points, the sizes and the no-data value";
    }
    throw std::runtime_error(message.str());
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
