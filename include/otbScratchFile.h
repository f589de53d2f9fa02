/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbScratchFile_h
#define otbScratchFile_h

#include <cstddef>
#include <string>

namespace otb
{

/** \class ScratchFile
 * \brief A temporary file without a name: it goes away with the object or the process, whatever happens.
 * \ingroup OTBSuperResolutionTools
 */
class ScratchFile
{
public:
  /** \throws std::system_error if no file can be created in the folder */
  explicit ScratchFile(const std::string& folder);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  /** Write or read so many bytes at an offset. \throws std::system_error if the disk is full or fails */
  void Write(std::size_t offset, const void* from, std::size_t bytes);
  void Read(std::size_t offset, void* to, std::size_t bytes) const;

private:
  int m_File;
};

} // namespace otb

#endif
