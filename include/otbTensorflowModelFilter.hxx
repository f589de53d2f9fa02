/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowModelFilter_hxx
#define otbTensorflowModelFilter_hxx

#include "otbTensorflowModelFilter.h"

#include "otbTensorflowTensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>

namespace otb
{
namespace tensorflow_model_filter
{
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

/** Whether a pixel has the value that means "no data": NaN is NaN, and a value that came through a float32 parameter is compared as one. */
template <class TPixel>
inline bool IsNoData(TPixel pixel, double noData)
{
  if (pixel == static_cast<TPixel>(noData) || (pixel != pixel && noData != noData))
  {
    return true;
  }
  return std::is_same<TPixel, double>::value && std::abs(noData) < 16777216 && static_cast<float>(pixel) == static_cast<float>(noData);
}

inline std::string ShapeText(const std::vector<int64_t>& shape)
{
  std::string text;
  for (const int64_t length : shape)
  {
    text += (text.empty() ? "" : " x ") + (length < 0 ? std::string("?") : std::to_string(length));
  }
  return shape.empty() ? "a scalar" : shape.size() == 1 ? "a vector of " + text : text;
}

inline size_t NumberOfValues(const std::vector<int64_t>& shape)
{
  size_t values = 1;
  for (const int64_t length : shape)
  {
    values *= static_cast<size_t>(length);
  }
  return values;
}

/** First and last index that are read for `count` indices from `first` on, mirrored into [start, start + size[. */
inline std::pair<itk::IndexValueType, itk::IndexValueType> MirroredRange(itk::IndexValueType first, itk::IndexValueType count,
                                                                         itk::IndexValueType start, itk::IndexValueType size)
{
  if (first >= start && first + count <= start + size)
  {
    return {first, first + count - 1};
  }
  itk::IndexValueType low = size, high = 0;
  for (itk::IndexValueType k = 0; k < std::min(count, 2 * size); ++k)
  {
    for (const auto index : {first + k, first + count - 1 - k})
    {
      const auto mirrored = ServingGrid::Mirror(index - start, size);
      low = std::min(low, mirrored);
      high = std::max(high, mirrored);
    }
  }
  return {start + low, start + high};
}
} // namespace tensorflow_model_filter

template <class TOutputImage>
TensorflowModelFilter<TOutputImage>::~TensorflowModelFilter()
{
  this->FinishPrefetch();
}

template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::FinishPrefetch()
{
  for (const auto& job : m_Jobs)
  {
    job.prepared.wait();
    if (job.done.valid())
    {
      job.done.wait();
    }
  }
  m_Jobs.clear();
}

template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::SetModel(std::shared_ptr<const TensorflowModel> model, const std::vector<std::string>& outputs)
{
  m_Model = model;
  m_ModelOutputs.clear();
  m_OutputBands.clear();
  m_Phases = 0;
  for (const auto& name : outputs.empty() ? std::vector<std::string>{""} : outputs)
  {
    m_ModelOutputs.push_back(&model->GetOutput(name));
  }
  this->Modified();
}

template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::AddSource(const ImageStack& images, const TensorflowTensorInfo& input,
                                                    const PairType& receptiveField, const std::vector<double>& noData)
{
  m_Sources.push_back({images, &input, receptiveField, noData});
  for (const auto& image : images.GetImages())
  {
    this->SetNthInput(m_NumberOfImages++, image.GetPointer());
  }
}

template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::SetSampling(double scale, const PairType& expressionField, ServingGrid::Mode mode)
{
  m_Scale = scale;
  m_ExpressionField = expressionField;
  m_Mode = mode;
  this->Modified();
}

// 0 if the signature does not tell.
template <class TOutputImage>
unsigned int TensorflowModelFilter<TOutputImage>::DeclaredBands(const TensorflowTensorInfo& output) const
{
  if (output.unknownRank)
  {
    return 0;
  }
  switch (output.shape.size())
  {
  case 1:
  case 3:
    return 1;
  case 2:
  case 4:
    return output.shape.back() > 0 ? static_cast<unsigned int>(output.shape.back()) : 0;
  default:
    throw TensorflowError("output \"" + output.key + "\" of the model is " + tensorflow_model_filter::ShapeText(output.shape) +
                          ", but an image needs batch x rows x columns x bands (or fewer dimensions); choose another output");
  }
}

// Runs the model on one small block of zeros, for the number of bands of outputs that do not declare it.
template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::Probe()
{
  const bool patches = m_Mode == ServingGrid::Mode::Patches;
  RegionType aligned;
  for (unsigned int k = 0; k < 2; ++k)
  {
    aligned.SetIndex(k, m_Grid.GetAnchor()[k]);
    aligned.SetSize(k, static_cast<itk::SizeValueType>(patches ? 1 : m_FixedSize[k] > 0 ? m_FixedSize[k] : m_Grid.GetStep()[k]));
    while (!patches && m_FixedSize[k] == 0 && aligned.GetSize(k) < 16) // some models refuse tiny inputs
    {
      aligned.SetSize(k, aligned.GetSize(k) + static_cast<itk::SizeValueType>(m_Grid.GetStep()[k]));
    }
  }
  auto feeds = m_Constants;
  for (size_t i = 0; i < m_Sources.size(); ++i)
  {
    RegionType fed;
    if (patches)
    {
      fed.SetSize(0, static_cast<itk::SizeValueType>(m_Sources[i].receptiveField[0]));
      fed.SetSize(1, static_cast<itk::SizeValueType>(m_Sources[i].receptiveField[1]));
    }
    else
    {
      fed = m_Grid.Fed(i, aligned);
    }
    const auto type = m_Sources[i].input->type;
    const auto tensor = m_Model->NewTensor(
        type, {1, static_cast<int64_t>(fed.GetSize(1)), static_cast<int64_t>(fed.GetSize(0)), m_Sources[i].images.GetNumberOfBands()});
    std::memset(m_Model->GetData(tensor), 0, fed.GetNumberOfPixels() * m_Sources[i].images.GetNumberOfBands() * tf::SizeOf(type));
    feeds.push_back({m_Sources[i].input, tensor});
  }
  const auto results = this->RunModel(feeds, false);
  for (size_t t = 0; t < results.size(); ++t)
  {
    const auto shape = m_Model->GetShape(results[t]);
    if (m_OutputBands[t] == 0)
    {
      TensorflowTensorInfo given = *m_ModelOutputs[t];
      given.unknownRank = false;
      given.shape = shape;
      m_OutputBands[t] = this->DeclaredBands(given);
    }
    if (m_OutputBands[t] == 0)
    {
      throw TensorflowError("output \"" + m_ModelOutputs[t]->key + "\" of the model has no bands: it is " +
                            tensorflow_model_filter::ShapeText(shape) + "; choose another output");
    }
  }
}

// Whether the model can leave its last step, depth to space, to Convert, which copies all pixels anyway.
template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::FindPhases()
{
  m_Phases = 0;
  m_PhasesFit = true;
  const auto* phases = m_Model->GetPhases();
  const auto& signature = m_Model->GetSignature();
  if (phases == nullptr || m_Mode != ServingGrid::Mode::FullyConvolutional || m_ModelOutputs.size() != 1 || m_Truncate)
  {
    return;
  }
  const auto& fine = *m_ModelOutputs[0];
  const auto served = signature.outputs.find(fine.key), coarse = phases->outputs.find(fine.key);
  if (served == signature.outputs.end() || served->second.tensor != fine.tensor || coarse == phases->outputs.end() ||
      coarse->second.type != fine.type || coarse->second.unknownRank || coarse->second.shape.size() != 4)
  {
    return;
  }
  std::vector<const TensorflowTensorInfo*> inputs;
  std::transform(m_Sources.begin(), m_Sources.end(), std::back_inserter(inputs), [](const auto& source) { return source.input; });
  std::transform(m_Constants.begin(), m_Constants.end(), std::back_inserter(inputs), [](const auto& feed) { return feed.input; });
  for (const auto* input : inputs)
  {
    const auto here = signature.inputs.find(input->key), there = phases->inputs.find(input->key);
    if (here == signature.inputs.end() || here->second.tensor != input->tensor || there == phases->inputs.end() ||
        there->second.type != input->type)
    {
      return;
    }
  }
  const auto channels = static_cast<size_t>(std::max<int64_t>(0, coarse->second.shape[3]));
  for (size_t factor = 2; factor * factor * m_OutputBands[0] <= channels; ++factor)
  {
    m_Phases = factor * factor * m_OutputBands[0] == channels ? factor : 0;
  }
}

template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::GenerateOutputInformation()
{
  Superclass::GenerateOutputInformation();
  this->FinishPrefetch();
  m_Kept.Clear();
  m_StreamSize.Fill(0);

  std::vector<ServingGrid::Source> sources;
  for (const auto& source : m_Sources)
  {
    sources.push_back({source.images.GetGrid(), source.receptiveField});
  }
  m_Grid = ServingGrid(sources, m_Scale, m_ExpressionField, m_Mode);
  TOutputImage* output = this->GetOutput();
  m_Grid.GetOutput().ApplyTo(output);

  const bool patches = m_Mode == ServingGrid::Mode::Patches;
  m_FixedSize.fill(0);
  size_t bytesOfPatch = 0;
  for (size_t i = 0; i < m_Sources.size(); ++i)
  {
    const auto& source = m_Sources[i];
    const auto& input = *source.input;
    const std::string name = "source " + std::to_string(i + 1);
    const auto bands = source.images.GetNumberOfBands();
    if (!input.unknownRank && input.shape.size() != 4)
    {
      throw TensorflowError("input \"" + input.key + "\" of the model is " + tensorflow_model_filter::ShapeText(input.shape) + ", but " +
                            name + " is fed as batch x rows x columns x bands; name the image's input (source" + std::to_string(i + 1) +
                            ".placeholder), or give this one a value (model.userplaceholders)");
    }
    if (!input.unknownRank && input.shape[3] > 0 && input.shape[3] != static_cast<int64_t>(bands))
    {
      throw TensorflowError(name + " has " + std::to_string(bands) + " bands, but the model's input \"" + input.key + "\" takes " +
                            std::to_string(input.shape[3]));
    }
    bytesOfPatch += static_cast<size_t>(source.receptiveField[0] * source.receptiveField[1]) * bands * tf::SizeOf(input.type);
    for (unsigned int k = 0; k < 2 && !input.unknownRank; ++k)
    {
      const auto fixed = static_cast<IndexValue>(input.shape[2 - k]);
      if (fixed <= 0)
      {
        continue;
      }
      const IndexValue size = patches ? fixed == source.receptiveField[k] : m_Grid.AlignedSizeFor(i, k, fixed);
      if (size == 0 || (m_FixedSize[k] != 0 && m_FixedSize[k] != size))
      {
        throw TensorflowError("input \"" + input.key + "\" of the model has the fixed " + (k == 0 ? "width " : "height ") +
                              std::to_string(fixed) + ", which does not go with receptive field " +
                              std::to_string(source.receptiveField[k]) + ", expression field " + std::to_string(m_ExpressionField[k]) +
                              " and the spacing scale; check " + (patches ? "the receptive field" : "them"));
      }
      m_FixedSize[k] = patches ? 0 : size;
    }
  }

  const auto largest = output->GetLargestPossibleRegion();
  for (unsigned int k = 0; k < 2; ++k)
  {
    const IndexValue step = m_Grid.GetStep()[k];
    const IndexValue wanted = m_BlockSize[k] > 0 ? m_BlockSize[k] : static_cast<IndexValue>(largest.GetSize(k));
    m_Block[k] = m_FixedSize[k] > 0 ? m_FixedSize[k] : (wanted + step - 1) / step * step;
  }
  if (patches)
  {
    // a block is one batch
    const auto most = static_cast<IndexValue>(std::max<size_t>(1, LargestBatch / bytesOfPatch));
    const auto side = std::max<IndexValue>(1, static_cast<IndexValue>(std::sqrt(static_cast<double>(most))));
    m_Block[0] = std::min(m_Block[0], std::max(side, most / std::max<IndexValue>(1, m_Block[1])));
    m_Block[1] = std::min(m_Block[1], std::max<IndexValue>(1, most / m_Block[0]));
  }

  if (m_OutputBands.empty())
  {
    for (const auto* info : m_ModelOutputs)
    {
      m_OutputBands.push_back(this->DeclaredBands(*info));
    }
    if (std::find(m_OutputBands.begin(), m_OutputBands.end(), 0u) != m_OutputBands.end())
    {
      this->Probe();
    }
  }
  this->FindPhases();
  unsigned int bands = 0;
  for (const unsigned int count : m_OutputBands)
  {
    bands += count;
  }
  output->SetNumberOfComponentsPerPixel(bands);

  auto metadata = output->GetImageMetadata();
  for (unsigned int k = 0; k < 2; ++k)
  {
    metadata.Add(k == 0 ? MDNum::TileHintX : MDNum::TileHintY, static_cast<double>(m_WritingHint[k] > 0 ? m_WritingHint[k] : m_Block[k]));
  }
  output->SetImageMetadata(metadata);
}

// The filter pulls its input when it computes a block: nothing to ask for beforehand. OTB's writers estimate memory from what is asked of
// the sources: not much, as far as they are concerned.
template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::PropagateRequestedRegion(itk::DataObject*)
{
  if (!m_Jobs.empty())
  {
    return; // another thread has the pipeline before this filter
  }
  for (const auto& source : m_Sources)
  {
    for (const auto& image : source.images.GetImages())
    {
      auto region = image->GetLargestPossibleRegion();
      region.SetSize(0, 1);
      region.SetSize(1, 1);
      image->SetRequestedRegion(region);
      image->PropagateRequestedRegion();
    }
  }
}

template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::UpdateOutputData(itk::DataObject*)
{
  std::string failure;
  try
  {
    this->PrepareOutputs();
    this->InvokeEvent(itk::StartEvent());
    this->UpdateProgress(0.0f);
    this->GenerateData();
    this->UpdateProgress(1.0f);
    this->InvokeEvent(itk::EndEvent());
    this->GetOutput()->DataHasBeenGenerated();
    return;
  }
  catch (const itk::ProcessAborted&)
  {
    throw;
  }
  catch (const itk::ExceptionObject& error)
  {
    failure = error.GetDescription();
    if (!m_FailureHandler)
    {
      throw;
    }
  }
  catch (const std::exception& error)
  {
    failure = error.what();
    if (!m_FailureHandler)
    {
      throw;
    }
  }
  this->FinishPrefetch();
  m_FailureHandler(failure);
  itkExceptionMacro(<< failure);
}

template <class TOutputImage>
template <class TPixel>
bool TensorflowModelFilter<TOutputImage>::IsInvalid(const Source& source, const TPixel* pixel) const
{
  const size_t bands = source.images.GetNumberOfBands(), last = source.noData.empty() ? 0 : source.noData.size() - 1;
  if (m_Rule == InvalidRule::AllBands)
  {
    bool all = !source.noData.empty();
    for (size_t band = 0; all && band < bands; ++band)
    {
      all = tensorflow_model_filter::IsNoData(pixel[band], source.noData[std::min(band, last)]);
    }
    return all;
  }
  for (size_t band = 0; band < bands; ++band)
  {
    if (!std::isfinite(pixel[band]))
    {
      return true;
    }
    if (!source.noData.empty() && tensorflow_model_filter::IsNoData(pixel[band], source.noData[std::min(band, last)]))
    {
      return true;
    }
  }
  return false;
}

// The pixels of the view, invalid ones replaced by the mean of the valid ones around them; false if there are none. Sums run in a fixed
// order over a window that is cropped at the image only, so that the value does not depend on the block.
template <class TOutputImage>
template <class TPixel>
bool TensorflowModelFilter<TOutputImage>::FillInvalid(const Source& source, const ImageStack::View<TPixel>& view,
                                                      std::vector<TPixel>& filled) const
{
  const size_t bands = source.images.GetNumberOfBands();
  const auto width = static_cast<IndexValue>(view.region.GetSize(0)), height = static_cast<IndexValue>(view.region.GetSize(1));
  const auto count = static_cast<size_t>(width * height);
  std::vector<unsigned char> invalid(count);
  bool any = false;
  for (size_t k = 0; k < count; ++k)
  {
    invalid[k] = this->IsInvalid(source, view.pixels + k * bands) ? 1 : 0;
    any = any || invalid[k] != 0;
  }
  if (!any)
  {
    return false;
  }
  filled.assign(view.pixels, view.pixels + count * bands);
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
          for (size_t band = 0; invalid[offset] == 0 && band < bands; ++band)
          {
            sum[band] += static_cast<double>(view.pixels[offset * bands + band]);
          }
        }
        valid += here;
      }
      for (size_t band = 0; band < bands; ++band)
      {
        filled[static_cast<size_t>(y * width + x) * bands + band] =
            static_cast<TPixel>(valid > 0 ? sum[band] / static_cast<double>(valid) : 0.0);
      }
    }
  }
  return true;
}

