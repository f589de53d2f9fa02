/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbServingGrid_h
#define otbServingGrid_h

#include "otbSamplingGrid.h"

#include <array>
#include <utility>
#include <vector>

namespace otb
{

/** \class ServingGrid
 * \brief Which pixels of each source a model needs for which pixels of its output.
 *
 * The output is anchored at the first source's corner, its spacing is the first source's times `scale`, and it covers what all the sources
 * cover, to the border. Regions of a source that come out may leave its image: its pixels are then mirrored (see Mirror).
 *
 * Fully convolutional: blocks are whole multiples of GetStep() output pixels from GetAnchor(): the smallest that hold whole expression
 * fields and whole pixels of every source. Patches: one patch for each output pixel, around the source's pixel that holds its centre; the
 * step is one, and the sources need not nest.
 *
 * \ingroup OTBSuperResolutionTools
 */
class ServingGrid
{
public:
  using RegionType = SamplingGrid::RegionType;
  using IndexValue = SamplingGrid::IndexValue;
  using PairType = std::array<IndexValue, 2>;

  enum class Mode
  {
    FullyConvolutional,
    Patches
  };

  /** A source: its pixels, and the width and height of the receptive field in them. */
  struct Source
  {
    SamplingGrid grid;
    PairType receptiveField{{1, 1}};
  };

  ServingGrid() = default;

  /** \param scale output spacing over the first source's; p / q with q up to 1000 in fully convolutional mode
   * \param expressionField output pixels of one evaluation, x and y; 1 x 1 with patches
   * \throws SamplingGridError naming the values if there is no such output: sources that do not overlap or nest, a receptive field that is
   * too small, ... */
  ServingGrid(const std::vector<Source>& sources, double scale, const PairType& expressionField, Mode mode);

  const SamplingGrid& GetOutput() const
  {
    return m_Output;
  }
  Mode GetMode() const
  {
    return m_Mode;
  }

  /** Output pixels of the smallest block, and an output index (not above zero) where blocks start. */
  const PairType& GetStep() const
  {
    return m_Step;
  }
  const PairType& GetAnchor() const
  {
    return m_Anchor;
  }

  /** The smallest region of whole steps around an output region. It may leave the output. */
  RegionType Aligned(const RegionType& output) const;

  /** The pixels of a source that the model is given for an aligned region. Fully convolutional mode only. */
  RegionType Fed(size_t source, const RegionType& aligned) const;

  /** Output pixels of the part of the model's answer that lies before the aligned region, when its answer covers all it was fed with;
   * negative if that is not a whole number. x (0) or y (1). */
  IndexValue Lead(unsigned int axis) const;

  /** Output pixels that cover `fed` pixels of the first source; -1 if that is not a whole number. */
  IndexValue Covered(IndexValue fed) const;

  /** Input pixels of a source for n output pixels, beyond those under them (negative: fewer), both sides together. */
  IndexValue Margin(size_t source, unsigned int axis) const
  {
    return m_Axes[source][axis].margin;
  }

  /** The aligned size whose fed size is `fed` in a source; 0 if there is none. For models of a fixed input size. */
  IndexValue AlignedSizeFor(size_t source, unsigned int axis, IndexValue fed) const;

  /** First pixel of the patch of a source for each of the output's columns (axis 0) or rows (axis 1) of a region. */
  std::vector<IndexValue> PatchStarts(size_t source, unsigned int axis, const RegionType& output) const;

  /** The source's columns (axis 0) or rows (axis 1) that lie under each of the output's: first, and one past the last. Cropped to the
   * source. */
  std::vector<std::pair<IndexValue, IndexValue>> Under(size_t source, unsigned int axis, const RegionType& output) const;

  /** Index within [0, size[ after mirroring at both edges (the edge pixel is repeated), as often as needed. */
  static IndexValue Mirror(IndexValue index, IndexValue size);

  /** Greatest multiple of `step`, counted from `start`, that is not above `value`. */
  static IndexValue FloorTo(IndexValue value, IndexValue start, IndexValue step);

  /** The fraction of the smallest denominator that a positive value means: up to 100 within a relative 1e-5, up to 1000 within 2e-7.
   * \return false if there is none. */
  static bool AsFraction(double value, IndexValue& numerator, IndexValue& denominator);

private:
  /** One axis of one source: the position of an output index is start + (index - anchor) * up / down. */
  struct Axis
  {
    IndexValue up = 1;     ///< source pixels ...
    IndexValue down = 1;   ///< ... per so many output pixels
    IndexValue start = 0;  ///< source pixel where the anchor lies
    IndexValue before = 0; ///< source pixels that are fed before the block; may be negative
    IndexValue margin = 0; ///< before and after together
  };

  void SetUpConvolution(double scale, const PairType& expressionField);
  std::string Name(size_t source) const;

  std::vector<Source> m_Sources;
  std::vector<std::array<Axis, 2>> m_Axes;
  SamplingGrid m_Output;
  PairType m_First{{0, 0}}; ///< output pixels between the first source's corner and the output's
  PairType m_Step{{1, 1}};
  PairType m_Anchor{{0, 0}};
  Mode m_Mode = Mode::FullyConvolutional;
};

} // namespace otb

#endif
