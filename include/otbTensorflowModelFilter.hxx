/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowModelFilter_hxx
#define otbTensorflowModelFilter_hxx

#include "otbTensorflowModelFilter.h"

#include "itkImageRegionConstIterator.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace otb
{
namespace tensorflow_model_filter
{
using IndexValue = itk::IndexValueType;

/** Greatest multiple of `step`, counted from `start`, that is not above `value`. */
inline IndexValue FloorTo(IndexValue value, IndexValue start, IndexValue step)
{
  const IndexValue offset = value - start;
  return start + (offset >= 0 ? offset / step : -((-offset + step - 1) / step)) * step;
}

/** Index within [0, size[ after mirroring at both edges, as often as needed. */
inline IndexValue Mirror(IndexValue index, IndexValue size)
{
  IndexValue folded = index % (2 * size);
  folded += folded < 0 ? 2 * size : 0;
  return folded < size ? folded : 2 * size - 1 - folded;
}

/** Nearest value of the output type, halves away from zero, clamped; NaN becomes `notANumber`. */
template <class TOutput, class TValue>
inline TOutput Convert(TValue value, TOutput notANumber)
{
  if constexpr (std::is_floating_point<TOutput>::value)
  {
    return static_cast<TOutput>(value);
  }
  else
  {
    // float holds all 8 and 16 bit integers
    using Working = typename std::conditional<(sizeof(TOutput) <= 2), TValue, double>::type;
    constexpr auto low = static_cast<Working>(std::numeric_limits<TOutput>::min());
    constexpr auto high = static_cast<Working>(std::numeric_limits<TOutput>::max());
    auto work = static_cast<Working>(value);
    const bool nan = !(work == work);
    work = nan ? Working(0) : work;
    work = work > low ? work : low;
    work = work < high ? work : high;
    using Integer = typename std::conditional<(sizeof(TOutput) <= 2), int, long long>::type;
    const auto rounded = static_cast<TOutput>(static_cast<Integer>(work + (work < 0 ? Working(-0.5) : Working(0.5))));
    return nan ? notANumber : rounded;
  }
}

/** The value next to no-data that a valid result takes instead. */
template <class TOutput>
TOutput NextTo(TOutput noData)
{
  if constexpr (std::is_floating_point<TOutput>::value)
  {
    return std::nextafter(noData, TOutput(0) >= noData ? std::numeric_limits<TOutput>::max() : std::numeric_limits<TOutput>::lowest());
  }
  else
  {
    return noData == std::numeric_limits<TOutput>::max() ? static_cast<TOutput>(noData - 1) : static_cast<TOutput>(noData + 1);
  }
}

template <class TFrom, class TTo>
void Cast(const TFrom* from, void* to, size_t count)
{
  auto* typed = static_cast<TTo*>(to);
  for (size_t k = 0; k < count; ++k)
  {
    typed[k] = Convert<TTo>(from[k], TTo(0));
  }
}

/** Values of one type to a tensor's type. */
template <class TFrom>
void CastTo(tf::DataType type, const TFrom* from, void* to, size_t count)
{
  switch (type)
  {
  case tf::Float:
    return Cast<TFrom, float>(from, to, count);
  case tf::Double:
    return Cast<TFrom, double>(from, to, count);
  case tf::Int32:
    return Cast<TFrom, int32_t>(from, to, count);
  case tf::UInt8:
    return Cast<TFrom, uint8_t>(from, to, count);
  case tf::Int16:
    return Cast<TFrom, int16_t>(from, to, count);
  case tf::Int8:
    return Cast<TFrom, int8_t>(from, to, count);
  case tf::UInt16:
    return Cast<TFrom, uint16_t>(from, to, count);
  case tf::UInt32:
    return Cast<TFrom, uint32_t>(from, to, count);
  case tf::Int64:
    return Cast<TFrom, int64_t>(from, to, count);
  case tf::UInt64:
    return Cast<TFrom, uint64_t>(from, to, count);
  case tf::Bool:
    for (size_t k = 0; k < count; ++k)
    {
      static_cast<bool*>(to)[k] = from[k] != 0;
    }
    return;
  }
  throw TensorflowError("model inputs of " + tf::NameOf(type) + " are not supported; use float32, float64, bool or an integer type");
}

template <class TFrom>
void Widen(const void* from, double* to, size_t count)
{
  std::copy(static_cast<const TFrom*>(from), static_cast<const TFrom*>(from) + count, to);
}

/** A tensor's values of any type but float32 to double. */
inline void WidenFrom(tf::DataType type, const void* from, double* to, size_t count)
{
  switch (type)
  {
  case tf::Float:
    return Widen<float>(from, to, count);
  case tf::Double:
    return Widen<double>(from, to, count);
  case tf::Int32:
    return Widen<int32_t>(from, to, count);
  case tf::UInt8:
    return Widen<uint8_t>(from, to, count);
  case tf::Int16:
    return Widen<int16_t>(from, to, count);
  case tf::Int8:
    return Widen<int8_t>(from, to, count);
  case tf::UInt16:
    return Widen<uint16_t>(from, to, count);
  case tf::UInt32:
    return Widen<uint32_t>(from, to, count);
  case tf::Int64:
    return Widen<int64_t>(from, to, count);
  case tf::UInt64:
    return Widen<uint64_t>(from, to, count);
  case tf::Bool:
    return Widen<bool>(from, to, count);
  }
  throw TensorflowError("model outputs of " + tf::NameOf(type) + " are not supported; use float32, float64, bool or an integer type");
}
} // namespace tensorflow_model_filter

template <class TInputImage, class TOutputImage>
TensorflowModelFilter<TInputImage, TOutputImage>::~TensorflowModelFilter()
{
  this->FinishPrefetch();
}

template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::FinishPrefetch()
{
  if (m_Next.valid())
  {
    m_Next.wait();
    m_Next = std::future<Block>();
  }
}

template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::SetModel(std::shared_ptr<const TensorflowModel> model, const std::string& input,
                                                                const std::vector<std::string>& outputs)
{
  m_Model = model;
  m_ModelInput = &model->GetInput(input);
  m_ModelOutputs.clear();
  m_OutputBands.clear();
  for (const auto& name : outputs.empty() ? std::vector<std::string>{""} : outputs)
  {
    const auto& info = model->GetOutput(name);
    const auto rank = info.shape.size();
    if (info.unknownRank || rank < 1 || rank > 4)
    {
      throw TensorflowError("output \"" + info.key + "\" of the model has " +
                            (info.unknownRank ? "an unknown rank" : "rank " + std::to_string(rank)) +
                            ", but images need [1, rows, columns, bands] or [1, rows, columns]; export the model with that shape");
    }
    const int64_t bands = rank == 1 || rank == 3 ? 1 : info.shape.back();
    if (bands < 1)
    {
      throw TensorflowError("output \"" + info.key +
                            "\" of the model has an unknown number of bands; export the model with a fixed last dimension");
    }
    m_ModelOutputs.push_back(&info);
    m_OutputBands.push_back(static_cast<unsigned int>(bands));
  }
  this->Modified();
}

template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::SetScale(double scale)
{
  const double up = std::round(1 / scale), down = std::round(scale);
  if (scale > 0 && scale <= 1 && std::abs(up * scale - 1) < 1e-6)
  {
    m_Up = static_cast<IndexValue>(up);
    m_Down = 1;
  }
  else if (scale > 1 && std::abs(down - scale) < 1e-6 * scale)
  {
    m_Up = 1;
    m_Down = static_cast<IndexValue>(down);
  }
  else
  {
    throw SamplingGridError("output over input spacing is " + std::to_string(scale) + ", but must be an integer or one over an integer");
  }
  this->Modified();
}

template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::GenerateOutputInformation()
{
  Superclass::GenerateOutputInformation();
  const auto grid = SamplingGrid::FromImage(this->GetInput());
  for (unsigned int k = 0; k < 2; ++k)
  {
    if (static_cast<IndexValue>(grid.GetRegion().GetSize(k)) < m_Down)
    {
      throw SamplingGridError("the image (" + grid.Describe() + ") is smaller than one output pixel of " + std::to_string(m_Down) +
                              " input pixels");
    }
  }
  TOutputImage* output = this->GetOutput();
  grid.Scaled(static_cast<double>(m_Down) / static_cast<double>(m_Up)).ApplyTo(output);
  unsigned int bands = 0;
  for (const unsigned int count : m_OutputBands)
  {
    bands += count;
  }
  output->SetNumberOfComponentsPerPixel(bands);
}

// The filter pulls its input when it computes a block: nothing to ask for beforehand.
template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::PropagateRequestedRegion(itk::DataObject*)
{
}

template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::UpdateOutputData(itk::DataObject*)
{
  this->PrepareOutputs();
  this->InvokeEvent(itk::StartEvent());
  this->UpdateProgress(0.0f);
  this->GenerateData();
  this->UpdateProgress(1.0f);
  this->InvokeEvent(itk::EndEvent());
  this->GetOutput()->DataHasBeenGenerated();
}

template <class TInputImage, class TOutputImage>
auto TensorflowModelFilter<TInputImage, TOutputImage>::AlignedOutput(const RegionType& output) const -> RegionType
{
  const auto largest = this->GetOutput()->GetLargestPossibleRegion();
  RegionType aligned;
  for (unsigned int k = 0; k < 2; ++k)
  {
    // whole input pixels, and whole expression fields
    IndexValue step = m_ExpressionField[k];
    while (step % m_Up != 0)
    {
      step += m_ExpressionField[k];
    }
    const IndexValue origin = largest.GetIndex(k), end = output.GetIndex(k) + static_cast<IndexValue>(output.GetSize(k));
    const IndexValue first = tensorflow_model_filter::FloorTo(output.GetIndex(k), origin, step);
    const IndexValue last = tensorflow_model_filter::FloorTo(end + step - 1, origin, step);
    aligned.SetIndex(k, first);
    aligned.SetSize(k, static_cast<itk::SizeValueType>(last - first));
  }
  return aligned;
}

template <class TInputImage, class TOutputImage>
auto TensorflowModelFilter<TInputImage, TOutputImage>::CoreInput(const RegionType& alignedOutput) const -> RegionType
{
  const auto output = this->GetOutput()->GetLargestPossibleRegion();
  const auto input = this->GetInput()->GetLargestPossibleRegion();
  RegionType core;
  for (unsigned int k = 0; k < 2; ++k)
  {
    core.SetIndex(k, input.GetIndex(k) + (alignedOutput.GetIndex(k) - output.GetIndex(k)) / m_Up * m_Down);
    core.SetSize(k, alignedOutput.GetSize(k) / m_Up * m_Down);
  }
  return core;
}

template <class TInputImage, class TOutputImage>
bool TensorflowModelFilter<TInputImage, TOutputImage>::IsInvalid(const InputPixel* pixel, unsigned int bands) const
{
  for (unsigned int band = 0; band < bands; ++band)
  {
    if (!std::isfinite(static_cast<double>(pixel[band])))
    {
      return true;
    }
    // compared in the pixel's type: -3.4e38 in the metadata is a float32
    if (!m_InputNoData.empty() && pixel[band] == static_cast<InputPixel>(m_InputNoData[std::min<size_t>(band, m_InputNoData.size() - 1)]))
    {
      return true;
    }
  }
  return false;
}

// The buffered input as pixels, invalid ones replaced by the mean of the valid ones around them. Sums run in a fixed order over a window
// that is cropped at the image only, so that the value does not depend on the block.
template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::FillInvalid(const TInputImage* input, std::vector<InputPixel>& filled,
                                                                   std::vector<unsigned char>& invalid) const
{
  const auto region = input->GetBufferedRegion();
  const unsigned int bands = input->GetNumberOfComponentsPerPixel();
  const auto width = static_cast<IndexValue>(region.GetSize(0)), height = static_cast<IndexValue>(region.GetSize(1));
  const InputPixel* source = input->GetBufferPointer();
  const auto count = static_cast<size_t>(width * height);
  filled.assign(source, source + count * bands);
  invalid.resize(count);
  bool any = false;
  for (size_t k = 0; k < count; ++k)
  {
    invalid[k] = this->IsInvalid(source + k * bands, bands) ? 1 : 0;
    any = any || invalid[k] != 0;
  }
  if (!any)
  {
    invalid.clear();
    return;
  }
  // number of valid pixels before each column, so that empty rows of a window cost nothing
  std::vector<IndexValue> before(static_cast<size_t>((width + 1) * height));
  for (IndexValue y = 0; y < height; ++y)
  {
    IndexValue* row = &before[static_cast<size_t>(y * (width + 1))];
    row[0] = 0;
    for (IndexValue x = 0; x < width; ++x)
    {
      row[x + 1] = row[x] + (invalid[static_cast<size_t>(y * width + x)] == 0 ? 1 : 0);
    }
  }
  std::vector<double> sum(bands);
  for (IndexValue y = 0; y < height; ++y)
  {
    for (IndexValue x = 0; x < width; ++x)
    {
      if (invalid[static_cast<size_t>(y * width + x)] == 0)
      {
        continue;
      }
      const IndexValue left = std::max<IndexValue>(x - FillRadius, 0), right = std::min(x + FillRadius, width - 1);
      IndexValue valid = 0;
      std::fill(sum.begin(), sum.end(), 0.0);
      for (IndexValue v = std::max<IndexValue>(y - FillRadius, 0); v <= std::min(y + FillRadius, height - 1); ++v)
      {
        const IndexValue here =
            before[static_cast<size_t>(v * (width + 1) + right + 1)] - before[static_cast<size_t>(v * (width + 1) + left)];
        for (IndexValue u = left; here > 0 && u <= right; ++u)
        {
          const auto offset = static_cast<size_t>(v * width + u);
          for (unsigned int band = 0; invalid[offset] == 0 && band < bands; ++band)
          {
            sum[band] += source[offset * bands + band];
          }
        }
        valid += here;
      }
      for (unsigned int band = 0; band < bands; ++band)
      {
        filled[static_cast<size_t>(y * width + x) * bands + band] =
            static_cast<InputPixel>(valid > 0 ? sum[band] / static_cast<double>(valid) : 0.0);
      }
    }
  }
}

// Rows of the region `fed` (which may leave the image) out of `pixels` of the region `from`, mirrored at the image's edges.
template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::WriteTensor(const std::vector<InputPixel>& pixels, const RegionType& from,
                                                                   const RegionType& fed, tf::DataType type, void* data,
                                                                   unsigned int bands) const
{
  const auto image = this->GetInput()->GetLargestPossibleRegion();
  const auto source = [&](unsigned int k, IndexValue index)
  {
    return image.GetIndex(k) + tensorflow_model_filter::Mirror(index - image.GetIndex(k), static_cast<IndexValue>(image.GetSize(k))) -
           from.GetIndex(k);
  };
  const auto width = static_cast<IndexValue>(fed.GetSize(0)), height = static_cast<IndexValue>(fed.GetSize(1));
  std::vector<IndexValue> columns(static_cast<size_t>(width));
  for (IndexValue x = 0; x < width; ++x)
  {
    columns[static_cast<size_t>(x)] = source(0, fed.GetIndex(0) + x);
  }
  const size_t count = static_cast<size_t>(width) * bands, bytes = count * tf::SizeOf(type);
  std::vector<InputPixel> row(count);
  for (IndexValue y = 0; y < height; ++y)
  {
    const InputPixel* line = pixels.data() + static_cast<size_t>(source(1, fed.GetIndex(1) + y)) * from.GetSize(0) * bands;
    for (IndexValue x = 0; x < width;)
    {
      IndexValue run = 1; // columns that follow one another in the source are copied at once
      while (x + run < width && columns[static_cast<size_t>(x + run)] == columns[static_cast<size_t>(x)] + run)
      {
        ++run;
      }
      std::copy_n(line + columns[static_cast<size_t>(x)] * bands, run * bands, row.data() + x * bands);
      x += run;
    }
    tensorflow_model_filter::CastTo(type, row.data(), static_cast<char*>(data) + static_cast<size_t>(y) * bytes, count);
  }
}

template <class TInputImage, class TOutputImage>
auto TensorflowModelFilter<TInputImage, TOutputImage>::Compute(const RegionType& output) const -> Block
{
  Block block;
  block.region = output;
  block.covered = this->AlignedOutput(output);
  block.core = this->CoreInput(block.covered);

  TInputImage* input = this->Input();
  const auto image = input->GetLargestPossibleRegion();
  RegionType fed, needed;
  for (unsigned int k = 0; k < 2; ++k)
  {
    const auto size = static_cast<IndexValue>(image.GetSize(k));
    fed.SetIndex(k, block.core.GetIndex(k) - m_MarginBefore[k]);
    fed.SetSize(k, block.core.GetSize(k) + static_cast<itk::SizeValueType>(m_MarginBefore[k] + m_MarginAfter[k]));
    IndexValue low = size, high = 0;
    for (IndexValue index = 0; index < static_cast<IndexValue>(fed.GetSize(k)); ++index)
    {
      const IndexValue mirrored = tensorflow_model_filter::Mirror(fed.GetIndex(k) + index - image.GetIndex(k), size);
      low = std::min(low, mirrored);
      high = std::max(high, mirrored);
    }
    low = std::max<IndexValue>(low - FillRadius, 0);
    high = std::min(high + FillRadius, size - 1);
    needed.SetIndex(k, image.GetIndex(k) + low);
    needed.SetSize(k, static_cast<itk::SizeValueType>(high - low + 1));
  }

  input->SetRequestedRegion(needed);
  input->PropagateRequestedRegion();
  input->UpdateOutputData();

  const unsigned int bands = input->GetNumberOfComponentsPerPixel();
  const RegionType buffered = input->GetBufferedRegion();
  std::vector<InputPixel> pixels;
  std::vector<unsigned char> invalid;
  this->FillInvalid(input, pixels, invalid);

  if (!invalid.empty())
  {
    // whatever lies beyond the image counts as invalid: its output is never used
    block.invalid.assign(block.core.GetNumberOfPixels(), 1);
    bool anyValid = false, anyInvalid = false;
    for (IndexValue y = 0; y < static_cast<IndexValue>(block.core.GetSize(1)); ++y)
    {
      for (IndexValue x = 0; x < static_cast<IndexValue>(block.core.GetSize(0)); ++x)
      {
        typename RegionType::IndexType index{{block.core.GetIndex(0) + x, block.core.GetIndex(1) + y}};
        if (image.IsInside(index))
        {
          const auto offset = static_cast<size_t>((index[1] - buffered.GetIndex(1)) * static_cast<IndexValue>(buffered.GetSize(0)) +
                                                  index[0] - buffered.GetIndex(0));
          const unsigned char flag = invalid[offset];
          block.invalid[static_cast<size_t>(y) * block.core.GetSize(0) + static_cast<size_t>(x)] = flag;
          anyValid = anyValid || flag == 0;
          anyInvalid = anyInvalid || flag != 0;
        }
      }
    }
    if (!anyValid)
    {
      return block;
    }
    if (!anyInvalid)
    {
      block.invalid.clear();
    }
  }

  const auto tensor =
      m_Model->NewTensor(m_ModelInput->type, {1, static_cast<int64_t>(fed.GetSize(1)), static_cast<int64_t>(fed.GetSize(0)), bands});
  this->WriteTensor(pixels, buffered, fed, m_ModelInput->type, m_Model->GetData(tensor), bands);
  std::vector<InputPixel>().swap(pixels);
  auto feeds = m_Constants;
  feeds.push_back({m_ModelInput, tensor});
  block.tensors = m_Model->Run(feeds, m_ModelOutputs);
  return block;
}

template <class TInputImage, class TOutputImage>
auto TensorflowModelFilter<TInputImage, TOutputImage>::SplitIntoBlocks(const RegionType& request) const -> std::vector<RegionType>
{
  // a request of about one block is one block
  std::array<IndexValue, 2> count, size;
  for (unsigned int k = 0; k < 2; ++k)
  {
    const auto length = static_cast<IndexValue>(request.GetSize(k));
    size[k] = length * 2 <= m_MaximumBlock[k] * 3 ? length : m_MaximumBlock[k];
    count[k] = (length + size[k] - 1) / size[k];
  }
  std::vector<RegionType> blocks;
  for (IndexValue y = 0; y < count[1]; ++y)
  {
    for (IndexValue x = 0; x < count[0]; ++x)
    {
      const IndexValue position[2] = {x, y};
      RegionType block;
      for (unsigned int k = 0; k < 2; ++k)
      {
        block.SetIndex(k, request.GetIndex(k) + position[k] * size[k]);
        block.SetSize(k, static_cast<itk::SizeValueType>(size[k]));
      }
      block.Crop(request);
      blocks.push_back(block);
    }
  }
  return blocks;
}

template <class TInputImage, class TOutputImage>
bool TensorflowModelFilter<TInputImage, TOutputImage>::PredictNext(const RegionType& current, RegionType& next)
{
  const auto largest = this->GetOutput()->GetLargestPossibleRegion();
  if (current.GetIndex() == largest.GetIndex() || m_StreamSize[0] == 0)
  {
    m_StreamSize = current.GetSize();
  }
  next = current;
  next.SetSize(m_StreamSize);
  next.SetIndex(0, current.GetIndex(0) + static_cast<IndexValue>(current.GetSize(0)));
  if (next.GetIndex(0) >= largest.GetIndex(0) + static_cast<IndexValue>(largest.GetSize(0)))
  {
    next.SetIndex(0, largest.GetIndex(0));
    next.SetIndex(1, current.GetIndex(1) + static_cast<IndexValue>(current.GetSize(1)));
  }
  return next.Crop(largest);
}

template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::GenerateData()
{
  TOutputImage* output = this->GetOutput();
  const RegionType request = output->GetRequestedRegion();
  output->SetBufferedRegion(request);
  output->Allocate();

  auto blocks = this->SplitIntoBlocks(request);
  const auto count = blocks.size();
  RegionType next;
  if (m_Prefetch && this->PredictNext(request, next))
  {
    blocks.push_back(this->SplitIntoBlocks(next).front());
  }
  for (size_t k = 0; k < count; ++k)
  {
    Block block;
    if (m_Next.valid() && m_NextRegion == blocks[k])
    {
      block = m_Next.get();
    }
    else
    {
      this->FinishPrefetch();
      block = this->Compute(blocks[k]);
    }
    if (m_Prefetch && k + 1 < blocks.size())
    {
      m_NextRegion = blocks[k + 1];
      m_Next = std::async(std::launch::async, [this, region = m_NextRegion] { return this->Compute(region); });
    }
    this->Paste(block);
    this->UpdateProgress(static_cast<float>(k + 1) / static_cast<float>(count));
  }
}

template <class TInputImage, class TOutputImage>
void TensorflowModelFilter<TInputImage, TOutputImage>::Paste(const Block& block) const
{
  auto* output = const_cast<TOutputImage*>(this->GetOutput());
  const auto buffered = output->GetBufferedRegion();
  const auto bands = static_cast<size_t>(output->GetNumberOfComponentsPerPixel());
  const auto width = static_cast<size_t>(block.region.GetSize(0));
  const OutputPixel noData = tensorflow_model_filter::Convert<OutputPixel>(m_OutputNoData, OutputPixel(0));
  const OutputPixel instead = tensorflow_model_filter::NextTo(noData);
  const bool avoid = m_OutputNoDataReserved && std::isfinite(m_OutputNoData);
  const auto rowOf = [&](IndexValue y)
  {
    return output->GetBufferPointer() + (static_cast<size_t>(y - buffered.GetIndex(1)) * buffered.GetSize(0) +
                                         static_cast<size_t>(block.region.GetIndex(0) - buffered.GetIndex(0))) *
                                            bands;
  };
  const IndexValue firstRow = block.region.GetIndex(1), endRow = firstRow + static_cast<IndexValue>(block.region.GetSize(1));

  if (block.tensors.empty())
  {
    for (IndexValue y = firstRow; y < endRow; ++y)
    {
      std::fill_n(rowOf(y), width * bands, noData);
    }
    return;
  }

  size_t firstBand = 0;
  for (size_t t = 0; t < block.tensors.size(); ++t)
  {
    const size_t tensorBands = m_OutputBands[t];
    const auto shape = m_Model->GetShape(block.tensors[t]);
    size_t values = 1;
    for (const int64_t length : shape)
    {
      values *= static_cast<size_t>(length);
    }
    // rows and columns that the run gave: with or without the margins
    IndexValue rows = 0, columns = 0;
    if ((shape.size() == 4 || shape.size() == 3) && shape[0] == 1 && values == static_cast<size_t>(shape[1] * shape[2]) * tensorBands)
    {
      rows = shape[1];
      columns = shape[2];
    }
    const IndexValue given[2] = {columns, rows};
    IndexValue skip[2];
    for (unsigned int k = 0; k < 2; ++k)
    {
      const auto covered = static_cast<IndexValue>(block.covered.GetSize(k));
      const IndexValue fed = static_cast<IndexValue>(block.core.GetSize(k)) + m_MarginBefore[k] + m_MarginAfter[k];
      const IndexValue least = std::min(m_MarginBefore[k], m_MarginAfter[k]);
      if (given[k] == covered)
      {
        skip[k] = 0;
      }
      else if (fed * m_Up % m_Down == 0 && m_MarginBefore[k] * m_Up % m_Down == 0 && given[k] <= fed * m_Up / m_Down &&
               (fed * m_Up / m_Down - given[k]) % 2 == 0 && (fed * m_Up / m_Down - given[k]) / 2 <= least * m_Up / m_Down)
      {
        // the model gives all it was fed, or removed as much on either side
        skip[k] = m_MarginBefore[k] * m_Up / m_Down - (fed * m_Up / m_Down - given[k]) / 2;
      }
      else
      {
        std::string text;
        for (const int64_t length : shape)
        {
          text += (text.empty() ? "" : " x ") + std::to_string(length);
        }
        throw TensorflowError("output \"" + m_ModelOutputs[t]->key + "\" of the model is " + text + " for a " +
                              (k == 0 ? "width" : "height") + " of " + std::to_string(fed) + " input pixels, but it must give " +
                              std::to_string(fed * m_Up / m_Down) + " or (without margins) " + std::to_string(covered) +
                              " output pixels and " + std::to_string(tensorBands) +
                              " bands; check the receptive field, the expression field and the spacing scale or factor");
      }
      skip[k] += block.region.GetIndex(k) - block.covered.GetIndex(k);
    }

    const auto type = m_Model->GetType(block.tensors[t]);
    const void* data = m_Model->GetData(block.tensors[t]);
    std::vector<double> wide(type == tf::Float ? 0 : width * tensorBands);
    const auto convert = [&](const auto* from, OutputPixel* to)
    {
      if (tensorBands == bands)
      {
        for (size_t k = 0; k < width * bands; ++k)
        {
          to[k] = tensorflow_model_filter::Convert<OutputPixel>(from[k], noData);
        }
        return;
      }
      for (size_t x = 0; x < width; ++x)
      {
        for (size_t band = 0; band < tensorBands; ++band)
        {
          to[x * bands + firstBand + band] = tensorflow_model_filter::Convert<OutputPixel>(from[x * tensorBands + band], noData);
        }
      }
    };
    for (IndexValue y = firstRow; y < endRow; ++y)
    {
      const size_t offset =
          (static_cast<size_t>(y - firstRow + skip[1]) * static_cast<size_t>(columns) + static_cast<size_t>(skip[0])) * tensorBands;
      if (type == tf::Float)
      {
        convert(static_cast<const float*>(data) + offset, rowOf(y));
      }
      else
      {
        tensorflow_model_filter::WidenFrom(type, static_cast<const char*>(data) + offset * tf::SizeOf(type), wide.data(),
                                           width * tensorBands);
        convert(wide.data(), rowOf(y));
      }
    }
    firstBand += tensorBands;
  }

  for (IndexValue y = firstRow; y < endRow; ++y)
  {
    OutputPixel* row = rowOf(y);
    for (size_t k = 0; avoid && k < width * bands; ++k)
    {
      row[k] = row[k] == noData ? instead : row[k];
    }
    if (block.invalid.empty())
    {
      continue;
    }
    for (size_t x = 0; x < width; ++x)
    {
      bool invalid = false;
      const IndexValue column = (block.region.GetIndex(0) - block.covered.GetIndex(0) + static_cast<IndexValue>(x)) / m_Up * m_Down;
      const IndexValue line = (y - block.covered.GetIndex(1)) / m_Up * m_Down;
      for (IndexValue v = line; v < line + m_Down; ++v)
      {
        for (IndexValue u = column; u < column + m_Down; ++u)
        {
          invalid = invalid || block.invalid[static_cast<size_t>(v) * block.core.GetSize(0) + static_cast<size_t>(u)] != 0;
        }
      }
      if (invalid)
      {
        std::fill_n(row + x * bands, bands, noData);
      }
    }
  }
}

template <class TInputImage, class TOutputImage>
bool TensorflowModelFilter<TInputImage, TOutputImage>::HasValidPixel(itk::SizeValueType lines)
{
  TInputImage* input = this->Input();
  input->UpdateOutputInformation();
  const auto image = input->GetLargestPossibleRegion();
  const unsigned int bands = input->GetNumberOfComponentsPerPixel();
  const auto end = image.GetIndex(1) + static_cast<IndexValue>(image.GetSize(1));
  for (IndexValue y = image.GetIndex(1); y < end; y += static_cast<IndexValue>(lines))
  {
    RegionType strip = image;
    strip.SetIndex(1, y);
    strip.SetSize(1, std::min<itk::SizeValueType>(lines, static_cast<itk::SizeValueType>(end - y)));
    input->SetRequestedRegion(strip);
    input->PropagateRequestedRegion();
    input->UpdateOutputData();
    const InputPixel* pixels = input->GetBufferPointer();
    for (size_t k = 0; k < input->GetBufferedRegion().GetNumberOfPixels(); ++k)
    {
      if (!this->IsInvalid(pixels + k * bands, bands))
      {
        return true;
      }
    }
  }
  return false;
}

} // namespace otb

#endif