// Adds the output pixels that this source makes invalid.
template <class TOutputImage>
template <class TPixel>
void TensorflowModelFilter<TOutputImage>::MarkInvalid(size_t number, const ImageStack::View<TPixel>& view, Prepared& prepared) const
{
  const Source& source = m_Sources[number];
  const auto columns = m_Grid.Under(number, 0, prepared.region), rows = m_Grid.Under(number, 1, prepared.region);
  const IndexValue left = columns.front().first, right = columns.back().second;
  const size_t width = columns.size(), bands = source.images.GetNumberOfBands();
  std::vector<unsigned char> flags(static_cast<size_t>(right - left) * static_cast<size_t>(rows.back().second - rows.front().first));
  bool any = false;
  size_t k = 0;
  for (IndexValue v = rows.front().first; v < rows.back().second; ++v)
  {
    const TPixel* pixel = view.pixels + (static_cast<size_t>(v - view.region.GetIndex(1)) * view.region.GetSize(0) +
                                         static_cast<size_t>(left - view.region.GetIndex(0))) *
                                            bands;
    for (IndexValue u = left; u < right; ++u, ++k, pixel += bands)
    {
      flags[k] = this->IsInvalid(source, pixel) ? 1 : 0;
      any = any || flags[k] != 0;
    }
  }
  if (!any)
  {
    return;
  }
  prepared.invalid.resize(prepared.region.GetNumberOfPixels(), 0);
  const bool anyIsEnough = m_Rule == InvalidRule::AnyBand;
  for (size_t y = 0; y < rows.size(); ++y)
  {
    unsigned char* line = &prepared.invalid[y * width];
    for (size_t x = 0; x < width; ++x)
    {
      bool some = false, all = true;
      for (IndexValue v = rows[y].first; v < rows[y].second; ++v)
      {
        const size_t row = static_cast<size_t>(v - rows.front().first) * static_cast<size_t>(right - left);
        for (IndexValue u = columns[x].first; u < columns[x].second; ++u)
        {
          const bool flag = flags[row + static_cast<size_t>(u - left)] != 0;
          some = some || flag;
          all = all && flag;
        }
      }
      line[x] = line[x] != 0 || (anyIsEnough ? some : all) ? 1 : 0;
    }
  }
}

