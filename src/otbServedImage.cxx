/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbServedImage.h"
#include "otbSamplingGrid.h"

#include "otbNoDataHelper.h"

#include "cpl_error.h"
#include "cpl_vsi.h"
#include "gdal.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <sstream>

namespace otb
{
namespace
{
struct DatasetCloser
{
  void operator()(void* dataset) const
  {
    GDALClose(dataset);
  }
};
using Dataset = std::unique_ptr<void, DatasetCloser>;

/** Opens without messages of GDAL's on the terminal. */
Dataset Open(const std::string& file, GDALAccess access, std::string& error)
{
  GDALAllRegister();
  CPLPushErrorHandler(CPLQuietErrorHandler);
  CPLErrorReset();
  Dataset dataset(GDALOpen(file.c_str(), access));
  error = CPLGetLastErrorMsg();
  CPLPopErrorHandler();
  return dataset;
}

bool IsGeoTiff(std::string file)
{
  std::transform(file.begin(), file.end(), file.begin(), [](unsigned char c) { return std::tolower(c); });
  const auto dot = file.rfind('.');
  return dot != std::string::npos && (file.substr(dot) == ".tif" || file.substr(dot) == ".tiff");
}
} // namespace

std::string FileOfExtendedName(const std::string& name)
{
  return name.substr(0, name.find("?"));
}

std::string FolderOf(const std::string& extendedName)
{
  const std::string file = FileOfExtendedName(extendedName);
  const auto slash = file.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : file.substr(0, slash);
}

void RequireServableFile(const std::string& extendedName)
{
  const std::string file = FileOfExtendedName(extendedName);
  if (file.empty())
  {
    return;
  }
  std::string error;
  const Dataset dataset = Open(file, GA_ReadOnly, error);
  if (!dataset)
  {
    throw ServedImageError(file + ": cannot be read as an image (" + error + "); check the path and the file");
  }
  for (int band = 1; band <= GDALGetRasterCount(dataset.get()); ++band)
  {
    const auto type = GDALGetRasterDataType(GDALGetRasterBand(dataset.get(), band));
    if (GDALDataTypeIsComplex(type) != 0)
    {
      throw ServedImageError(file + ": band " + std::to_string(band) + " has complex pixels (" + GDALGetDataTypeName(type) +
                             "), but models take real ones; extract the modulus or the real part first");
    }
  }
  double transform[6];
  if (GDALGetGeoTransform(dataset.get(), transform) == CE_None)
  {
    SamplingGrid::RequireAxisAligned(transform, file);
  }
}

std::vector<double> NoDataOf(const ImageMetadata& metadata, unsigned int bands)
{
  std::vector<bool> flags;
  std::vector<double> values;
  if (!ReadNoDataFlags(metadata, flags, values))
  {
    return {};
  }
  std::vector<double> noData(bands, std::numeric_limits<double>::quiet_NaN());
  bool any = false;
  for (unsigned int band = 0; band < bands && band < flags.size(); ++band)
  {
    if (flags[band])
    {
      noData[band] = values[band];
      any = true;
    }
  }
  return any ? noData : std::vector<double>();
}

void RequireWritableFolder(const std::string& extendedName)
{
  const std::string file = FileOfExtendedName(extendedName), folder = FolderOf(extendedName);
  if (access(folder.c_str(), W_OK | X_OK) != 0)
  {
    throw ServedImageError(file + ": cannot be created in folder " + folder + " (" + std::strerror(errno) +
                           "); create the folder or choose another");
  }
}

unsigned int NumberOfWritingBlocks(size_t width, size_t height, unsigned int block, double margin)
{
  // OTB's ImageRegionSquareTileSplitter: the side is the root of pixels / number, rounded up to a multiple of 16
  const double pixels = static_cast<double>(width) * static_cast<double>(height);
  const double side = std::max(16u, block);
  // more than a million blocks are not worth a choice, nor the time to make it
  const auto usual = static_cast<unsigned int>(std::min(1e6, std::max(1.0, std::ceil(pixels / (side * side)))));
  unsigned int best = usual;
  double bestCost = std::numeric_limits<double>::max();
  for (unsigned int number = std::max(1u, usual - std::min(usual - 1, usual / 4)); number <= usual * 2 + 4; ++number)
  {
    const auto raw = static_cast<size_t>(std::sqrt(std::floor(pixels / number)));
    const size_t width16 = std::max<size_t>(16, (raw + 15) / 16 * 16);
    if (static_cast<double>(width16) > 1.1 * side && number < usual * 2)
    {
      continue;
    }
    const double columns = std::ceil(static_cast<double>(width) / static_cast<double>(width16));
    const double rows = std::ceil(static_cast<double>(height) / static_cast<double>(width16));
    const double cost =
        (static_cast<double>(width) + columns * margin) * (static_cast<double>(height) + rows * margin) + columns * rows * 64 * 64;
    if (cost <= bestCost) // equal costs: the more even blocks
    {
      best = number;
      bestCost = cost;
    }
  }
  return best;
}

std::string WithTiledWriting(const std::string& extendedName, unsigned int blocks, bool isReal, bool hasNoData, double noData)
{
  if (extendedName.find('?') != std::string::npos || !IsGeoTiff(extendedName))
  {
    return extendedName;
  }
  // zstd packs Sentinel-2 as well as deflate in a quarter of the time
  GDALAllRegister();
  const GDALDriverH driver = GDALGetDriverByName("GTiff");
  const char* options = driver == nullptr ? nullptr : GDALGetMetadataItem(driver, GDAL_DMD_CREATIONOPTIONLIST, nullptr);
  const bool zstd = options != nullptr && std::strstr(options, "<Value>ZSTD</Value>") != nullptr;

  std::ostringstream name;
  name.precision(17);
  name << extendedName << "?&streaming:type=tiled&streaming:sizemode=nbsplits&streaming:sizevalue=" << blocks
       << "&gdal:co:TILED=YES&gdal:co:BLOCKXSIZE=512&gdal:co:BLOCKYSIZE=512"
       << (zstd ? "&gdal:co:COMPRESS=ZSTD&gdal:co:ZSTD_LEVEL=1" : "&gdal:co:COMPRESS=DEFLATE&gdal:co:ZLEVEL=1")
       << "&gdal:co:PREDICTOR=" << (isReal ? 3 : 2) << "&gdal:co:BIGTIFF=IF_SAFER&gdal:co:NUM_THREADS=2";
  if (hasNoData)
  {
    name << "&nodata=" << noData;
  }
  return name.str();
}

std::string WithPatchWriting(const std::string& extendedName, std::size_t height, std::size_t bytes)
{
  // Large enough to use each decoded block of the source for many patches, and no more than a fraction of a small computer's memory.
  constexpr std::size_t groupBytes = std::size_t{32} << 20;
  const bool hasOptions = extendedName.find('?') != std::string::npos;
  std::string name = extendedName;
  if (name.find("&streaming:") == std::string::npos)
  {
    const std::size_t patches = std::max<std::size_t>(1, groupBytes / std::max<std::size_t>(1, bytes));
    name += (hasOptions ? "" : "?") +
            ("&streaming:type=stripped&streaming:sizemode=height&streaming:sizevalue=" + std::to_string(patches * height));
  }
  if (!hasOptions && IsGeoTiff(extendedName))
  {
    const std::size_t patches = 1 + 8192 / std::max<std::size_t>(1, bytes); // small patches: several in a strip
    name += "&gdal:co:BLOCKYSIZE=" + std::to_string(patches * height) + "&gdal:co:BIGTIFF=IF_SAFER";
  }
  return name;
}

struct WriteMonitor::State
{
  mutable std::mutex mutex;
  std::string first;
  CPLErrorHandler previous = nullptr;

