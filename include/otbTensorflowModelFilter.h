/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowModelFilter_h
#define otbTensorflowModelFilter_h

#include "otbSamplingGrid.h"
#include "otbTensorflowModel.h"

#include "itkImageToImageFilter.h"

#include <array>
#include <future>
#include <memory>
#include <string>
#include <vector>

namespace otb
{

/** \class TensorflowModelFilter
 * \brief Image -> fully convolutional SavedModel -> image, streamed, with the full footprint and exact blocks.
 *
 * The output grid is the input grid scaled: same corner, spacing x Scale, down to the border. Each block is one tensor: the input under
 * the block and a margin on each side that is thrown away, so that the result depends neither on block size nor on its phase (as long
 * as the margin covers the model's receptive field). Beyond the image's edge the input is mirrored (the edge pixel is repeated, NumPy's
 * "symmetric"), any number of times.
 *
 * An input pixel is invalid if any of its bands is no-data or not finite. Its place is filled by the mean of the valid pixels within
 * FillRadius (0 if there are none) before the model runs; the output pixels over it are no-data. Valid results that would equal
 * no-data are moved to the next value, if it is reserved. Integer outputs are rounded to the nearest and clamped, in the one copy from the
 * tensor.
 *
 * The filter pulls its input itself. With Prefetch on, the block that a writer is expected to ask for next (raster order) is computed in
 * a thread while this one is written. Requests larger than MaximumBlockSize are computed in several blocks.
 *
 * The output of the model may cover the blocks with their margins (it is cropped), without them, or with a part of them, the same on
 * either side.
 *
 * \ingroup Streamed
 * \ingroup OTBSuperResolutionTools
 */
template <class TInputImage, class TOutputImage>
class TensorflowModelFilter : public itk::ImageToImageFilter<TInputImage, TOutputImage>
{
public:
  using Self = TensorflowModelFilter;
  using Superclass = itk::ImageToImageFilter<TInputImage, TOutputImage>;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  using RegionType = typename TOutputImage::RegionType;
  using InputPixel = typename TInputImage::InternalPixelType;
  using OutputPixel = typename TOutputImage::InternalPixelType;
  using IndexValue = itk::IndexValueType;

  itkNewMacro(Self);
  itkTypeMacro(TensorflowModelFilter, itk::ImageToImageFilter);

  /** Radius in input pixels of the window whose mean fills an invalid pixel. */
  static constexpr IndexValue FillRadius = 4;

  /** The model and which of its inputs and outputs; several outputs are stacked band-wise. */
  void SetModel(std::shared_ptr<const TensorflowModel> model, const std::string& input, const std::vector<std::string>& outputs);

  /** Output over input spacing: an integer or one over an integer. \throws SamplingGridError otherwise. */
  void SetScale(double scale);

  /** Input pixels fed to the model and thrown away on each side, x then y. */
  void SetMargins(const std::array<IndexValue, 2>& before, const std::array<IndexValue, 2>& after)
  {
    m_MarginBefore = before;
    m_MarginAfter = after;
    this->Modified();
  }

  /** The model is run on multiples of this many output pixels, counted from the image's corner (OTBTF's expression field). */
  void SetExpressionField(const std::array<IndexValue, 2>& size)
  {
    m_ExpressionField = size;
    this->Modified();
  }

  /** Input value of each band that means "no data". Empty: only pixels that are not finite are invalid. */
  void SetInputNoData(const std::vector<double>& values)
  {
    m_InputNoData = values;
    this->Modified();
  }

  /** Value of output pixels without data; `reserved`: valid results that equal it are moved to the next value. */
  void SetOutputNoData(double value, bool reserved)
  {
    m_OutputNoData = value;
    m_OutputNoDataReserved = reserved;
    this->Modified();
  }

  /** Extra inputs, the same in every run (OTBTF's user placeholders). */
  void SetConstants(const std::vector<TensorflowModel::Feed>& constants)
  {
    m_Constants = constants;
    this->Modified();
  }

  /** Largest block in output pixels, before margins. */
  void SetMaximumBlockSize(const std::array<IndexValue, 2>& size)
  {
    m_MaximumBlock = size;
    this->Modified();
  }

  itkSetMacro(Prefetch, bool);
  itkGetConstMacro(Prefetch, bool);

  /** Stop and forget the block in preparation. Call before the input goes away. */
  void FinishPrefetch();

  /** Whether the input has at least one valid pixel; reads until the first one, in strips of `lines`. */
  bool HasValidPixel(itk::SizeValueType lines);

protected:
  TensorflowModelFilter() = default;
  ~TensorflowModelFilter() override;

  void GenerateOutputInformation() override;
  void PropagateRequestedRegion(itk::DataObject*) override;
  void UpdateOutputData(itk::DataObject*) override;
  void GenerateData() override;

private:
  /** A computed block: the tensors, where the block lies in them, and which output pixels have no data. */
  struct Block
  {
    RegionType region;
    std::vector<TensorflowModel::TensorPointer> tensors; ///< empty if nothing in the block is valid
    RegionType covered;                                  ///< output pixels of the run, without margins
    RegionType core;                                     ///< input pixels of the run, without margins
    std::vector<unsigned char> invalid;                  ///< of the core, row by row; empty if all are valid
  };

  TInputImage* Input() const
  {
    return const_cast<TInputImage*>(this->GetInput());
  }
  RegionType AlignedOutput(const RegionType& output) const;
  RegionType CoreInput(const RegionType& alignedOutput) const;
  Block Compute(const RegionType& output) const;
  std::vector<RegionType> SplitIntoBlocks(const RegionType& request) const;
  bool PredictNext(const RegionType& current, RegionType& next);
  bool IsInvalid(const InputPixel* pixel, unsigned int bands) const;
  void FillInvalid(const TInputImage* input, std::vector<InputPixel>& filled, std::vector<unsigned char>& invalid) const;
  void WriteTensor(const std::vector<InputPixel>& pixels, const RegionType& from, const RegionType& fed, tf::DataType type, void* data,
                   unsigned int bands) const;
  void Paste(const Block& block) const;

  std::shared_ptr<const TensorflowModel> m_Model;
  const TensorflowTensorInfo* m_ModelInput = nullptr;
  std::vector<const TensorflowTensorInfo*> m_ModelOutputs;
  std::vector<unsigned int> m_OutputBands;
  std::vector<TensorflowModel::Feed> m_Constants;
  IndexValue m_Up = 1;   ///< output pixels per input pixel
  IndexValue m_Down = 1; ///< input pixels per output pixel
  std::array<IndexValue, 2> m_MarginBefore{{0, 0}};
  std::array<IndexValue, 2> m_MarginAfter{{0, 0}};
  std::array<IndexValue, 2> m_ExpressionField{{1, 1}};
  std::array<IndexValue, 2> m_MaximumBlock{{2048, 2048}};
  std::vector<double> m_InputNoData;
  double m_OutputNoData = 0;
  bool m_OutputNoDataReserved = false;
  bool m_Prefetch = false;

  std::future<Block> m_Next;
  RegionType m_NextRegion;
  typename RegionType::SizeType m_StreamSize{{0, 0}}; ///< size of the first block that was asked for
};

} // namespace otb

#ifndef OTB_MANUAL_INSTANTIATION
#include "otbTensorflowModelFilter.hxx"
#endif

#endif