// Rows of the region `fed`, which may leave the image, mirrored at the image's edges, in the type of the model's input.
template <class TOutputImage>
template <class TPixel>
void TensorflowModelFilter<TOutputImage>::CopyMirrored(const Source& source, const ImageStack::View<TPixel>& view, const RegionType& fed,
                                                       void* values) const
{
  const auto& image = source.images.GetGrid().GetRegion();
  const size_t bands = source.images.GetNumberOfBands();
  const auto type = source.input->type;
  const size_t bytes = bands * tf::SizeOf(type);
  const auto inside = [&](unsigned int k, IndexValue index)
  {
    return image.GetIndex(k) + ServingGrid::Mirror(index - image.GetIndex(k), static_cast<IndexValue>(image.GetSize(k))) -
           view.region.GetIndex(k);
  };
  // columns that follow one another in the source are copied at once
  struct Stretch
  {
    size_t from, to, count;
  };
  std::vector<Stretch> stretches;
  for (IndexValue x = 0; x < static_cast<IndexValue>(fed.GetSize(0)); ++x)
  {
    const auto column = static_cast<size_t>(inside(0, fed.GetIndex(0) + x));
    if (!stretches.empty() && stretches.back().from + stretches.back().count == column)
    {
      ++stretches.back().count;
    }
    else
    {
      stretches.push_back({column, static_cast<size_t>(x), 1});
    }
  }
  char* row = static_cast<char*>(values);
  for (IndexValue y = 0; y < static_cast<IndexValue>(fed.GetSize(1)); ++y, row += fed.GetSize(0) * bytes)
  {
    const TPixel* line = view.pixels + static_cast<size_t>(inside(1, fed.GetIndex(1) + y)) * view.region.GetSize(0) * bands;
    for (const auto& stretch : stretches)
    {
      if (std::is_same<TPixel, float>::value && type == tf::Float)
      {
        std::memcpy(row + stretch.to * bytes, line + stretch.from * bands, stretch.count * bytes);
      }
      else
      {
        tensorflow_tensor::FromPixels(type, line + stretch.from * bands, row + stretch.to * bytes, stretch.count * bands);
      }
    }
  }
}

