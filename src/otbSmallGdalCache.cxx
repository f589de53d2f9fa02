/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbSmallGdalCache.h"

#include "cpl_conv.h"
#include "gdal.h"

#include <algorithm>

namespace otb
{

SmallGdalCache::SmallGdalCache(long long bytes) : m_IsCounted(CPLGetConfigOption("GDAL_CACHEMAX", nullptr) == nullptr), m_Bytes(bytes)
{
  if (m_IsCounted)
  {
    const std::lock_guard<std::mutex> lock(m_Mutex);
    if (m_Living++ == 0)
    {
      m_Before = GDALGetCacheMax64();
    }
    m_Asked += m_Bytes;
    GDALSetCacheMax64(std::min(m_Before, m_Asked));
  }
}

SmallGdalCache::~SmallGdalCache()
{
  if (m_IsCounted)
  {
    const std::lock_guard<std::mutex> lock(m_Mutex);
    m_Asked -= m_Bytes;
    GDALSetCacheMax64(--m_Living == 0 ? m_Before : std::min(m_Before, m_Asked));
  }
}

} // namespace otb
