/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowModelFilter_h
#define otbTensorflowModelFilter_h

#include "otbImageStack.h"
#include "otbKeptBlocks.h"
#include "otbLegacyMacros.h"
#include "otbServingGrid.h"
#include "otbTensorflowModel.h"

#include "itkImageSource.h"

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace otb
{

/** \class TensorflowModelFilter
 * \brief One or several images -> SavedModel -> image, streamed, with the full footprint.
 *
 * ServingGrid says which pixels of each source belong to which pixels of the output. Fully convolutional: each block is one tensor
 * [1, rows, columns, bands] a source, with a margin that is thrown away, so that the result depends neither on block size nor on its phase
 * (as long as the margin covers the model's receptive field). Patches: each block is one batch of patches [n, rows, columns, bands] a
 * source, one for each output pixel. Beyond the image's edge the input is mirrored (the edge pixel is repeated, NumPy's "symmetric").
 *
 * Blocks lie on one grid over the output, whatever is asked for: those that a request covers only in part are kept until the rest was asked
 * for (see SetRoomForKept), so that a writer of strips does not run the model twice. The filter pulls its input itself. With Prefetch on,
 * the next blocks are read and run in two threads while this one is converted and written.
 *
 * An output pixel is invalid according to Invalid; it becomes the output's no-data value. Integer outputs are rounded to the nearest (or
 * truncated) and clamped, in the one copy from the tensor.
 *
 * The output of a fully convolutional model may cover the blocks with their margins (it is cropped), without them, or with a part of them,
 * the same on either side.
 *
 * \ingroup Streamed
 * \ingroup OTBSuperResolutionTools
 */
template <class TOutputImage>
class TensorflowModelFilter : public itk::ImageSource<TOutputImage>
{
public:
  using Self = TensorflowModelFilter;
  using Superclass = itk::ImageSource<TOutputImage>;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  using RegionType = typename TOutputImage::RegionType;
  using OutputPixel = typename TOutputImage::InternalPixelType;
  using IndexValue = itk::IndexValueType;
  using PairType = ServingGrid::PairType;

  itkNewMacro(Self);
  itkTypeMacro(TensorflowModelFilter, itk::ImageSource);

  /** Radius in input pixels of the window whose mean fills an invalid pixel. */
  static constexpr IndexValue FillRadius = 4;

  /** Requests of a writer that are looked at for the next block to prepare. */
  static constexpr unsigned int MostRequestsAhead = 1024;

  /** Bytes of patches in one run of the model. */
  static constexpr size_t LargestBatch = size_t(64) << 20;

  /** What makes an output pixel invalid, in any source. */
  enum class InvalidRule
  {
    AllBands, ///< all bands of all the source's pixels under it are no-data; the model sees the values as they are
    AnyBand   ///< a band of a source's pixel under it is no-data or not finite; the model sees the mean of the valid pixels within
              ///< FillRadius in its place (0 if there are none)
  };

  /** The model and which of its outputs; several are stacked band-wise. Empty: the first in alphabetical order. */
  void SetModel(std::shared_ptr<const TensorflowModel> model, const std::vector<std::string>& outputs);

  /** One more source.
   * \param input of the model
   * \param receptiveField columns and rows that one evaluation needs
   * \param noData value of each band, or one for all; empty: none */
  void AddSource(const ImageStack& images, const TensorflowTensorInfo& input, const PairType& receptiveField,
                 const std::vector<double>& noData);

  /** How the output lies over the sources: see ServingGrid. */
  void SetSampling(double scale, const PairType& expressionField, ServingGrid::Mode mode);

  void SetInvalidRule(InvalidRule rule)
  {
    m_Rule = rule;
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

  /** Size of the blocks in output pixels, raised to whole steps of the serving grid. 0: what is asked for is one block. */
  void SetBlockSize(const PairType& size)
  {
    m_BlockSize = size;
    this->Modified();
  }

  /** Output size that a writer is advised to ask for (OTB's tile hint). */
  void SetWritingHint(const PairType& size)
  {
    m_WritingHint = size;
    this->Modified();
  }

  /** Part of the output that will be asked for: nothing is computed outside. Default: all. */
  void SetRegionOfInterest(const RegionType& region)
  {
    m_RegionOfInterest = region;
  }

  /** Called when a block cannot be computed, with the cause; it may throw something else. */
  void SetFailureHandler(const std::function<void(const std::string&)>& handler)
  {
    m_FailureHandler = handler;
  }

  /** Integers are truncated toward zero, as OTBTF does, instead of rounded. */
  itkSetMacro(Truncate, bool);
  itkGetConstMacro(Truncate, bool);

  itkSetMacro(Prefetch, bool);
  itkGetConstMacro(Prefetch, bool);

  /** How many blocks the model is run on at once, with Prefetch: two fill the moments in which one does not occupy all cores,
   * for the memory of two. */
  itkSetClampMacro(ConcurrentRuns, size_t, 1, 16);
  itkGetConstMacro(ConcurrentRuns, size_t);

  /** Where blocks are kept for the rest of a request: bytes in memory, and a folder for a scratch file with the others (empty: nowhere). */
  void SetRoomForKept(size_t memory, const std::string& folder)
  {
    m_Kept.SetRoom(memory, folder);
  }

  /** Where the output lies over the sources; after UpdateOutputInformation(). */
  const ServingGrid& GetGrid() const
  {
    return m_Grid;
  }

  /** The block size after SetBlockSize and the constraints of the model. */
  const PairType& GetBlockSize() const
  {
    return m_Block;
  }

  /** How many times the model was run for pixels. */
  size_t GetNumberOfRuns() const
  {
    return m_Runs;
  }

  /** Wait for the blocks in preparation and forget them. Call before the sources go away. */
  void FinishPrefetch();

  /** Whether a source has a valid pixel according to the rule, for all sources; reads until the first one, so many pixels at once. */
  bool HasValidPixel(itk::SizeValueType pixels);

protected:
  TensorflowModelFilter() = default;
  ~TensorflowModelFilter() override;

  void GenerateOutputInformation() override;
  void PropagateRequestedRegion(itk::DataObject*) override;
  void UpdateOutputData(itk::DataObject*) override;
  void GenerateData() override;

private:
  struct Source
  {
    ImageStack images;
    const TensorflowTensorInfo* input = nullptr;
    PairType receptiveField{{1, 1}};
    std::vector<double> noData;
  };

  /** The model's input for a block. */
  struct Prepared
  {
    RegionType region;                        ///< output pixels
    RegionType aligned;                       ///< output pixels of the run
    std::vector<TensorflowModel::Feed> feeds; ///< empty if nothing in the block is valid
    std::vector<unsigned char> invalid;       ///< of the region, row by row; empty if all are valid
  };

  /** A tensor of the model's output as a picture. */
  struct Layout
  {
    size_t columns = 0;
    size_t skipColumns = 0; ///< pixels before the block's first
    size_t skipRows = 0;
  };

  /** What the model has made of a block. The thread that writes converts it, straight to where the writer takes it from, while the model is
   * run on the next. */
  struct Result
  {
    RegionType region; ///< output pixels
    size_t phases = 0; ///< fine pixels along a side of a coarse one, if the tensors have them as channels; else 0
    std::vector<TensorflowModel::TensorPointer> tensors; ///< empty if nothing in the block is valid
    std::vector<Layout> layouts;                         ///< of the tensors
    std::vector<unsigned char> invalid;                  ///< of the region, row by row; empty if all are valid
  };
  using ResultPointer = std::shared_ptr<const Result>;

  /** A block on its way. */
  struct Job
  {
    RegionType region;
    std::shared_future<std::shared_ptr<Prepared>> prepared;
    std::shared_future<ResultPointer> done; ///< not valid before StartRun
  };

  std::shared_ptr<Prepared> Prepare(const RegionType& region) const;
  ResultPointer Run(const Prepared& prepared) const;
  std::vector<TensorflowModel::TensorPointer> RunModel(const std::vector<TensorflowModel::Feed>& feeds, bool phases) const;
  void FindPhases();
  Job& JobOf(const RegionType& region);
  void StartRun(Job& job);
  ResultPointer Obtain(const RegionType& region);

  template <class TPixel>
  void PrepareSource(size_t source, Prepared& prepared) const;
  template <class TPixel>
  bool IsInvalid(const Source& source, const TPixel* pixel) const;
  template <class TPixel>
  bool FillInvalid(const Source& source, const ImageStack::View<TPixel>& view, std::vector<TPixel>& filled) const;
  template <class TPixel>
  void MarkInvalid(size_t source, const ImageStack::View<TPixel>& view, Prepared& prepared) const;
  template <class TPixel>
  void CopyMirrored(const Source& source, const ImageStack::View<TPixel>& view, const RegionType& fed, void* values) const;
  template <class TPixel>
  bool HasValidPixel(const Source& source, itk::SizeValueType pixels) const;

  std::vector<RegionType> Blocks(const RegionType& request) const;
  bool PredictNext(const RegionType& current, RegionType& next);
  unsigned int DeclaredBands(const TensorflowTensorInfo& output) const;
  void Probe();
  Layout LayOut(size_t output, const std::vector<int64_t>& shape, const RegionType& aligned, const RegionType& region) const;
  void Convert(const Result& block, OutputPixel* to, size_t stride) const;
  void Give(const RegionType& region, const RegionType& request);

  std::shared_ptr<const TensorflowModel> m_Model;
  std::vector<Source> m_Sources;
  std::vector<const TensorflowTensorInfo*> m_ModelOutputs;
  std::vector<unsigned int> m_OutputBands; ///< of each output; 0 before it is known
  size_t m_Phases = 0;                     ///< as in Result, of what the model can give
  mutable std::atomic<bool> m_PhasesFit{true};
  std::vector<TensorflowModel::Feed> m_Constants;
  double m_Scale = 1;
  PairType m_ExpressionField{{1, 1}};
  ServingGrid::Mode m_Mode = ServingGrid::Mode::FullyConvolutional;
  InvalidRule m_Rule = InvalidRule::AllBands;
  PairType m_BlockSize{{2048, 2048}};
  PairType m_WritingHint{{0, 0}};
  RegionType m_RegionOfInterest;
  double m_OutputNoData = 0;
  bool m_OutputNoDataReserved = false;
  bool m_Truncate = false;
  bool m_Prefetch = false;
  size_t m_ConcurrentRuns = 1;
  std::function<void(const std::string&)> m_FailureHandler;

  unsigned int m_NumberOfImages = 0;
  ServingGrid m_Grid;
  PairType m_Block{{1, 1}};     ///< whole steps
  PairType m_FixedSize{{0, 0}}; ///< aligned size that the model's input shape prescribes; 0: any

  std::deque<Job> m_Jobs;                             ///< in the order of the blocks
  std::deque<RegionType> m_Upcoming;                  ///< blocks that are expected to be needed after the current one
  KeptBlocks m_Kept;                                  ///< of which a part was given out
  typename RegionType::SizeType m_StreamSize{{0, 0}}; ///< size of the first request
  mutable std::atomic<size_t> m_Runs{0};
};

} // namespace otb

#ifndef OTB_MANUAL_INSTANTIATION
#include "otbTensorflowModelFilter.hxx"
#endif

#endif