template <class TOutputImage>
template <class TPixel>
void TensorflowModelFilter<TOutputImage>::PrepareSource(size_t number, Prepared& prepared) const
{
  const Source& source = m_Sources[number];
  const auto& image = source.images.GetGrid().GetRegion();
  const bool patches = m_Mode == ServingGrid::Mode::Patches;
  const bool masks = m_Rule == InvalidRule::AnyBand || !source.noData.empty();

  std::array<std::vector<IndexValue>, 2> starts;
  RegionType fed;
  if (patches)
  {
    for (unsigned int k = 0; k < 2; ++k)
    {
      starts[k] = m_Grid.PatchStarts(number, k, prepared.region);
      fed.SetIndex(k, starts[k].front());
      fed.SetSize(k, static_cast<itk::SizeValueType>(starts[k].back() - starts[k].front() + source.receptiveField[k]));
    }
  }
  else
  {
    fed = m_Grid.Fed(number, prepared.aligned);
  }

  RegionType needed;
  for (unsigned int k = 0; k < 2; ++k)
  {
    const IndexValue start = image.GetIndex(k), size = static_cast<IndexValue>(image.GetSize(k));
    auto range = tensorflow_model_filter::MirroredRange(fed.GetIndex(k), static_cast<IndexValue>(fed.GetSize(k)), start, size);
    if (masks)
    {
      const auto under = m_Grid.Under(number, k, prepared.region);
      range.first = std::min(range.first, under.front().first);
      range.second = std::max(range.second, under.back().second - 1);
    }
    if (m_Rule == InvalidRule::AnyBand)
    {
      range.first = std::max(range.first - FillRadius, start);
      range.second = std::min(range.second + FillRadius, start + size - 1);
    }
    needed.SetIndex(k, range.first);
    needed.SetSize(k, static_cast<itk::SizeValueType>(range.second - range.first + 1));
  }

  std::vector<TPixel> storage, filled;
  auto view = source.images.Read(needed, storage);
  if (masks)
  {
    this->MarkInvalid(number, view, prepared);
  }
  if (m_Rule == InvalidRule::AnyBand && this->FillInvalid(source, view, filled))
  {
    view.pixels = filled.data();
  }

  const auto type = source.input->type;
  const auto bands = source.images.GetNumberOfBands();
  const int64_t fieldWidth = source.receptiveField[0], fieldHeight = source.receptiveField[1];
  if (!patches)
  {
    const auto tensor = m_Model->NewTensor(type, {1, static_cast<int64_t>(fed.GetSize(1)), static_cast<int64_t>(fed.GetSize(0)), bands});
    this->CopyMirrored(source, view, fed, m_Model->GetData(tensor));
    prepared.feeds.push_back({source.input, tensor});
    return;
  }
  const auto tensor = m_Model->NewTensor(type, {static_cast<int64_t>(prepared.region.GetNumberOfPixels()), fieldHeight, fieldWidth, bands});
  auto* to = static_cast<char*>(m_Model->GetData(tensor));
  const size_t bytes = bands * tf::SizeOf(type), width = fed.GetSize(0);
  if (fieldWidth == 1 && fieldHeight == 1 && fed.GetNumberOfPixels() == prepared.region.GetNumberOfPixels())
  {
    this->CopyMirrored(source, view, fed, to); // one pixel each, one after the other
  }
  else
  {
    std::vector<char> values(fed.GetNumberOfPixels() * bytes);
    this->CopyMirrored(source, view, fed, values.data());
    const size_t length = static_cast<size_t>(fieldWidth) * bytes;
    for (const IndexValue top : starts[1])
    {
      for (const IndexValue left : starts[0])
      {
        const char* from =
            values.data() + (static_cast<size_t>(top - fed.GetIndex(1)) * width + static_cast<size_t>(left - fed.GetIndex(0))) * bytes;
        for (int64_t row = 0; row < fieldHeight; ++row, to += length, from += width * bytes)
        {
          std::memcpy(to, from, length);
        }
      }
    }
  }
  prepared.feeds.push_back({source.input, tensor});
}

