/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbPatchSampler_h
#define otbPatchSampler_h

#include "otbSamplingGrid.h"
#include "otbVectorImage.h"

#include <map>
#include <string>
#include <vector>

namespace otb
{

/** \class PatchSampler
 * \brief Cuts patches around points out of one or several sources, in equal footprints, or rejects and counts them.
 *
 * The source of largest spacing is the coarse one: the patch is snapped to its grid. A source whose patch covers the same ground (size x
 * spacing) gets exactly that footprint; a pair that cannot have it is rejected. A source whose patch is meant to cover other ground (more
 * context, a single label pixel) is sampled around the same point on its own grid. A sample is accepted when the patches of all sources
 * are; the order is that of the points.
 *
 * \ingroup OTBSuperResolutionTools
 */
class PatchSampler
{
public:
  using ImageType = VectorImage<float, 2>;
  using RegionType = SamplingGrid::RegionType;
  using PointType = SamplingGrid::PointType;
  using SizeValue = SamplingGrid::SizeValue;

  /** A labelled point, in the CRS of the images. */
  struct Location
  {
    PointType point;
    int label = 0;
  };

  /** Images of one size, stacked band-wise, and the size of their patches in pixels. */
  struct Source
  {
    std::vector<ImageType::Pointer> images;
    SizeValue width = 0;
    SizeValue height = 0;
    bool hasNoData = false;
    float noData = 0;
    SamplingGrid grid;
    unsigned int bands = 0;
    bool sameGround = true;
  };

  /** Reads the points of a vector file and their integer labels. Features without the field, or with a null, are counted as rejected.
   * \throws std::runtime_error for an unreadable file, a field that no layer has, a label that is no 32-bit integer, or a geometry that is
   * not a point. */
  std::vector<Location> ReadLocations(const std::string& file, const std::string& field);

  /** \throws std::runtime_error when the images' sizes differ or a size is zero. */
  void AddSource(const std::vector<ImageType::Pointer>& images, SizeValue width, SizeValue height, bool hasNoData, float noData);

  /** Cuts all patches; see GetPatches(). \throws std::runtime_error when no sample is accepted, with the reasons. */
  void Sample(const std::vector<Location>& locations);

  const std::vector<Source>& GetSources() const
  {
    return m_Sources;
  }

  /** The accepted patches of a source, stacked along rows: width x (n height), signed spacing of the source, origin at zero. */
  ImageType::Pointer GetPatches(std::size_t source) const
  {
    return m_Patches[source];
  }

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
  bool Place(const Location& location, std::vector<RegionType>& regions);
  void SetUpGrids();
  /** Reads rows [first, last[ of a source and copies the wanted patches into `buffer`; marks those with no-data. */
  void Copy(const Source& source, std::size_t index, const std::vector<std::vector<RegionType>>& regions, std::vector<char>& valid,
            std::vector<float>& buffer) const;

  std::vector<Source> m_Sources;
  std::vector<ImageType::Pointer> m_Patches;
  std::vector<int> m_Labels;
  std::map<std::string, std::size_t> m_Rejected;
  std::size_t m_Coarse = 0;
};

} // namespace otb

#endif
