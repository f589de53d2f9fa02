/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbPatchReader.h"

#include "otbNumberOfThreads.h"
#include "otbSmallGdalCache.h"

#include "cpl_error.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace otb
{
namespace
{

/** Images in memory are asked for strips of about this many bytes. */
constexpr std::size_t StripBytes = std::size_t{32} << 20;
/** Patches from files are written in groups of about this many bytes: GDAL passes over them once a band, and finds them in the processor's
 * cache. */
constexpr std::size_t GroupBytes = std::size_t{8} << 20;
/** What GDAL's cache of decoded blocks needs beside the blocks that patches are read from: what is being written goes through it as well.
 */
constexpr GIntBig CacheBytes = GIntBig{64} << 20;

struct DatasetCloser
{
  void operator()(void* dataset) const
  {
    GDALClose(dataset);
  }
};
using Dataset = std::unique_ptr<void, DatasetCloser>;

Dataset Open(const std::string& file)
{
  CPLPushErrorHandler(CPLQuietErrorHandler);
  Dataset dataset(GDALOpen(file.c_str(), GA_ReadOnly));
  CPLPopErrorHandler();
  return dataset;
}

/** From band after band to pixel after pixel. GDAL can do that itself, in several times the time. */
template <class TWord, std::size_t VBands>
void Interleave(const TWord* from, TWord* to, std::size_t pixels, std::size_t bands)
{
  const std::size_t count = VBands > 0 ? VBands : bands; // known to the compiler for the usual ones
  for (std::size_t pixel = 0; pixel < pixels; ++pixel)
  {
    for (std::size_t band = 0; band < count; ++band)
    {
      to[pixel * count + band] = from[band * pixels + pixel];
    }
  }
}

template <class TWord>
void InterleaveWords(const char* from, char* to, std::size_t pixels, std::size_t bands)
{
  const auto call = bands == 3 ? &Interleave<TWord, 3> : bands == 4 ? &Interleave<TWord, 4> : &Interleave<TWord, 0>;
  call(reinterpret_cast<const TWord*>(from), reinterpret_cast<TWord*>(to), pixels, bands);
}

} // namespace

struct PatchReader::Handles
{
  std::vector<Dataset> datasets;
  std::vector<char> bands; ///< of one patch
};

PatchReader::~PatchReader() = default;

PatchReader::PatchReader(const PatchImages& images, SizeValue width, SizeValue height, const std::string& name)
    : m_Stack(images.stack), m_Files(images.files), m_Width(width), m_Height(height)
{
  if (m_Stack.IsEmpty() || width == 0 || height == 0)
  {
    throw std::runtime_error(name + " needs images and a patch size of at least 1 x 1");
  }
  GDALAllRegister();
  if (!this->OpenFiles())
  {
    m_Files.clear();
    m_Type = m_Stack.IsWide() ? GDT_Float64 : GDT_Float32;
    m_Block = {{1, 1}};
  }
}

bool PatchReader::OpenFiles()
{
  const auto& size = this->GetGrid().GetRegion().GetSize();
  m_CacheBytes = CacheBytes;
  for (std::size_t i = 0; i < m_Files.size(); ++i)
  {
    const unsigned int bands = m_Stack.GetImages()[i]->GetNumberOfComponentsPerPixel();
    const Dataset dataset = m_Files[i].empty() ? Dataset() : Open(m_Files[i]);
    // OTB shows some files otherwise than GDAL does: colours for a palette, overviews.
    if (!dataset || GDALGetRasterXSize(dataset.get()) != static_cast<int>(size[0]) ||
        GDALGetRasterYSize(dataset.get()) != static_cast<int>(size[1]) || GDALGetRasterCount(dataset.get()) != static_cast<int>(bands))
    {
      return false;
    }
    GIntBig row = 0, block = 0;
    for (int band = 1; band <= static_cast<int>(bands); ++band)
    {
      GDALRasterBandH handle = GDALGetRasterBand(dataset.get(), band);
      const GDALDataType type = GDALGetRasterDataType(handle);
      m_Type = GDALDataTypeUnion(m_Type, type);
      int blockWidth = 0, blockHeight = 0;
      GDALGetBlockSize(handle, &blockWidth, &blockHeight);
      m_Block[0] = std::max<itk::IndexValueType>(m_Block[0], blockWidth);
      m_Block[1] = std::max<itk::IndexValueType>(m_Block[1], blockHeight);
      row += GIntBig{blockHeight} * (static_cast<GIntBig>(size[0]) + blockWidth) * GDALGetDataTypeSizeBytes(type);
      block += GIntBig{blockHeight} * blockWidth * GDALGetDataTypeSizeBytes(type);
    }
    m_BlockBytes += block;
    const auto rowsOfBlocks = static_cast<GIntBig>(m_Height) / m_Block[1] + 2;
    m_CacheBytes += row * rowsOfBlocks;
  }
  return m_Files.size() == m_Stack.GetImages().size();
}

PatchReader::IndexType PatchReader::BlockOf(const IndexType& corner) const
{
  const auto& start = this->GetGrid().GetRegion().GetIndex();
  return {{(corner[0] - start[0]) / m_Block[0], (corner[1] - start[1]) / m_Block[1]}};
}

std::size_t PatchReader::GetGroup(std::size_t bytes) const
{
  const std::size_t few = GroupBytes / std::max<std::size_t>(1, bytes), many = StripBytes / std::max<std::size_t>(1, bytes);
  // one for each thread, unless they are huge
  return std::max<std::size_t>(1, this->IsFromFiles() ? std::max(few, std::min<std::size_t>(NumberOfThreads(), many)) : many);
}

std::size_t PatchReader::GetKeptBlocks() const
{
  return m_BlockBytes > 0 ? static_cast<std::size_t>(std::min(GDALGetCacheMax64(), m_CacheBytes) / m_BlockBytes) : 0;
}

std::vector<std::size_t> PatchReader::ReadingOrder(const IndexType* corners, std::size_t count) const
{
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b)
            {
              const auto rowA = this->BlockOf(corners[a])[1], rowB = this->BlockOf(corners[b])[1];
              const auto columnA = corners[a][0], columnB = corners[b][0];
              return rowA != rowB ? rowA < rowB : columnA != columnB ? columnA < columnB : a < b;
            });
  return order;
}