template <class TOutputImage>
auto TensorflowModelFilter<TOutputImage>::Prepare(const RegionType& region) const -> std::shared_ptr<Prepared>
{
  auto prepared = std::make_shared<Prepared>();
  prepared->region = region;
  prepared->aligned = m_Grid.Aligned(region);
  for (unsigned int k = 0; k < 2; ++k)
  {
    if (m_FixedSize[k] > 0)
    {
      prepared->aligned.SetSize(k, static_cast<itk::SizeValueType>(m_FixedSize[k]));
    }
  }
  for (size_t i = 0; i < m_Sources.size(); ++i)
  {
    m_Sources[i].images.IsWide() ? this->template PrepareSource<double>(i, *prepared) : this->template PrepareSource<float>(i, *prepared);
    const auto& invalid = prepared->invalid;
    if (!invalid.empty() && std::find(invalid.begin(), invalid.end(), 0) == invalid.end())
    {
      prepared->feeds.clear();
      return prepared;
    }
  }
  return prepared;
}

template <class TOutputImage>
auto TensorflowModelFilter<TOutputImage>::Run(const Prepared& prepared) const -> ResultPointer
{
  auto result = std::make_shared<Result>();
  result->region = prepared.region;
  result->invalid = prepared.invalid;
  if (prepared.feeds.empty())
  {
    return result;
  }
  auto feeds = m_Constants;
  feeds.insert(feeds.end(), prepared.feeds.begin(), prepared.feeds.end());
  ++m_Runs;
  const auto run = [&](size_t phases)
  {
    result->phases = phases;
    result->tensors = this->RunModel(feeds, phases > 0);
    result->layouts.clear();
    for (size_t t = 0; t < result->tensors.size(); ++t)
    {
      auto shape = m_Model->GetShape(result->tensors[t]);
      if (phases > 0 && shape.size() == 4 && shape[3] == static_cast<int64_t>(phases * phases * m_OutputBands[t]))
      {
        shape = {shape[0], shape[1] * static_cast<int64_t>(phases), shape[2] * static_cast<int64_t>(phases), m_OutputBands[t]};
      }
      result->layouts.push_back(this->LayOut(t, shape, prepared.aligned, prepared.region));
    }
  };
  if (m_Phases > 0 && m_PhasesFit)
  {
    try
    {
      run(m_Phases);
      return result;
    }
    catch (const TensorflowError&)
    {
      m_PhasesFit = false; // they may leave out more of the border than these fields have
    }
  }
  run(0);
  return result;
}

template <class TOutputImage>
auto TensorflowModelFilter<TOutputImage>::RunModel(const std::vector<TensorflowModel::Feed>& feeds, bool phases) const
    -> std::vector<TensorflowModel::TensorPointer>
{
  try
  {
    if (!phases)
    {
      return m_Model->Run(feeds, m_ModelOutputs);
    }
    auto same = feeds;
    for (auto& feed : same)
    {
      feed.input = &m_Model->GetPhases()->inputs.at(feed.input->key);
    }
    return m_Model->Run(same, {&m_Model->GetPhases()->outputs.at(m_ModelOutputs[0]->key)});
  }
  catch (const TensorflowError& error)
  {
    std::string missing;
    for (const auto& entry : m_Model->GetSignature().inputs)
    {
      const auto& tensor = entry.second.tensor;
      if (std::none_of(feeds.begin(), feeds.end(), [&](const auto& feed) { return feed.input->tensor == tensor; }))
      {
        missing += (missing.empty() ? "\"" : ", \"") + entry.first + "\"";
      }
    }
    if (missing.empty() || std::string(error.what()).find("must feed") == std::string::npos)
    {
      throw;
    }
    throw TensorflowError("the model's input " + missing + " is fed by no source and no user placeholder; check OTB_TF_NSOURCES, the " +
                          "sources' placeholders and model.userplaceholders (" + error.what() + ")");
  }
}

