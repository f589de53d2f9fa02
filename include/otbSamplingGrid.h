/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbSamplingGrid_h
#define otbSamplingGrid_h

#include "itkImageBase.h"
#include "itkImageRegion.h"
#include "itkPoint.h"

#include <array>
#include <stdexcept>
#include <string>

namespace otb
{

/** \class SamplingGridError
 * \brief Two grids that should match do not, or a grid is of a kind that is not supported. The message carries the values.
 * \ingroup OTBSuperResolutionTools
 */
class SamplingGridError : public std::runtime_error
{
public:
  using std::runtime_error::runtime_error;
};

/** \class SamplingGrid
 * \brief The pixel grid of an image by its corner (edge, not centre), signed spacing and region: the only place that knows half pixels.
 *
 * The corner is the outer corner of the region's first pixel, in units of the CRS. The region carries ITK's index, which need not start
 * at zero; regions that go in or come out are in the same indices. A negative y spacing is a north-up image. Everything is in double
 * precision; "the same" means within Tolerance of a pixel.
 *
 * \ingroup OTBSuperResolutionTools
 */
class SamplingGrid
{
public:
  using RegionType = itk::ImageRegion<2>;
  using PointType = itk::Point<double, 2>;
  using SpacingType = itk::Vector<double, 2>;
  using ImageType = itk::ImageBase<2>;
  using IndexValue = itk::IndexValueType;
  using SizeValue = itk::SizeValueType;
  using PositionType = std::array<double, 2>;

  /** Share of a pixel below which two positions are the same. */
  static constexpr double Tolerance = 1e-4;

  /** \brief A rectangle between two opposite corners: those of the first and the last pixel (so signed as the spacing is). */
  struct Footprint
  {
    PointType first;
    PointType last;
  };

  SamplingGrid() = default;

  /** \throws SamplingGridError for a zero spacing or an empty region. */
  SamplingGrid(const PointType& corner, const SpacingType& spacing, const RegionType& region);

  /** The grid of an image's largest possible region, and its reference system. \throws SamplingGridError if the image's direction is not
   * axis-aligned. */
  static SamplingGrid FromImage(const ImageType* image);

  /** Throws unless the six coefficients of a GDAL geotransform describe an axis-aligned grid; `name` is said in the message. */
  static void RequireAxisAligned(const double* geoTransform, const std::string& name);

  /** Give an image this grid: largest possible region, origin (centre of index 0), signed spacing. */
  void ApplyTo(ImageType* image) const;

  const PointType& GetCorner() const
  {
    return m_Corner;
  }
  const SpacingType& GetSpacing() const
  {
    return m_Spacing;
  }
  const RegionType& GetRegion() const
  {
    return m_Region;
  }

  /** ITK's origin: the centre of pixel index (0, 0), which is not the first pixel when the region's index is not zero. */
  PointType GetOrigin() const;

  /** Whether row numbers grow northward (positive y spacing), as in images without georeference. */
  bool IsSouthUp() const
  {
    return m_Spacing[1] > 0;
  }

  /** The nested grid of `factor` times smaller spacing: same corner, same footprint. */
  SamplingGrid Refined(unsigned int factor) const;

  /** The grid of `multiple` / `divisor` times the spacing whose corner is `first` of its own pixels away from this grid's, and which has
   * `size` pixels. The index of its region is zero. */
  SamplingGrid Rescaled(IndexValue multiple, IndexValue divisor, const std::array<IndexValue, 2>& first,
                        const std::array<IndexValue, 2>& size) const;

  /** The grid of `scale` times larger spacing and the same corner; a last partial pixel is left off.
   * `scale` may be below one (OTBTF's output.spcscale). The index of the new region is zero unless 1 / scale is an integer. */
  SamplingGrid Scaled(double scale) const;

  /** The sub-grid under a region (not checked to be inside). */
  SamplingGrid Cropped(const RegionType& region) const;

  /** The centre of a pixel. */
  PointType CentreOf(const itk::Index<2>& index) const;

  /** Fractional index counted from pixel edges: pixel i spans [i, i + 1[. */
  PositionType PositionOf(const PointType& point) const;

  /** The point at a fractional index counted from pixel edges. */
  PointType PointAt(const PositionType& position) const;

  /** The centre of a pixel. */
  PointType CentreOf(IndexValue column, IndexValue row) const
  {
    return this->PointAt({static_cast<double>(column) + 0.5, static_cast<double>(row) + 0.5});
  }

  Footprint FootprintOf(const RegionType& region) const;
  Footprint GetFootprint() const
  {
    return this->FootprintOf(m_Region);
  }

  /** The region of this grid that covers exactly `footprint`.
   * \return false, with the cause in `why`, if the footprint's edges are not pixel edges here. The region may leave the image. */
  bool RegionOf(const Footprint& footprint, RegionType& region, std::string& why) const;

  /** Whether a region lies inside this grid's. */
  bool Contains(const RegionType& region) const;

  /** The patch of width x height pixels whose pixel (width / 2, height / 2) holds the point: OTBTF's convention, but a point on a pixel's
   * edge (within Tolerance) belongs to the pixel after it whatever the rounding errors. The patch may leave the image. */
  RegionType PatchAround(const PointType& point, SizeValue width, SizeValue height) const;

  /** Same pixels: corner, spacing, size (not index), within Tolerance of a pixel over the whole footprint. */
  bool IsSame(const SamplingGrid& other) const;

  /** \throws SamplingGridError naming both grids unless they are the same. */
  void RequireSame(const SamplingGrid& other, const std::string& what) const;

  /** \throws SamplingGridError if both grids have a reference system and this grid's centre is elsewhere in the other's, by more than a
   * pixel: coordinates that agree may be those of two places. `what` names the two. */
  void RequireSameReferenceSystem(const SamplingGrid& other, const std::string& what) const;

  /** One line: corner, spacing, size. */
  std::string Describe() const;

private:
  PointType m_Corner{};
  SpacingType m_Spacing{};
  RegionType m_Region{};
  std::string m_ReferenceSystem; ///< as WKT; empty: unknown
};

/** \brief Two patches of equal footprint, or why there are none. */
struct PatchPair
{
  enum class Status
  {
    Accepted,
    OutsideCoarse, ///< the coarse patch leaves the coarse image
    OutsideFine,   ///< the fine patch leaves the fine image
    NotNested      ///< the coarse patch's edges are not pixel edges of the fine grid
  };
  Status status = Status::NotNested;
  SamplingGrid::RegionType coarse;
  SamplingGrid::RegionType fine;
  std::string why; ///< empty when accepted
};

/** The patch of width x height coarse pixels around a point, snapped to the coarse grid, and the region of the fine grid with exactly
 * that footprint. Never throws: a pair that cannot be had is told by `status` and `why`. */
PatchPair EqualFootprintPatches(const SamplingGrid& coarse, const SamplingGrid& fine, const SamplingGrid::PointType& point,
                                SamplingGrid::SizeValue width, SamplingGrid::SizeValue height);

} // namespace otb

#endif
