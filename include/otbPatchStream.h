/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbPatchStream_h
#define otbPatchStream_h

#include "otbPatchReader.h"
#include "otbScratchFile.h"

#include <memory>
#include <string>
#include <vector>

namespace otb
{

/** \class PatchStream
 * \brief A sequence of patches, read a group at a time in the sequence's order.
 *
 * When neighbours in the sequence are far apart in the image, each group would decode most of the file again. Then all patches are first
 * read in the image's order into a temporary file.
 *
 * \ingroup OTBSuperResolutionTools
 */
class PatchStream
{
public:
  /** \param folder where a temporary file of all patches' size may be written; empty: nowhere */
  PatchStream(std::shared_ptr<const PatchReader> reader, std::vector<PatchReader::IndexType> corners, GDALDataType type,
              const std::string& folder);

  const PatchReader& GetReader() const
  {
    return *m_Reader;
  }
  std::size_t GetSize() const
  {
    return m_Corners.size();
  }

  /** Patches first ... first + count - 1, as PatchReader::Read. \throws std::runtime_error when a file cannot be read, or the temporary
   * file not be written. */
  void Read(std::size_t first, std::size_t count, void* to);

private:
  bool IsScattered(std::size_t group) const;
  void Spool();

  std::shared_ptr<const PatchReader> m_Reader;
  std::vector<PatchReader::IndexType> m_Corners;
  GDALDataType m_Type;
  std::size_t m_PatchBytes;
  std::string m_Folder;
  bool m_Decided = false;
  std::unique_ptr<ScratchFile> m_File;
};

} // namespace otb

#endif
