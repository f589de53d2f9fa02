/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbPatchStream.h"

#include <algorithm>
#include <future>
#include <iterator>
#include <stdexcept>
#include <system_error>

namespace otb
{
namespace
{

/** How often, on average, a block of the file may be wanted again by a later group. */
constexpr std::size_t Repetitions = 4;

} // namespace

PatchStream::PatchStream(std::shared_ptr<const PatchReader> reader, std::vector<PatchReader::IndexType> corners, GDALDataType type,
                         const std::string& folder)
    : m_Reader(std::move(reader)), m_Corners(std::move(corners)), m_Type(type), m_Folder(folder)
{
  m_PatchBytes =
      m_Reader->GetWidth() * m_Reader->GetHeight() * m_Reader->GetBands() * static_cast<std::size_t>(GDALGetDataTypeSizeBytes(type));
}

bool PatchStream::IsScattered(std::size_t group) const
{
  using Blocks = std::vector<PatchReader::IndexType>;
  const auto less = [](const auto& a, const auto& b)
  {
    return a[1] != b[1] ? a[1] < b[1] : a[0] < b[0];
  };
  const auto makeDistinct = [&](Blocks& blocks)
  {
    std::sort(blocks.begin(), blocks.end(), less);
    blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
  };
  Blocks all, some, kept, fresh;
  std::size_t wanted = 0;
  for (std::size_t first = 0; first < m_Corners.size(); first += group)
  {
    some.clear();
    for (std::size_t k = first; k < std::min(m_Corners.size(), first + group); ++k)
    {
      some.push_back(m_Reader->BlockOf(m_Corners[k]));
    }
    makeDistinct(some);
    // What the cache still holds of the groups before need not be decoded again.
    fresh.clear();
    std::set_difference(some.begin(), some.end(), kept.begin(), kept.end(), std::back_inserter(fresh), less);
    if (kept.size() + fresh.size() > m_Reader->GetKeptBlocks())
    {
      fresh = some;
      kept.clear();
    }
    wanted += fresh.size();
    kept.insert(kept.end(), fresh.begin(), fresh.end());
    std::sort(kept.begin(), kept.end(), less);
    all.insert(all.end(), fresh.begin(), fresh.end());
  }
  makeDistinct(all);
  return wanted > Repetitions * all.size();
}

void PatchStream::Spool()
try
{
  m_File = std::make_unique<ScratchFile>(m_Folder);
  const auto order = m_Reader->ReadingOrder(m_Corners.data(), m_Corners.size());
  const std::size_t group = m_Reader->GetGroup(m_PatchBytes);
  std::vector<char> pixels, writtenPixels;
  std::vector<PatchReader::IndexType> corners;
  std::future<void> writing; // last: its destructor waits for the thread that uses the others
  for (std::size_t begin = 0; begin < order.size(); begin += group)
  {
    const std::size_t end = std::min(order.size(), begin + group);
    corners.clear();
    for (std::size_t k = begin; k < end; ++k)
    {
      corners.push_back(m_Corners[order[k]]);
    }
    pixels.resize(m_PatchBytes * corners.size());
    m_Reader->Read(corners.data(), corners.size(), m_Type, pixels.data());
    if (writing.valid())
    {
      writing.get();
    }
    pixels.swap(writtenPixels);
    writing = std::async(std::launch::async,
                         [&, begin, end]()
                         {
                           for (std::size_t k = begin; k < end; ++k)
                           {
                             m_File->Write(order[k] * m_PatchBytes, writtenPixels.data() + (k - begin) * m_PatchBytes, m_PatchBytes);
                           }
                         });
  }
  writing.get();
}
catch (const std::system_error& error)
{
  const std::size_t megabytes = m_PatchBytes * m_Corners.size() / 1000000 + 1;
  throw std::runtime_error(m_Folder + ": a temporary file of " + std::to_string(megabytes) + " MB cannot be written here (" +
                           error.code().message() + "); free some space, or sort the points along the image's rows");
}

void PatchStream::Read(std::size_t first, std::size_t count, void* to)
{
  if (!m_Decided)
  {
    m_Decided = true;
    if (!m_Folder.empty() && m_Reader->IsFromFiles() && count < m_Corners.size() && this->IsScattered(count))
    {
      this->Spool();
    }
  }
  if (m_File == nullptr)
  {
    m_Reader->Read(m_Corners.data() + first, count, m_Type, to);
    return;
  }
  try
  {
    m_File->Read(first * m_PatchBytes, to, count * m_PatchBytes);
  }
  catch (const std::system_error& error)
  {
    throw std::runtime_error(m_Folder + ": the temporary file cannot be read back (" + error.code().message() + ")");
  }
}

} // namespace otb