  static std::atomic<State*> current; // GDAL compresses in threads of its own

  static void Handle(CPLErr level, CPLErrorNum number, const char* message)
  {
    State* state = current;
    if (state != nullptr && level >= CE_Failure)
    {
      const std::lock_guard<std::mutex> lock(state->mutex);
      if (state->first.empty())
      {
        state->first = message;
      }
      return; // told once, by RequireWhole
    }
    CPLDefaultErrorHandler(level, number, message);
  }
};
std::atomic<WriteMonitor::State*> WriteMonitor::State::current{nullptr};

WriteMonitor::WriteMonitor() : m_State(new State)
{
  State::current = m_State.get();
  m_State->previous = CPLSetErrorHandler(&State::Handle); // for all threads, unlike CPLPushErrorHandler
}

WriteMonitor::~WriteMonitor()
{
  if (State::current == m_State.get())
  {
    CPLSetErrorHandler(m_State->previous);
    State::current = nullptr;
  }
}

std::string WriteMonitor::FirstError() const
{
  const std::lock_guard<std::mutex> lock(m_State->mutex);
  return m_State->first;
}

void WriteMonitor::RequireWhole(const std::string& extendedName)
{
  const std::string file = FileOfExtendedName(extendedName);
  std::string cause = this->FirstError();
  if (cause.empty())
  {
    std::string error;
    const Dataset dataset = Open(file, GA_ReadOnly, error);
    if (!dataset)
    {
      cause = "it cannot be opened: " + error;
    }
    else if (GDALGetRasterCount(dataset.get()) > 0) // 0: several images in one file (netCDF); each would have to be opened
    {
      // the last block of the last band is the last thing that is written
      GDALRasterBandH band = GDALGetRasterBand(dataset.get(), GDALGetRasterCount(dataset.get()));
      int width = 0, height = 0;
      GDALGetBlockSize(band, &width, &height);
      const size_t bytes = static_cast<size_t>(width) * static_cast<size_t>(height) *
                           static_cast<size_t>(GDALGetDataTypeSizeBytes(GDALGetRasterDataType(band)));
      std::vector<char> buffer(bytes);
      CPLPushErrorHandler(CPLQuietErrorHandler);
      const auto result =
          GDALReadBlock(band, (GDALGetRasterBandXSize(band) - 1) / width, (GDALGetRasterBandYSize(band) - 1) / height, buffer.data());
      cause = result == CE_None ? "" : std::string("its last block cannot be read: ") + CPLGetLastErrorMsg();
      CPLPopErrorHandler();
    }
  }
  if (!cause.empty())
  {
    struct stat status;
    if (stat(file.c_str(), &status) == 0 && S_ISREG(status.st_mode))
    {
      std::remove(file.c_str());
    }
    throw ServedImageError(file + ": was not written whole and has been removed (" + cause + "); is the disk full?");
  }
}

void NameBands(const std::string& extendedName, const std::vector<std::string>& names)
{
  std::string error;
  const auto file = FileOfExtendedName(extendedName);
  const Dataset dataset = IsGeoTiff(file) ? Open(file, GA_Update, error) : Dataset();
  if (!dataset || GDALGetRasterCount(dataset.get()) != static_cast<int>(names.size()))
  {
    return;
  }
  for (size_t band = 0; band < names.size(); ++band)
  {
    GDALSetDescription(GDALGetRasterBand(dataset.get(), static_cast<int>(band) + 1), names[band].c_str());
  }
}

} // namespace otb
