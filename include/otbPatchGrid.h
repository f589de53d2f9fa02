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
#include <string>
#include <utility>
#include <vector>

namespace otb
{

/** \class PatchGrid
 * \brief Where patches of one size fit on a regular grid over an image, and how they are dealt out to training, validation and test.
 *
 * Positions are OTBTF's: with r = size / 2, centres are the pixels i in [r, n - r[ for which i - (r + 1) is `offset` modulo `step`; i = r
 * is left out unless `step` is 1. Offsets may be negative.
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

  /** How many pixels of each class a patch holds: (class, count), for classes that it has. */
  using Histogram = std::vector<std::pair<unsigned int, unsigned int>>;

  /** The classes 0 ... `classes` - 1 in the patches of the sites, as PatchesExtraction cuts them. Other labels are not counted; `ignored`
   * becomes the number of such pixels. Reads the rows of a patch at a time.
   * \throws std::runtime_error when the label image's size is not the image's. */
  std::vector<Histogram> CountLabels(const std::vector<Site>& sites, const ImageType* image, MaskType* labels, unsigned int classes,
                                     std::size_t& ignored) const;

  /** Chooses patches so that their pixels are spread over the classes as evenly as possible: group 0; the others are in group 3, none.
   *
   * One patch after the other, that adds most to the sum over classes of the logarithm of the pixels so far (within a twentieth of the
   * best, so that it is fast); among equals, patches from all over the image. The same in every run. Patches without a label are never
   * chosen. \param share of the patches to choose, in ]0, 1] */
  static std::vector<Group> Balance(const std::vector<Histogram>& patches, unsigned int classes, double share);

  /** Groups in proportion to `shares`: each patch goes to the group that is furthest behind, in order or (always the same) random order.
   * \throws std::runtime_error when no share is positive. */
  static std::vector<Group> Split(std::size_t count, const std::array<double, 3>& shares, bool random);
};

} // namespace otb

#endif
