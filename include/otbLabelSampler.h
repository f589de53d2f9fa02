/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbLabelSampler_h
#define otbLabelSampler_h

#include "otbSamplingGrid.h"
#include "otbVectorImage.h"

#include <cstdint>
#include <functional>
#include <map>

namespace otb
{

/** \class LabelSampler
 * \brief Picks pixels of a label image, class by class, at regular intervals along its rows.
 *
 * Labels are integers of up to 32 bits, of any sign. The image is read twice, in strips: once to count, once to pick. The same pixels are
 * picked in every run.
 *
 * \ingroup OTBSuperResolutionTools
 */
class LabelSampler
{
public:
  using ImageType = VectorImage<double, 2>;
  using PointType = SamplingGrid::PointType;
  using Counts = std::map<std::int64_t, std::size_t>;

  /** Of a class: its pixels number `step`, 2 `step`, ... along the rows, `target` at most. */
  struct Interval
  {
    std::size_t step = 1;
    std::size_t target = 0;
  };
  using Intervals = std::map<std::int64_t, Interval>;

  /** \param noData pixels with this label are left out, and those that are not a number
   * \param pad pixels along the image's edges that are left out
   * \param bytes of the image that are held at a time, about
   * \throws std::runtime_error for several bands, or when the pad leaves no pixel */
  LabelSampler(ImageType* image, std::int64_t noData, unsigned int pad, std::size_t bytes);

  /** Number of pixels of each label. \throws std::runtime_error for a pixel that is not an integer of 32 bits, or if there is no label */
  Counts Count() const;

  /** The same number of pixels in each class: `number`, or all of a class that has less. */
  static Intervals Same(const Counts& counts, std::size_t number);

  /** One interval for all classes, so that about `number` pixels are picked. */
  static Intervals InTotal(const Counts& counts, std::size_t number);

  /** Calls `take` with the centre and the label of each picked pixel, along the rows. */
  void Pick(const Intervals& intervals, const std::function<void(const PointType&, std::int64_t)>& take) const;

private:
  void Visit(const std::function<void(itk::IndexValueType column, itk::IndexValueType row, std::int64_t label)>& visit) const;

  ImageType::Pointer m_Image;
  SamplingGrid m_Grid;
  ImageType::RegionType m_Region;
  std::int64_t m_NoData;
  std::size_t m_Bytes;
};

} // namespace otb

#endif