// Where the pixels of a block are in an output of the model.
template <class TOutputImage>
auto TensorflowModelFilter<TOutputImage>::LayOut(size_t output, const std::vector<int64_t>& shape, const RegionType& aligned,
                                                 const RegionType& region) const -> Layout
{
  const size_t bands = m_OutputBands[output], values = tensorflow_model_filter::NumberOfValues(shape);
  const std::string name = "output \"" + m_ModelOutputs[output]->key + "\" of the model is " + tensorflow_model_filter::ShapeText(shape);
  const size_t dimensions = shape.size();
  const bool isPicture = (dimensions == 3 || dimensions == 4) && shape[0] == 1;
  if (dimensions == 2 || dimensions == 4 ? shape.back() != static_cast<int64_t>(bands) : bands != 1)
  {
    throw TensorflowError(name + ", but its signature says " + std::to_string(bands) +
                          " bands; check the bands of the images, or export the model again");
  }
  Layout layout;
  if (m_Mode == ServingGrid::Mode::Patches)
  {
    const size_t pixels = region.GetNumberOfPixels();
    if (values != pixels * bands || shape.empty() || shape[0] != static_cast<int64_t>(pixels))
    {
      throw TensorflowError(name + " for " + std::to_string(pixels) + " patches, but it must give one pixel of " + std::to_string(bands) +
                            " bands for each; check the receptive field, or set model.fullyconv on");
    }
    layout.columns = region.GetSize(0);
    return layout;
  }

  std::array<IndexValue, 2> given{{-1, -1}}, skip;
  if (isPicture)
  {
    given = {{static_cast<IndexValue>(shape[2]), static_cast<IndexValue>(shape[1])}};
  }
  else if (values == aligned.GetNumberOfPixels() * bands && dimensions <= 2)
  {
    given = {{static_cast<IndexValue>(aligned.GetSize(0)), static_cast<IndexValue>(aligned.GetSize(1))}};
  }
  const auto fed = m_Grid.Fed(0, aligned);
  for (unsigned int k = 0; k < 2; ++k)
  {
    const auto wanted = static_cast<IndexValue>(aligned.GetSize(k));
    const IndexValue whole = m_Grid.Covered(static_cast<IndexValue>(fed.GetSize(k)));
    const IndexValue lead = m_Grid.Lead(k);
    if (given[k] == wanted)
    {
      skip[k] = 0;
    }
    else if (lead >= 0 && whole >= given[k] && (whole - given[k]) % 2 == 0 &&
             (whole - given[k]) / 2 <= std::min(lead, whole - wanted - lead))
    {
      skip[k] = lead - (whole - given[k]) / 2; // the model gives all that it was fed, or removed as much on either side
    }
    else
    {
      throw TensorflowError(name + " for a " + (k == 0 ? "width" : "height") + " of " + std::to_string(fed.GetSize(k)) +
                            " input pixels, but it must give " + (whole > wanted ? std::to_string(whole) + " or (without margins) " : "") +
                            std::to_string(wanted) + " output pixels and " + std::to_string(bands) +
                            " bands; check the receptive field, the expression field and the spacing scale or factor");
    }
    skip[k] += region.GetIndex(k) - aligned.GetIndex(k);
  }
  layout.columns = static_cast<size_t>(given[0]);
  layout.skipColumns = static_cast<size_t>(skip[0]);
  layout.skipRows = static_cast<size_t>(skip[1]);
  return layout;
}

// The block on its way; its input is prepared from now on, after that of the blocks before.
template <class TOutputImage>
auto TensorflowModelFilter<TOutputImage>::JobOf(const RegionType& region) -> Job&
{
  const auto known = std::find_if(m_Jobs.begin(), m_Jobs.end(), [&](const Job& job) { return job.region == region; });
  if (known != m_Jobs.end())
  {
    return *known;
  }
  Job job;
  job.region = region;
  auto before = m_Jobs.empty() ? std::shared_future<std::shared_ptr<Prepared>>() : m_Jobs.back().prepared;
  job.prepared = std::async(std::launch::async,
                            [this, region, before]() mutable
                            {
                              if (before.valid())
                              {
                                before.wait(); // the sources are read by one thread at a time
                              }
                              before = {}; // or each block would keep the one before it
                              return this->Prepare(region);
                            })
                     .share();
  m_Jobs.push_back(job);
  return m_Jobs.back();
}

template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::StartRun(Job& job)
{
  if (!job.done.valid())
  {
    job.done = std::async(std::launch::async,
                          [this, mine = job.prepared]() mutable
                          {
                            const auto prepared = mine.get();
                            mine = {};
                            return this->Run(*prepared);
                          })
                   .share();
  }
}

// What the model made of the block, from the threads that ran it. While the caller converts and writes it, the model is run on the next
// ones, and the one after them is read.
template <class TOutputImage>
auto TensorflowModelFilter<TOutputImage>::Obtain(const RegionType& region) -> ResultPointer
{
  if (!m_Prefetch)
  {
    return this->Run(*this->Prepare(region));
  }
  if (!m_Jobs.empty() && m_Jobs.front().region != region)
  {
    this->FinishPrefetch(); // the prediction was wrong
  }
  const auto lookAhead = [this](size_t runs)
  {
    for (size_t k = 0; k < std::min(m_Upcoming.size(), runs + 1); ++k)
    {
      auto& job = this->JobOf(m_Upcoming[k]);
      if (k < runs)
      {
        this->StartRun(job);
      }
    }
  };
  this->StartRun(this->JobOf(region));
  lookAhead(m_ConcurrentRuns - 1);
  const auto done = m_Jobs.front().done;
  done.wait();
  m_Jobs.pop_front();
  lookAhead(m_ConcurrentRuns);
  return done.get();
}