void PatchReader::ReadShare(Handles& handles, const IndexType* corners, const std::vector<std::size_t>& share, GDALDataType type,
                            char* to) const
{
  const auto bytes = static_cast<std::size_t>(GDALGetDataTypeSizeBytes(type));
  const std::size_t pixels = m_Width * m_Height, allBands = this->GetBands();
  const auto& start = this->GetGrid().GetRegion().GetIndex();
  const int width = static_cast<int>(m_Width), height = static_cast<int>(m_Height);
  const auto interleave = bytes == 1   ? &InterleaveWords<std::uint8_t>
                          : bytes == 2 ? &InterleaveWords<std::uint16_t>
                          : bytes == 4 ? &InterleaveWords<std::uint32_t>
                                       : &InterleaveWords<std::uint64_t>;
  handles.datasets.resize(m_Files.size());
  handles.bands.resize(pixels * allBands * bytes);
  for (const std::size_t k : share)
  {
    const IndexType& corner = corners[k];
    char* plane = handles.bands.data();
    for (std::size_t i = 0; i < m_Files.size(); ++i)
    {
      const auto bands = m_Stack.GetImages()[i]->GetNumberOfComponentsPerPixel();
      Dataset& dataset = handles.datasets[i];
      if (!dataset)
      {
        dataset = Open(m_Files[i]);
      }
      CPLPushErrorHandler(CPLQuietErrorHandler);
      CPLErrorReset();
      const CPLErr result = dataset ? GDALDatasetRasterIO(dataset.get(), GF_Read, static_cast<int>(corner[0] - start[0]),
                                                          static_cast<int>(corner[1] - start[1]), width, height, plane, width, height, type,
                                                          static_cast<int>(bands), nullptr, 0, 0, 0)
                                    : CE_Failure;
      const std::string cause = CPLGetLastErrorMsg();
      CPLPopErrorHandler();
      if (result != CE_None)
      {
        throw std::runtime_error(m_Files[i] + ": the " + std::to_string(width) + " x " + std::to_string(height) + " pixels from column " +
                                 std::to_string(corner[0]) + ", row " + std::to_string(corner[1]) + " cannot be read (" + cause +
                                 "); is the file whole?");
      }
      plane += pixels * bands * bytes;
    }
    interleave(handles.bands.data(), to + k * pixels * allBands * bytes, pixels, allBands);
  }
}

