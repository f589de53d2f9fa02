/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbKeptBlocks_h
#define otbKeptBlocks_h

#include "otbSamplingGrid.h"
#include "otbScratchFile.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace otb
{

/** \class KeptBlocks
 * \brief Blocks of pixels of which a part was given out, until the rest is asked for: in memory up to a limit, the others in a scratch
 * file.
 *
 * So that a writer of strips takes no more memory for a wide image than for a narrow one, and no block is computed twice.
 *
 * \ingroup OTBSuperResolutionTools
 */
class KeptBlocks
{
public:
  using RegionType = SamplingGrid::RegionType;

  /** \param memory bytes \param folder where a scratch file may be; empty: nowhere. Blocks that were kept before are forgotten. */
  void SetRoom(std::size_t memory, const std::string& folder);

  bool Has(const RegionType& block) const;

  /** Keep a block's pixels, row by row, which are taken from the vector if they stay in memory. Blocks that end above `row` are forgotten
   * before. \return false if there is no room, neither in memory nor on the disk */
  bool Keep(const RegionType& block, SamplingGrid::IndexValue row, std::vector<char>& pixels);

  /** Copy a part of a kept block to `to`, whose rows are `stride` bytes apart. A block that was given out whole is forgotten.
   * \throws std::system_error if the scratch file cannot be read back */
  void Give(const RegionType& block, const RegionType& part, char* to, std::size_t stride);

  /** The same for a block that is in memory. */
  static void CopyPart(const char* pixels, const RegionType& block, const RegionType& part, std::size_t bytesPerPixel, char* to,
                       std::size_t stride);

  void Clear();

private:
  struct Kept
  {
    RegionType region;
    std::size_t bytesPerPixel;
    std::vector<char> pixels; ///< empty: in the scratch file
    std::size_t offset;       ///< there
    std::size_t bytes;        ///< taken there
    std::size_t given;        ///< pixels
  };
  using Key = std::pair<SamplingGrid::IndexValue, SamplingGrid::IndexValue>; // row and column, so that those above come first
  using Entry = std::map<Key, Kept>::iterator;

  static Key KeyOf(const RegionType& block);
  Entry Forget(Entry entry);

  std::map<Key, Kept> m_Kept;
  std::size_t m_Memory = std::size_t{64} << 20;
  std::size_t m_Used = 0; ///< bytes in memory
  std::string m_Folder;
  std::unique_ptr<ScratchFile> m_File;
  std::multimap<std::size_t, std::size_t> m_Free; ///< length -> offset
  std::size_t m_End = 0;                          ///< of the scratch file
};

} // namespace otb

#endif