// The blocks of the grid over the output that a request touches, cropped to what will be asked for.
template <class TOutputImage>
auto TensorflowModelFilter<TOutputImage>::Blocks(const RegionType& request) const -> std::vector<RegionType>
{
  if (m_BlockSize[0] <= 0 && m_BlockSize[1] <= 0 && m_Mode == ServingGrid::Mode::FullyConvolutional && m_FixedSize[0] <= 0 &&
      m_FixedSize[1] <= 0)
  {
    return {request};
  }
  RegionType whole = this->GetOutput()->GetLargestPossibleRegion();
  if (m_RegionOfInterest.GetNumberOfPixels() > 0 && m_RegionOfInterest.IsInside(request))
  {
    whole.Crop(m_RegionOfInterest);
  }
  std::array<IndexValue, 2> first, end;
  for (unsigned int k = 0; k < 2; ++k)
  {
    first[k] = ServingGrid::FloorTo(request.GetIndex(k), m_Grid.GetAnchor()[k], m_Block[k]);
    end[k] = request.GetIndex(k) + static_cast<IndexValue>(request.GetSize(k));
  }
  std::vector<RegionType> blocks;
  for (IndexValue y = first[1]; y < end[1]; y += m_Block[1])
  {
    for (IndexValue x = first[0]; x < end[0]; x += m_Block[0])
    {
      RegionType block;
      block.SetIndex(0, x);
      block.SetIndex(1, y);
      block.SetSize(0, static_cast<itk::SizeValueType>(m_Block[0]));
      block.SetSize(1, static_cast<itk::SizeValueType>(m_Block[1]));
      if (m_FixedSize[0] == 0 && m_FixedSize[1] == 0)
      {
        block.Crop(whole);
      }
      else
      {
        block.Crop(this->GetOutput()->GetLargestPossibleRegion());
      }
      blocks.push_back(block);
    }
  }
  return blocks;
}

template <class TOutputImage>
bool TensorflowModelFilter<TOutputImage>::PredictNext(const RegionType& current, RegionType& next)
{
  auto whole = this->GetOutput()->GetLargestPossibleRegion();
  if (m_RegionOfInterest.GetNumberOfPixels() > 0 && m_RegionOfInterest.IsInside(current))
  {
    whole = m_RegionOfInterest;
  }
  if (current.GetIndex() == whole.GetIndex() || m_StreamSize[0] == 0)
  {
    m_StreamSize = current.GetSize();
  }
  next = current;
  next.SetSize(m_StreamSize);
  next.SetIndex(0, current.GetIndex(0) + static_cast<IndexValue>(current.GetSize(0)));
  if (next.GetIndex(0) >= whole.GetIndex(0) + static_cast<IndexValue>(whole.GetSize(0)))
  {
    next.SetIndex(0, whole.GetIndex(0));
    next.SetIndex(1, current.GetIndex(1) + static_cast<IndexValue>(current.GetSize(1)));
  }
  return next.Crop(whole);
}

template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::GenerateData()
{
  TOutputImage* output = this->GetOutput();
  const RegionType request = output->GetRequestedRegion();
  output->SetBufferedRegion(request);
  output->Allocate();

  if (request.GetIndex() == output->GetLargestPossibleRegion().GetIndex())
  {
    m_Kept.Clear(); // from the beginning
  }
  const auto blocks = this->Blocks(request);
  m_Upcoming.clear();
  std::copy_if(blocks.begin(), blocks.end(), std::back_inserter(m_Upcoming),
               [this](const RegionType& block) { return !m_Kept.Has(block); });
  // some blocks ahead; requests that kept blocks answer are passed over, or the model would wait while strips are written
  const size_t mine = m_Upcoming.size();
  RegionType last = request, next;
  for (unsigned int tries = 0;
       m_Prefetch && tries < MostRequestsAhead && m_Upcoming.size() < mine + 1 + m_ConcurrentRuns && this->PredictNext(last, next); ++tries)
  {
    for (const auto& block : this->Blocks(next))
    {
      const bool isKnown = m_Kept.Has(block) || std::find(blocks.begin(), blocks.end(), block) != blocks.end() ||
                           std::find(m_Upcoming.begin(), m_Upcoming.end(), block) != m_Upcoming.end();
      if (!isKnown && m_Upcoming.size() < mine + 1 + m_ConcurrentRuns)
      {
        m_Upcoming.push_back(block);
      }
    }
    last = next;
  }
  size_t number = 0;
  for (const auto& block : blocks)
  {
    if (!m_Upcoming.empty() && m_Upcoming.front() == block)
    {
      m_Upcoming.pop_front();
    }
    this->Give(block, request);
    this->UpdateProgress(static_cast<float>(++number) / static_cast<float>(blocks.size()));
  }
}

