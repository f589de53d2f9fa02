/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbPatchGrid_h
#define otbPatchGrid_h

#include "otbImage.h"
#include "otbSamplingGrid.h"
#include "otbVectorImage.h"

#include <array>
#include <optional>
#include <vector>

namespace otb
{

/** \class PatchGrid
 * \brief Where patches of one size fit on a regular grid over an image, and how they are dealt out to training, validation and test.
 *
 * Positions are OTBTF's: with r = size / 2, centres are the pixels i in [r, n - r[ for which i - (r + 1) is `offset` modulo `step`; i = r
 * is left out unless `step` is 1.
 *
 * \ingroup OTBSuperResolutionTools
 */
class PatchGrid
{
public:
  using ImageType = VectorImage<float, 2>;
  using MaskType = Image<float, 2>;
  using IndexType = itk::Index<2>;
  using Group = std::size_t;

  /** Index of a patch's centre pixel. */
  using Site = IndexType;

  int step = 1;
  int size = 1;
  std::array<int, 2> offset = {0, 0};
  std::optional<float> noData;

  /** Centre pixels of the patches, in scan order, as `noData` and the mask (may be null) allow: see PatchesSelection.
   * Reads the image once in strips of at most about `bytes`.
   * \throws std::runtime_error when the mask's size is not the image's. */
  std::vector<Site> Place(ImageType* image, MaskType* mask, std::size_t bytes) const;

  /** The point from which PatchesExtraction cuts the patch: the centre pixel's centre, or for an even size its corner of smallest x and y,
   * which is the patch's centre. */
  SamplingGrid::PointType PointOf(const Site& site, const SamplingGrid& geometry) const;

  /** 0 and 1 in turns along rows and columns of the grid. */
  std::vector<Group> Chessboard(const std::vector<Site>& sites) const;

  /** Groups in proportion to `shares`: each patch goes to the group that is furthest behind, in order or (always the same) random order.
   * \throws std::runtime_error when no share is positive. */
  static std::vector<Group> Split(std::size_t count, const std::array<double, 3>& shares, bool random);
};

} // namespace otb

#endif