template <class TPixel>
void PatchReader::ReadStack(const IndexType* corners, const std::vector<std::size_t>& order, GDALDataType type, char* to) const
{
  constexpr GDALDataType held = sizeof(TPixel) == sizeof(double) ? GDT_Float64 : GDT_Float32;
  const std::size_t bands = this->GetBands();
  const std::size_t line = static_cast<std::size_t>(GDALGetDataTypeSizeBytes(type)) * bands * m_Width;
  const auto rows = static_cast<itk::IndexValueType>(
      std::max<std::size_t>(m_Height, StripBytes / (this->GetGrid().GetRegion().GetSize(0) * bands * sizeof(TPixel))));
  std::vector<TPixel> storage;
  for (std::size_t begin = 0; begin < order.size();)
  {
    // A strip: all following patches that end within `rows` rows of the first one's top.
    const auto top = corners[order[begin]][1];
    auto left = corners[order[begin]][0], right = left;
    std::size_t end = begin;
    for (; end < order.size() && corners[order[end]][1] + static_cast<itk::IndexValueType>(m_Height) <= top + rows; ++end)
    {
      left = std::min(left, corners[order[end]][0]);
      right = std::max(right, corners[order[end]][0]);
    }
    SamplingGrid::RegionType strip;
    strip.SetIndex(0, left);
    strip.SetIndex(1, top);
    strip.SetSize(0, static_cast<SizeValue>(right - left) + m_Width);
    strip.SetSize(1, static_cast<SizeValue>(corners[order[end - 1]][1] - top) + m_Height);
    const auto view = m_Stack.Read<TPixel>(strip, storage);
    for (std::size_t k = begin; k < end; ++k)
    {
      const auto column = static_cast<std::size_t>(corners[order[k]][0] - view.region.GetIndex(0));
      const auto row = static_cast<std::size_t>(corners[order[k]][1] - view.region.GetIndex(1));
      for (std::size_t y = 0; y < m_Height; ++y)
      {
        const TPixel* from = view.pixels + ((row + y) * view.region.GetSize(0) + column) * bands;
        GDALCopyWords(from, held, sizeof(TPixel), to + (order[k] * m_Height + y) * line, type, GDALGetDataTypeSizeBytes(type),
                      static_cast<int>(bands * m_Width));
      }
    }
    begin = end;
  }
}

void PatchReader::Read(const IndexType* corners, std::size_t count, GDALDataType type, void* to) const
{
  const auto order = this->ReadingOrder(corners, count);
  auto* target = static_cast<char*>(to);
  if (this->IsFromFiles())
  {
    this->ReadFiles(corners, order, type, target);
  }
  else if (m_Stack.IsWide())
  {
    this->ReadStack<double>(corners, order, type, target);
  }
  else
  {
    this->ReadStack<float>(corners, order, type, target);
  }
}

void PatchReader::ReadFiles(const IndexType* corners, const std::vector<std::size_t>& order, GDALDataType type, char* to) const
{
  const std::size_t count = order.size();
  if (count == 0)
  {
    return;
  }
  const auto threads = std::min<std::size_t>(NumberOfThreads(), count);
  while (m_Handles.size() < threads)
  {
    m_Handles.push_back(std::make_unique<Handles>());
  }
  // A thread keeps to its columns of blocks, so that what it decoded for one call serves the next; strips have but one column.
  const auto columns =
      static_cast<std::size_t>((static_cast<itk::IndexValueType>(this->GetGrid().GetRegion().GetSize(0)) - 1) / m_Block[0] + 1);
  std::vector<std::vector<std::size_t>> shares(threads);
  for (std::size_t k = 0; k < count; ++k)
  {
    const auto column = static_cast<std::size_t>(this->BlockOf(corners[order[k]])[0]);
    shares[columns < 2 * threads ? k * threads / count : column * threads / columns].push_back(order[k]);
  }
  const SmallGdalCache cache(m_CacheBytes);
  std::vector<std::exception_ptr> errors(threads);
  const auto work = [&](std::size_t thread)
  {
    try
    {
      this->ReadShare(*m_Handles[thread], corners, shares[thread], type, to);
    }
    catch (...)
    {
      errors[thread] = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  for (std::size_t thread = 1; thread < threads; ++thread)
  {
    pool.emplace_back(work, thread);
  }
  work(0);
  for (std::thread& thread : pool)
  {
    thread.join();
  }
  for (const std::exception_ptr& error : errors)
  {
    if (error)
    {
      std::rethrow_exception(error);
    }
  }
}

} // namespace otb
