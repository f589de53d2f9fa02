/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbPolygonPixels_h
#define otbPolygonPixels_h

#include "otbSamplingGrid.h"

#include "ogrsf_frmts.h"

#include <map>
#include <string>

namespace otb
{

/** \class PolygonPixels
 * \brief Counts the pixels of an image whose centres are in the polygons of a layer, by class and by polygon.
 *
 * All polygons are drawn on the image's grid at once, strip by strip, which takes time in proportion to the image and the outlines, not to
 * the polygons' rectangles. A pixel in several polygons counts for the last one.
 *
 * \ingroup OTBSuperResolutionTools
 */
class PolygonPixels
{
public:
  using Counts = std::map<std::string, std::size_t>;

  /** \param layer in the CRS of the grid; \param field whose text is the class; features without value or geometry are skipped
   * \param bytes of the grid that are drawn at a time, about. \throws std::runtime_error */
  PolygonPixels(const SamplingGrid& grid, OGRLayer& layer, const std::string& field, std::size_t bytes);

  /** Classes that have a pixel. */
  const Counts& GetClasses() const
  {
    return m_Classes;
  }
  /** Features (by FID) that have a pixel. */
  const Counts& GetFeatures() const
  {
    return m_Features;
  }
  /** Features without a value in the field, or without geometry. */
  std::size_t GetSkipped() const
  {
    return m_Skipped;
  }

  /** Writes the counts in the format of OTB's PolygonClassStatistics, which SampleSelection reads. The file has its name once it is whole.
   * \throws std::runtime_error */
  void Write(const std::string& file) const;

private:
  Counts m_Classes;
  Counts m_Features;
  std::size_t m_Skipped = 0;
};

} // namespace otb

#endif
