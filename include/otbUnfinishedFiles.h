/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbUnfinishedFiles_h
#define otbUnfinishedFiles_h

#include <sys/stat.h>

#include <string>
#include <vector>

namespace otb
{

/** \class UnfinishedFiles
 * \brief Image files, and what GDAL writes beside them, that are removed when SIGINT, SIGTERM or SIGHUP ends the process while this lives.
 *
 * The process still ends by the signal, so that its exit status tells. Signals that the process handles or ignores are left alone: Python
 * and QGIS have handlers of their own, a shell's background jobs ignore SIGINT. Only plain files are removed, and none that is still as it
 * was when the object was made: an earlier product that nothing was written over.
 *
 * \ingroup OTBSuperResolutionTools
 */
class UnfinishedFiles
{
public:
  /** \param extendedNames file names, what follows "?&" is not looked at */
  explicit UnfinishedFiles(const std::vector<std::string>& extendedNames);
  ~UnfinishedFiles();
  UnfinishedFiles(const UnfinishedFiles&) = delete;
  UnfinishedFiles& operator=(const UnfinishedFiles&) = delete;

  /** What the handler needs, which may not allocate. */
  struct File
  {
    std::string name;
    bool existed = false;
    struct stat before = {};
  };
  using Files = std::vector<File>;

private:
  Files* m_Files = nullptr; ///< null: all places are taken, nothing is removed
  std::size_t m_Place = 0;
};

} // namespace otb

#endif
