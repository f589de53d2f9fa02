/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbKeptBlocks.h"

#include <algorithm>
#include <system_error>

namespace otb
{

KeptBlocks::Key KeptBlocks::KeyOf(const RegionType& block)
{
  return {block.GetIndex(1), block.GetIndex(0)};
}

void KeptBlocks::SetRoom(std::size_t memory, const std::string& folder)
{
  this->Clear();
  m_File.reset();
  m_Memory = memory;
  m_Folder = folder;
}

void KeptBlocks::Clear()
{
  m_Kept.clear();
  m_Free.clear();
  m_Used = m_End = 0;
}

bool KeptBlocks::Has(const RegionType& block) const
{
  const auto kept = m_Kept.find(KeyOf(block));
  return kept != m_Kept.end() && kept->second.region == block;
}

KeptBlocks::Entry KeptBlocks::Forget(Entry entry)
{
  const Kept& kept = entry->second;
  m_Used -= kept.pixels.size();
  if (kept.bytes > 0)
  {
    m_Free.emplace(kept.bytes, kept.offset);
  }
  return m_Kept.erase(entry);
}

bool KeptBlocks::Keep(const RegionType& block, SamplingGrid::IndexValue row, std::vector<char>& pixels)
{
  for (auto entry = m_Kept.begin(); entry != m_Kept.end();)
  {
    const auto& region = entry->second.region;
    const bool isAbove = region.GetIndex(1) + static_cast<SamplingGrid::IndexValue>(region.GetSize(1)) <= row;
    entry = isAbove || entry->first == KeyOf(block) ? this->Forget(entry) : std::next(entry);
  }
  Kept kept{block, pixels.size() / block.GetNumberOfPixels(), {}, 0, 0, 0};
  if (m_Used + pixels.size() <= m_Memory)
  {
    m_Used += pixels.size();
    kept.pixels.swap(pixels);
  }
  else
  {
    if (m_Folder.empty())
    {
      return false;
    }
    // the freed place that fits best, so that the file does not grow
    const auto place = m_Free.lower_bound(pixels.size());
    kept.offset = place == m_Free.end() ? m_End : place->second;
    kept.bytes = place == m_Free.end() ? pixels.size() : place->first;
    try
    {
      if (m_File == nullptr)
      {
        m_File = std::make_unique<ScratchFile>(m_Folder);
      }
      m_File->Write(kept.offset, pixels.data(), pixels.size());
    }
    catch (const std::system_error&)
    {
      m_Folder.clear(); // a full disk: blocks that find no room are computed again
      return false;
    }
    if (place == m_Free.end())
    {
      m_End += kept.bytes;
    }
    else
    {
      m_Free.erase(place);
    }
  }
  m_Kept.emplace(KeyOf(block), std::move(kept));
  return true;
}

namespace
{

/** Calls `copy(from, to, bytes)` for each row of the part. */
template <class TCopy>
void ForRows(const KeptBlocks::RegionType& block, const KeptBlocks::RegionType& part, std::size_t bytesPerPixel, char* to,
             std::size_t stride, const TCopy& copy)
{
  const auto left = static_cast<std::size_t>(part.GetIndex(0) - block.GetIndex(0));
  const auto top = static_cast<std::size_t>(part.GetIndex(1) - block.GetIndex(1));
  for (std::size_t y = 0; y < part.GetSize(1); ++y)
  {
    copy(((top + y) * block.GetSize(0) + left) * bytesPerPixel, to + y * stride, part.GetSize(0) * bytesPerPixel);
  }
}

} // namespace

void KeptBlocks::CopyPart(const char* pixels, const RegionType& block, const RegionType& part, std::size_t bytesPerPixel, char* to,
                          std::size_t stride)
{
  ForRows(block, part, bytesPerPixel, to, stride,
          [&](std::size_t from, char* row, std::size_t bytes) { std::copy_n(pixels + from, bytes, row); });
}

void KeptBlocks::Give(const RegionType& block, const RegionType& part, char* to, std::size_t stride)
{
  const auto entry = m_Kept.find(KeyOf(block));
  Kept& kept = entry->second;
  if (kept.bytes == 0)
  {
    CopyPart(kept.pixels.data(), block, part, kept.bytesPerPixel, to, stride);
  }
  else
  {
    ForRows(block, part, kept.bytesPerPixel, to, stride,
            [&](std::size_t from, char* row, std::size_t bytes) { m_File->Read(kept.offset + from, row, bytes); });
  }
  kept.given += part.GetNumberOfPixels();
  if (kept.given >= block.GetNumberOfPixels())
  {
    this->Forget(entry);
  }
}

} // namespace otb
