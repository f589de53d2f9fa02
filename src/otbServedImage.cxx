/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbServedImage.h"
#include "otbSamplingGrid.h"

#include "otbExtendedFilenameToWriterOptions.h"
#include "otbImageCommons.h"
#include "otbNoDataHelper.h"

#include "cpl_error.h"
#include "cpl_vsi.h"
#include "gdal.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
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

void RemovePlainFile(const std::string& file)
{
  struct stat status;
  if (stat(file.c_str(), &status) == 0 && S_ISREG(status.st_mode))
  {
    std::remove(file.c_str());
  }
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
    const std::string name = GDALGetDataTypeName(type);
    if (name == "Int64" || name == "UInt64")
    {
      throw ServedImageError(file + ": band " + std::to_string(band) + " has integers of 64 bits (" + name +
                             "), which OTB cannot read; convert it first (gdal_translate -ot Int32, or Float64)");
    }
  }
  double transform[6];
  if (GDALGetGeoTransform(dataset.get(), transform) == CE_None)
  {
    SamplingGrid::RequireAxisAligned(transform, file);
  }
}

bool NeedsDouble(const std::string& extendedName)
{
  std::string error;
  const Dataset dataset = Open(FileOfExtendedName(extendedName), GA_ReadOnly, error);
  for (int band = 1; dataset && band <= GDALGetRasterCount(dataset.get()); ++band)
  {
    const auto type = GDALGetRasterDataType(GDALGetRasterBand(dataset.get(), band));
    if (type != GDT_Float32 && GDALGetDataTypeSizeBytes(type) >= 4)
    {
      return true;
    }
  }
  return false;
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

void RequireRoom(const std::string& extendedName, double bytes)
{
  const std::string file = FileOfExtendedName(extendedName), folder = FolderOf(extendedName);
  struct statvfs disk;
  if (statvfs(folder.c_str(), &disk) != 0 || disk.f_blocks == 0) // some network disks do not say
  {
    return;
  }
  const double room = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
  if (bytes > room)
  {
    std::ostringstream said;
    said << file << ": takes " << std::ceil(bytes / 1e6) << " MB, but " << folder << " has room for " << std::floor(room / 1e6)
         << ": disk full; free some space, choose another folder, or have the file compressed (&gdal:co:COMPRESS=DEFLATE)";
    throw ServedImageError(said.str());
  }
}

namespace
{
using IndexValue = SamplingGrid::IndexValue;
using PairType = std::array<IndexValue, 2>;

IndexValue RaisedTo(IndexValue value, IndexValue unit)
{
  return (value + unit - 1) / unit * unit;
}

/** What block sizes near `length` are multiples of: the step, and tiles of a GeoTIFF if these are not too coarse. */
IndexValue UnitNear(IndexValue length, IndexValue step)
{
  for (const IndexValue tile : {512, 256, 128, 64, 16})
  {
    if (std::lcm(step, tile) * 2 <= length)
    {
      return std::lcm(step, tile);
    }
  }
  return step;
}

/** Side of the tiles of a GeoTIFF so that whole tiles fill a block. */
IndexValue TileFor(IndexValue block)
{
  for (IndexValue tile = 512; tile >= 128; tile -= 16)
  {
    if (block % tile == 0)
    {
      return tile;
    }
  }
  return 512;
}

constexpr double Mebibyte = 1024 * 1024;
} // namespace

WritingOptions ReadWritingOptions(const std::string& extendedName)
{
  WritingOptions options;
  const std::string file = FileOfExtendedName(extendedName);
  options.isGeoTiff = IsGeoTiff(file);
  options.isPlain = file.size() == extendedName.size();
  auto helper = ExtendedFilenameToWriterOptions::New();
  helper->SetExtendedFileName(extendedName);
  options.isStreamingGiven = helper->StreamingTypeIsSet();
  if (options.isStreamingGiven)
  {
    options.isInStrips = helper->GetStreamingType() == "stripped";
  }
  bool isTiled = false, isCompressed = false, isSparse = false, saysThreads = false;
  IndexValue columns = 0, rows = 0;
  for (auto creation : helper->GetgdalCreationOptions())
  {
    std::transform(creation.begin(), creation.end(), creation.begin(), [](unsigned char c) { return std::toupper(c); });
    isTiled = isTiled || creation == "TILED=YES" || creation == "TILED=TRUE" || creation == "TILED=ON";
    columns = creation.rfind("BLOCKXSIZE=", 0) == 0 ? std::atoi(creation.c_str() + 11) : columns;
    rows = creation.rfind("BLOCKYSIZE=", 0) == 0 ? std::atoi(creation.c_str() + 11) : rows;
    isSparse = isSparse || creation.rfind("SPARSE_OK=", 0) == 0;
    saysThreads = saysThreads || creation.rfind("NUM_THREADS=", 0) == 0;
    isCompressed = isCompressed || (creation.rfind("COMPRESS=", 0) == 0 && creation != "COMPRESS=NONE");
  }
  options.leavesThreadsOpen = isCompressed && !saysThreads;
  options.isStoredWhole = options.isGeoTiff && !options.isPlain && !isCompressed && !isSparse;
  options.tile =
      options.isGeoTiff && !isTiled ? PairType{{1, rows > 0 ? rows : 1}} : PairType{{columns > 0 ? columns : 256, rows > 0 ? rows : 256}};
  if (!options.isStreamingGiven && options.isGeoTiff && !options.isPlain)
  {
    options.isInStrips = !isTiled;
  }
  if (helper->BoxIsSet())
  {
    std::istringstream box(helper->GetBox());
    char colon[3] = {0, 0, 0};
    IndexValue column = 0, row = 0, width = 0, height = 0;
    if (box >> column >> colon[0] >> row >> colon[1] >> width >> colon[2] >> height && width > 0 && height > 0)
    {
      options.hasBox = true;
      options.box.SetIndex(0, column);
      options.box.SetIndex(1, row);
      options.box.SetSize(0, static_cast<SamplingGrid::SizeValue>(width));
      options.box.SetSize(1, static_cast<SamplingGrid::SizeValue>(height));
    }
  }
  return options;
}

PairType PlanBlocks(const PairType& size, const PairType& step, const PairType& margin, double mostPixels, IndexValue mostRows)
{
  PairType best{{0, 0}};
  double bestCost = std::numeric_limits<double>::max();
  for (IndexValue columns = 1; columns == 1 || size[0] / columns >= 64; ++columns)
  {
    const IndexValue even = (size[0] + columns - 1) / columns;
    const IndexValue width = RaisedTo(even, columns == 1 ? step[0] : UnitNear(even, step[0]));
    auto highest = static_cast<IndexValue>(mostPixels / static_cast<double>(width + margin[0])) - margin[1];
    highest = mostRows > 0 ? std::min(highest, mostRows) : highest;
    if (highest < std::min<IndexValue>(size[1], std::max<IndexValue>(step[1], 16)))
    {
      continue;
    }
    IndexValue rows = (size[1] + highest - 1) / highest, height = 0;
    for (;; ++rows)
    {
      const IndexValue evenRows = (size[1] + rows - 1) / rows;
      height = RaisedTo(evenRows, rows == 1 ? step[1] : UnitNear(evenRows, step[1]));
      if (height <= highest || evenRows <= step[1] || rows == 1)
      {
        break;
      }
    }
    rows = (size[1] + height - 1) / height;
    const auto across = static_cast<double>((size[0] + width - 1) / width), down = static_cast<double>(rows);
    const double cost = (static_cast<double>(size[0]) + across * static_cast<double>(margin[0])) *
                            (static_cast<double>(size[1]) + down * static_cast<double>(margin[1])) +
                        across * down * 256 * 256 + // starting a run takes time, too
                        256 * static_cast<double>(std::max(width, height)) / static_cast<double>(std::min(width, height)); // else square
    if (cost < bestCost)
    {
      bestCost = cost;
      best = {{width, height}};
    }
  }
  if (best[0] == 0) // nothing fits
  {
    best = {{RaisedTo(std::min<IndexValue>(size[0], 64), step[0]), RaisedTo(std::min<IndexValue>(size[1], 64), step[1])}};
  }
  return best;
}

std::string WithFastWriting(const std::string& extendedName, const WritingPlan& plan, bool isReal, bool hasNoData, double noData)
{
  const auto options = ReadWritingOptions(extendedName);
  if (!options.isGeoTiff)
  {
    return extendedName;
  }
  std::ostringstream name;
  name.precision(17);
  name << extendedName << (options.isPlain ? "?" : "");
  const double width = static_cast<double>(plan.size[0]), height = static_cast<double>(plan.size[1]);
  if (!options.isStreamingGiven && options.isInStrips)
  {
    // whole rows of blocks if they are not too large
    const auto most = static_cast<IndexValue>(std::max(1.0, 32 * Mebibyte / (width * static_cast<double>(plan.bytesPerPixel))));
    IndexValue rows = plan.hint[1] > 0 ? plan.hint[1] : most;
    rows = rows > most ? std::max<IndexValue>(1, most / 16 * 16) : rows;
    name << "&streaming:type=stripped&streaming:sizemode=height&streaming:sizevalue=" << rows;
  }
  else if (!options.isStreamingGiven && plan.hint[0] > 0 && plan.hint[1] > 0)
  {
    // OTB takes the pipeline for twice the product and asks for as many parts as the memory makes of that: whole hints if there are no
    // more parts than hints
    const double bytes = width * height * static_cast<double>(plan.bytesPerPixel);
    const double hints = std::ceil(width / static_cast<double>(plan.hint[0])) * std::ceil(height / static_cast<double>(plan.hint[1]));
    const double megabytes = std::ceil(1.005 * 2 * bytes / hints / Mebibyte);
    name << "&streaming:type=auto&streaming:sizevalue=" << std::max(1.0, megabytes);
  }
  if (options.isPlain)
  {
    // zstd packs Sentinel-2 as well as deflate in a quarter of the time
    GDALAllRegister();
    const GDALDriverH driver = GDALGetDriverByName("GTiff");
    const char* creation = driver == nullptr ? nullptr : GDALGetMetadataItem(driver, GDAL_DMD_CREATIONOPTIONLIST, nullptr);
    const bool zstd = creation != nullptr && std::strstr(creation, "<Value>ZSTD</Value>") != nullptr;
    name << "&gdal:co:TILED=YES&gdal:co:BLOCKXSIZE=" << TileFor(plan.hint[0]) << "&gdal:co:BLOCKYSIZE=" << TileFor(plan.hint[1])
         << (zstd ? "&gdal:co:COMPRESS=ZSTD&gdal:co:ZSTD_LEVEL=1" : "&gdal:co:COMPRESS=DEFLATE&gdal:co:ZLEVEL=1")
         << "&gdal:co:PREDICTOR=" << (isReal ? 3 : 2) << "&gdal:co:BIGTIFF=IF_SAFER&gdal:co:NUM_THREADS=2";
    if (hasNoData)
    {
      name << "&nodata=" << noData;
    }
  }
  else if (options.leavesThreadsOpen)
  {
    name << "&gdal:co:NUM_THREADS=2"; // or the thread that writes would be the slowest
  }
  return name.str();
}

std::string WithPatchWriting(const std::string& extendedName, std::size_t height, std::size_t bandBytes, std::size_t groupPatches)
{
  constexpr std::size_t stripBytes = 8192; // small patches: several in a strip
  const bool hasOptions = extendedName.find('?') != std::string::npos;
  std::string name = extendedName;
  if (name.find("&streaming:") == std::string::npos)
  {
    name += (hasOptions ? "" : "?") +
            ("&streaming:type=stripped&streaming:sizemode=height&streaming:sizevalue=" + std::to_string(groupPatches * height));
  }
  if (!hasOptions && IsGeoTiff(extendedName))
  {
    const std::size_t patches = 1 + stripBytes / std::max<std::size_t>(1, bandBytes);
    name += "&gdal:co:INTERLEAVE=BAND&gdal:co:BLOCKYSIZE=" + std::to_string(patches * height) + "&gdal:co:BIGTIFF=IF_SAFER";
  }
  return name;
}

std::string PartialNameOf(const std::string& extendedName)
{
  const std::string file = FileOfExtendedName(extendedName);
  struct stat status;
  const bool isSpecial = lstat(file.c_str(), &status) == 0 && !S_ISREG(status.st_mode);
  if (!IsGeoTiff(file) || file.rfind("/vsi", 0) == 0 || isSpecial)
  {
    return "";
  }
  const auto slash = file.rfind('/') + 1; // 0 if there is none
  const auto dot = file.rfind('.');
  return file.substr(0, slash) + "." + file.substr(slash, dot - slash) + ".partial-" + std::to_string(getpid()) + file.substr(dot);
}

IndexValue EvenStrips(IndexValue rows, IndexValue height, IndexValue step)
{
  for (IndexValue strips = (rows + height - 1) / height; strips <= 2 * ((rows + height - 1) / height); ++strips)
  {
    const IndexValue even = (rows + strips - 1) / strips;
    if (even % step == 0)
    {
      return even;
    }
  }
  return height;
}

double WritingCache(const WritingPlan& plan, const WritingOptions& options)
{
  const bool isWhole = options.isPlain
                           ? plan.block[0] > 0
                           : !options.isStreamingGiven && plan.hint[0] % options.tile[0] == 0 && plan.hint[1] % options.tile[1] == 0;
  const auto rows = static_cast<double>(options.isPlain ? 512 : options.tile[1]);
  return isWhole ? 0 : rows * static_cast<double>(plan.size[0]) * static_cast<double>(plan.bytesPerPixel);
}

double ReadingCache(const itk::ImageBase<2>& image, const PairType& area)
{
  const auto* common = dynamic_cast<const ImageCommons*>(&image);
  if (common == nullptr || !common->GetImageMetadata().Has(MDNum::TileHintX) || !common->GetImageMetadata().Has(MDNum::TileHintY))
  {
    return 0;
  }
  const auto& metadata = common->GetImageMetadata();
  const double tile[2] = {metadata[MDNum::TileHintX], metadata[MDNum::TileHintY]};
  double bytes = 4.0 * image.GetNumberOfComponentsPerPixel(); // at most, but for doubles
  for (unsigned int k = 0; k < 2; ++k)
  {
    bytes *= std::min(static_cast<double>(image.GetLargestPossibleRegion().GetSize(k)), static_cast<double>(area[k]) + 2 * tile[k]);
  }
  return bytes;
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
      // told once: by RequireWhole, or in the error of OTB's writer, which quotes GDAL's last
      CPLErrorSetState(level, number, (state->first + "; is the disk full?").c_str());
      return;
    }
    CPLDefaultErrorHandler(level, number, message);
  }

  /** After a failure, which was told: the writer's file is closed when nobody listens any more, and fails again, block by block. */
  static void HandleRest(CPLErr level, CPLErrorNum number, const char* message)
  {
    const std::string said = message;
    const bool isRest = said.find(".partial-") != std::string::npos || said.find("_tiffWriteProc") != std::string::npos ||
                        said.find("_tiffSeekProc") != std::string::npos || said.find("TIFFAppendToStrip") != std::string::npos;
    if (level < CE_Failure || !isRest)
    {
      CPLDefaultErrorHandler(level, number, message);
    }
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
    const bool isDefault = m_State->previous == nullptr || m_State->previous == &CPLDefaultErrorHandler;
    CPLSetErrorHandler(isDefault && !this->FirstError().empty() ? &State::HandleRest : m_State->previous);
    State::current = nullptr;
  }
}

std::string WriteMonitor::FirstError() const
{
  const std::lock_guard<std::mutex> lock(m_State->mutex);
  return m_State->first;
}

std::string WriteMonitor::FindDamage(const std::string& extendedName) const
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
  return cause;
}

void WriteMonitor::RequireWhole(const std::string& extendedName, const std::string& written) const
{
  const std::string file = FileOfExtendedName(extendedName);
  const std::string damaged = written.empty() ? file : written;
  const std::string cause = this->FindDamage(damaged);
  if (!cause.empty())
  {
    RemovePlainFile(damaged);
    throw ServedImageError(file + ": was not written whole and has been removed (" + cause + "); is the disk full?");
  }
}

void WriteMonitor::RequireWhole(const std::vector<std::string>& extendedNames) const
{
  std::unique_ptr<ServedImageError> first;
  for (const auto& name : extendedNames)
  {
    try
    {
      this->RequireWhole(name);
    }
    catch (const ServedImageError& damaged)
    {
      first = first ? std::move(first) : std::make_unique<ServedImageError>(damaged);
    }
  }
  if (first)
  {
    throw *first;
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
