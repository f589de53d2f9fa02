/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbPatchSampler_h
#define otbPatchSampler_h

#include "otbPatchReader.h"
#include "otbSamplingGrid.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace otb
{

/** \class PatchSampler
 * \brief Finds the patches around points in one or several sources, in equal footprints, or rejects and counts them.
 *
 * The source of largest spacing is the coarse one: the patch is snapped to its grid. A source whose patch covers the same ground (size x
 * spacing) gets exactly that footprint; a pair that cannot have it is rejected. A source whose patch is meant to cover other ground (more
 * context, a single label pixel) is sampled around the same point on its own grid. A sample is accepted when the patches of all sources
 * are; the order is that of the points. What is kept is where the patches are, not their pixels: those are cut by PatchImageSource.
 *
 * \ingroup OTBSuperResolutionTools
 */
class PatchSampler
{
public:
  using IndexType = PatchReader::IndexType;
  using PointType = SamplingGrid::PointType;

  /** A labelled point, in the CRS of the images. */
  struct Location
  {
    PointType point;
    int label = 0;
  };

  struct Source
  {
    std::shared_ptr<const PatchReader> reader;
    bool hasNoData = false;
    float noData = 0;
    bool sameGround = true;         ///< as the coarsest source's patches; known after Select
    std::vector<IndexType> corners; ///< first pixel of each accepted patch
  };

  /** Reads the points of a vector file and their integer labels. Features without the field, or with a null, are counted as rejected.
   * \throws std::runtime_error for an unreadable file, a field that no layer has, a label that is no 32-bit integer, or a geometry that is
   * not a point. */
  std::vector<Location> ReadLocations(const std::string& file, const std::string& field);

  /** A sample is rejected when a pixel of its patch has the no-data value (or NaN, if that is it) in any band. */
  void AddSource(std::shared_ptr<const PatchReader> reader, bool hasNoData, float noData);

  /** Decides which samples are accepted: by their place first, then by no-data, which reads the patches in the images' order.
   * \throws std::runtime_error when no sample is accepted, with the reasons. */
  void Select(const std::vector<Location>& locations);

  const std::vector<Source>& GetSources() const
  {
    return m_Sources;
  }

  /** Labels of the accepted samples. */
  const std::vector<int>& GetLabels() const
  {
    return m_Labels;
  }

  /** Number of rejected samples by reason. */
  const std::map<std::string, std::size_t>& GetRejected() const
  {
    return m_Rejected;
  }

  /** One line: "accepted n, rejected m (reason: k, ...)". */
  std::string Summary() const;

private:
  void FindCoarsest();
  bool Place(const Location& location, std::vector<IndexType>& corners);
  /** Clears the flags of the patches that hold no-data. */
  static void FindNoData(const Source& source, std::vector<char>& valid);

  std::vector<Source> m_Sources;
  std::vector<int> m_Labels;
  std::map<std::string, std::size_t> m_Rejected;
  std::size_t m_Coarse = 0;
};

} // namespace otb

#endif
