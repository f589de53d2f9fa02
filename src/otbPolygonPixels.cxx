/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbPolygonPixels.h"
#include "otbServedImage.h"

#include "cpl_error.h"
#include "cpl_string.h"
#include "gdal_alg.h"
#include "gdal_priv.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <vector>

namespace otb
{
namespace
{

/** From the CRS to fractional pixels of a grid, as GDAL wants it. */
int ToPixels(void* grid, int isInverse, int count, double* x, double* y, double*, int* isGood)
{
  for (int k = 0; k < count; ++k)
  {
    SamplingGrid::PointType point;
    point[0] = x[k];
    point[1] = y[k];
    const auto position = static_cast<const SamplingGrid*>(grid)->PositionOf(point);
    x[k] = position[0];
    y[k] = position[1];
    isGood[k] = isInverse == 0;
  }
  return isInverse == 0;
}

struct Shape
{
  std::unique_ptr<OGRGeometry> geometry;
  OGREnvelope envelope;
  std::string label;
  GIntBig feature = 0;
};

/** An attribute's value with its quotes, as TinyXML (OTB's writer) has them. */
std::string Quoted(const std::string& text)
{
  std::string result;
  for (const char letter : text)
  {
    if (static_cast<unsigned char>(letter) < 0x20)
    {
      const char* digits = "0123456789ABCDEF";
      result += std::string("&#x") + digits[letter / 16] + digits[letter % 16] + ';';
      continue;
    }
    result += letter == '&'    ? "&amp;"
              : letter == '<'  ? "&lt;"
              : letter == '>'  ? "&gt;"
              : letter == '"'  ? "&quot;"
              : letter == '\'' ? "&apos;"
                               : std::string(1, letter);
  }
  const char quote = text.find('"') == std::string::npos ? '"' : '\'';
  return quote + result + quote;
}

} // namespace

PolygonPixels::PolygonPixels(const SamplingGrid& grid, OGRLayer& layer, const std::string& field, std::size_t bytes)
{
  const int index = layer.GetLayerDefn()->GetFieldIndex(field.c_str());
  if (index < 0)
  {
    throw std::runtime_error(std::string(layer.GetName()) + ": has no field '" + field + "'; give the name of an existing field");
  }
  const auto footprint = grid.GetFootprint();
  layer.SetSpatialFilterRect(std::min(footprint.first[0], footprint.last[0]), std::min(footprint.first[1], footprint.last[1]),
                             std::max(footprint.first[0], footprint.last[0]), std::max(footprint.first[1], footprint.last[1]));
  std::vector<Shape> shapes;
  for (auto& feature : layer)
  {
    if (!feature->IsFieldSetAndNotNull(index) || feature->GetGeometryRef() == nullptr)
    {
      ++m_Skipped;
      continue;
    }
    Shape shape;
    shape.label = feature->GetFieldAsString(index);
    shape.feature = feature->GetFID();
    shape.geometry.reset(feature->StealGeometry());
    shape.geometry->getEnvelope(&shape.envelope);
    shapes.push_back(std::move(shape));
  }
  layer.SetSpatialFilter(nullptr);

  std::vector<std::size_t> counts(shapes.size() + 1, 0); // the first one for pixels outside
  const std::size_t width = grid.GetRegion().GetSize(0), height = grid.GetRegion().GetSize(1);
  const std::size_t rows = std::min(height, std::max<std::size_t>(1, bytes / (width * sizeof(std::int32_t))));
  GDALDriver* driver = GetGDALDriverManager()->GetDriverByName("MEM");
  std::vector<std::int32_t> pixels;
  for (std::size_t top = 0; top < height; top += rows)
  {
    auto region = grid.GetRegion();
    region.SetIndex(1, region.GetIndex(1) + static_cast<itk::IndexValueType>(top));
    region.SetSize(1, std::min(rows, height - top));
    const auto strip = grid.Cropped(region);
    const auto ground = strip.GetFootprint();
    SamplingGrid::RegionType drawn = region; // drawn from pixel 0 on
    drawn.SetIndex({{0, 0}});
    SamplingGrid target(strip.GetCorner(), strip.GetSpacing(), drawn);
    std::vector<OGRGeometryH> geometries;
    std::vector<double> values;
    for (std::size_t k = 0; k < shapes.size(); ++k)
    {
      const auto& envelope = shapes[k].envelope;
      if (envelope.MaxY >= std::min(ground.first[1], ground.last[1]) && envelope.MinY <= std::max(ground.first[1], ground.last[1]))
      {
        geometries.push_back(OGRGeometry::ToHandle(shapes[k].geometry.get()));
        values.push_back(static_cast<double>(k + 1));
      }
    }
    if (geometries.empty())
    {
      continue;
    }
    const int lines = static_cast<int>(region.GetSize(1));
    pixels.assign(width * region.GetSize(1), 0);
    const std::unique_ptr<GDALDataset> dataset(driver->Create("", static_cast<int>(width), lines, 0, GDT_Int32, nullptr));
    char pointer[64] = {0};
    CPLPrintPointer(pointer, pixels.data(), sizeof(pointer) - 1);
    const std::string option = std::string("DATAPOINTER=") + pointer;
    const char* options[] = {option.c_str(), nullptr};
    int band = 1;
    CPLErrorReset();
    if (!dataset || dataset->AddBand(GDT_Int32, const_cast<char**>(options)) != CE_None ||
        GDALRasterizeGeometries(dataset.get(), 1, &band, static_cast<int>(geometries.size()), geometries.data(), &ToPixels, &target,
                                values.data(), nullptr, nullptr, nullptr) != CE_None)
    {
      throw std::runtime_error(std::string("the polygons cannot be drawn (") + CPLGetLastErrorMsg() + ")");
    }
    dataset->FlushCache();
    for (const std::int32_t pixel : pixels)
    {
      ++counts[static_cast<std::size_t>(pixel)];
    }
  }
  for (std::size_t k = 0; k < shapes.size(); ++k)
  {
    if (counts[k + 1] > 0)
    {
      m_Classes[shapes[k].label] += counts[k + 1];
      m_Features[std::to_string(shapes[k].feature)] += counts[k + 1];
    }
  }
  if (m_Classes.empty())
  {
    throw std::runtime_error("no polygon with a value in '" + field + "' covers a pixel's centre; the layer has " +
                             std::to_string(layer.GetFeatureCount()) + " features, the image " + grid.Describe() +
                             "; check the CRS of both");
  }
}

void PolygonPixels::Write(const std::string& file) const
{
  RequireWritableFolder(file);
  const std::string temporary = file + "." + std::to_string(getpid()) + ".tmp";
  std::ofstream text(temporary);
  text << "<?xml version=\"1.0\" ?>\n<GeneralStatistics>\n";
  const auto write = [&](const char* name, const Counts& counts)
  {
    text << "    <Statistic name=\"" << name << "\">\n";
    for (const auto& [key, count] : counts)
    {
      text << "        <StatisticMap key=" << Quoted(key) << " value=\"" << count << "\" />\n";
    }
    text << "    </Statistic>\n";
  };
  write("samplesPerClass", m_Classes);
  write("samplesPerVector", m_Features);
  text << "</GeneralStatistics>\n";
  text.close();
  if (!text || std::rename(temporary.c_str(), file.c_str()) != 0)
  {
    const std::string cause = std::strerror(errno);
    std::remove(temporary.c_str());
    throw std::runtime_error(file + ": cannot be written (" + cause + "); check the folder and the free space");
  }
}

} // namespace otb
