/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbSmallGdalCache_h
#define otbSmallGdalCache_h

#include <cstddef>
#include <mutex>

namespace otb
{

/** \class SmallGdalCache
 * \brief Bounds GDAL's cache of decoded blocks as long as it lives.
 *
 * GDAL keeps blocks up to 5 % of the computer's memory, which would look like memory that grows with the images. The limit is the
 * process's, and several of these may live at once, in any threads: together they get the sum of what they ask for, never more than the
 * limit that was there before the first; the last one puts that back. A user who has set GDAL_CACHEMAX is left alone.
 *
 * \ingroup OTBSuperResolutionTools
 */
class SmallGdalCache
{
public:
  explicit SmallGdalCache(long long bytes);
  ~SmallGdalCache();
  SmallGdalCache(const SmallGdalCache&) = delete;
  SmallGdalCache& operator=(const SmallGdalCache&) = delete;

private:
  // Inline: each application is a shared object with this library in it, and the dynamic linker gives all of them the same ones.
  inline static std::mutex m_Mutex; ///< for the others
  inline static std::size_t m_Living = 0;
  inline static long long m_Asked = 0;  ///< by all that live
  inline static long long m_Before = 0; ///< limit before the first of them
  bool m_IsCounted;                     ///< not if the user has set the limit
  long long m_Bytes;
};

} // namespace otb

#endif