// Copies what is asked for of a block into the output.
template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::Give(const RegionType& region, const RegionType& request)
{
  TOutputImage* output = this->GetOutput();
  const size_t bands = output->GetNumberOfComponentsPerPixel();
  RegionType part = region;
  part.Crop(request);
  OutputPixel* to = output->GetBufferPointer() + (static_cast<size_t>(part.GetIndex(1) - request.GetIndex(1)) * request.GetSize(0) +
                                                  static_cast<size_t>(part.GetIndex(0) - request.GetIndex(0))) *
                                                     bands;
  char* start = reinterpret_cast<char*>(to);
  const size_t bytesPerPixel = bands * sizeof(OutputPixel), stride = request.GetSize(0) * bytesPerPixel;
  if (!m_Kept.Has(region))
  {
    const auto result = this->Obtain(region);
    if (part == region)
    {
      return this->Convert(*result, to, request.GetSize(0) * bands);
    }
    std::vector<char> pixels(region.GetNumberOfPixels() * bytesPerPixel);
    this->Convert(*result, reinterpret_cast<OutputPixel*>(pixels.data()), region.GetSize(0) * bands);
    // a writer that goes down does not ask again for what is above
    if (!m_Kept.Keep(region, request.GetIndex(1), pixels))
    {
      return KeptBlocks::CopyPart(pixels.data(), region, part, bytesPerPixel, start, stride);
    }
  }
  m_Kept.Give(region, part, start, stride);
}

// What the model has made of a block, in the output's type, in rows that are `stride` values apart. No tensors: nothing in the block is
// valid.
template <class TOutputImage>
void TensorflowModelFilter<TOutputImage>::Convert(const Result& block, OutputPixel* to, size_t stride) const
{
  const auto bands = static_cast<size_t>(this->GetOutput()->GetNumberOfComponentsPerPixel());
  const size_t width = block.region.GetSize(0), height = block.region.GetSize(1);
  const auto noData = tensorflow_tensor::Convert<OutputPixel>(m_OutputNoData);
  const OutputPixel instead = tensorflow_model_filter::NextTo(noData);
  const bool avoid = m_OutputNoDataReserved && std::isfinite(m_OutputNoData);
  std::vector<double> wide;
  for (size_t y = 0, end = 0; y < height; y = end)
  {
    end = y + 1;
    size_t firstBand = 0;
    for (size_t t = 0; t < block.tensors.size(); ++t)
    {
      const size_t tensorBands = m_OutputBands[t];
      const auto type = m_Model->GetType(block.tensors[t]);
      const auto& layout = block.layouts[t];
      const auto* data = static_cast<const char*>(m_Model->GetData(block.tensors[t]));
      const bool truncates = m_Truncate && std::is_integral<OutputPixel>::value &&
                             (type == tf::Float || type == tf::Double || type == tf::Half || type == tf::BFloat16);
      OutputPixel* row = to + y * stride + firstBand;
      const size_t line = layout.skipRows + y;
      const char* from = data + (line * layout.columns + layout.skipColumns) * tensorBands * tf::SizeOf(type);
      if (block.phases > 0)
      {
        // all rows of a line of coarse pixels at once, so that its values are read in their order
        const size_t phase = line % block.phases, coarse = line / block.phases * layout.columns * block.phases * tensorBands;
        end = std::min(height, y + block.phases - phase);
        tensorflow_tensor::ToPixelsOfPhases(type, data + coarse * tf::SizeOf(type), row, stride, {phase, end - y},
                                            {layout.skipColumns, width}, block.phases, tensorBands, noData);
      }
      else if (truncates)
      {
        wide.resize(width * tensorBands);
        tensorflow_tensor::ToPixels(type, from, wide.data(), wide.size());
        std::transform(wide.begin(), wide.end(), wide.begin(), [](double value) { return std::trunc(value); });
        tensorflow_tensor::ToPixels(tf::Double, wide.data(), row, width, tensorBands, bands, noData);
      }
      else
      {
        tensorflow_tensor::ToPixels(type, from, row, width, tensorBands, bands, noData);
      }
      firstBand += tensorBands;
    }
    for (; y < end; ++y)
    {
      OutputPixel* row = to + y * stride;
      if (block.tensors.empty())
      {
        std::fill_n(row, width * bands, noData);
        continue;
      }
      for (size_t k = 0; avoid && k < width * bands; ++k)
      {
        row[k] = row[k] == noData ? instead : row[k];
      }
      const unsigned char* invalid = block.invalid.empty() ? nullptr : &block.invalid[y * width];
      for (size_t x = 0; invalid != nullptr && x < width; ++x)
      {
        if (invalid[x] != 0)
        {
          std::fill_n(row + x * bands, bands, noData);
        }
      }
    }
  }
}

template <class TOutputImage>
template <class TPixel>
bool TensorflowModelFilter<TOutputImage>::HasValidPixel(const Source& source, itk::SizeValueType pixels) const
{
  const auto& image = source.images.GetGrid().GetRegion();
  const auto lines = std::max<itk::SizeValueType>(16, pixels / std::max<itk::SizeValueType>(1, image.GetSize(0)));
  const unsigned int bands = source.images.GetNumberOfBands();
  const auto end = image.GetIndex(1) + static_cast<IndexValue>(image.GetSize(1));
  std::vector<TPixel> storage;
  for (IndexValue y = image.GetIndex(1); y < end; y += static_cast<IndexValue>(lines))
  {
    RegionType strip = image;
    strip.SetIndex(1, y);
    strip.SetSize(1, std::min<itk::SizeValueType>(lines, static_cast<itk::SizeValueType>(end - y)));
    const auto view = source.images.Read(strip, storage);
    for (size_t k = 0; k < view.region.GetNumberOfPixels(); ++k)
    {
      if (!this->IsInvalid(source, view.pixels + k * bands))
      {
        return true;
      }
    }
  }
  return false;
}

template <class TOutputImage>
bool TensorflowModelFilter<TOutputImage>::HasValidPixel(itk::SizeValueType pixels)
{
  this->FinishPrefetch();
  return std::all_of(m_Sources.begin(), m_Sources.end(),
                     [&](const Source& source)
                     {
                       return source.images.IsWide() ? this->template HasValidPixel<double>(source, pixels)
                                                     : this->template HasValidPixel<float>(source, pixels);
                     });
}

} // namespace otb

#endif
