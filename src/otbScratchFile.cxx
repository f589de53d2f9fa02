/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbScratchFile.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

namespace otb
{
namespace
{

/** Calls `move(done)`, which says how many bytes it has moved, until all are. */
template <class TMove>
void MoveAll(std::size_t bytes, const TMove& move)
{
  for (std::size_t done = 0; done < bytes;)
  {
    errno = 0;
    const ssize_t moved = move(done);
    if (moved > 0)
    {
      done += static_cast<std::size_t>(moved);
    }
    else if (errno != EINTR)
    {
      throw std::system_error(errno != 0 ? errno : EIO, std::generic_category());
    }
  }
}

} // namespace

ScratchFile::ScratchFile(const std::string& folder)
{
  std::string name = folder + "/.scratch-XXXXXX";
  m_File = mkostemp(name.data(), O_CLOEXEC);
  if (m_File < 0)
  {
    throw std::system_error(errno, std::generic_category());
  }
  unlink(name.c_str());
}

ScratchFile::~ScratchFile()
{
  close(m_File);
}

void ScratchFile::Write(std::size_t offset, const void* from, std::size_t bytes)
{
  MoveAll(bytes, [&](std::size_t done)
          { return pwrite(m_File, static_cast<const char*>(from) + done, bytes - done, static_cast<off_t>(offset + done)); });
}

void ScratchFile::Read(std::size_t offset, void* to, std::size_t bytes) const
{
  MoveAll(bytes,
          [&](std::size_t done) { return pread(m_File, static_cast<char*>(to) + done, bytes - done, static_cast<off_t>(offset + done)); });
}

} // namespace otb
