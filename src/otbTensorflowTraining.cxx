/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbTensorflowTraining.h"
#include "otbTensorflowPlaceholder.h"
#include "otbTensorflowTensor.h"

#include <algorithm>
#include <cmath>
#include <future>
#include <limits>
#include <numeric>
#include <sstream>

namespace otb
{
namespace
{
/** All values of a tensor. */
std::vector<double> ValuesOf(const TensorflowModel& model, const TensorflowModel::TensorPointer& tensor)
{
  size_t count = 1;
  for (const int64_t size : model.GetShape(tensor))
  {
    count *= static_cast<size_t>(size);
  }
  std::vector<double> values(count);
  tensorflow_tensor::ToPixels(model.GetType(tensor), model.GetData(tensor), values.data(), count);
  return values;
}

/** Calls `compare(output, reference values, output values, values of a reference pixel)` for each batch and output. */
template <class TCompare>
void Compare(const TensorflowBatches& batches, const std::vector<TensorflowBatches::PatchesPointer>& references, bool firstBandOnly,
             TCompare compare)
{
  const auto& model = batches.GetModel();
  for (const auto& reference : references)
  {
    if (reference->GetNumberOfPatches() != batches.GetNumberOfPatches())
    {
      throw std::runtime_error(reference->GetName() + ": " + std::to_string(reference->GetNumberOfPatches()) +
                               " patches, but the model's inputs have " + std::to_string(batches.GetNumberOfPatches()));
    }
  }
  const auto visit = [&](const size_t* patches, size_t count, const std::vector<TensorflowModel::TensorPointer>& outputs)
  {
    for (size_t k = 0; k < outputs.size(); ++k)
    {
      const auto& reference = *references[k];
      const auto predicted = ValuesOf(model, outputs[k]);
      std::vector<double> expected(count * reference.GetNumberOfPixels() * reference.GetBands());
      reference.Read(patches, count, tf::Double, expected.data());
      const size_t needed = count * reference.GetNumberOfPixels() * (firstBandOnly ? 1 : reference.GetBands());
      if (predicted.size() != needed)
      {
        throw std::runtime_error("output \"" + batches.GetOutputs()[k]->key + "\" of the model has " + std::to_string(predicted.size()) +
                                 " values for " + std::to_string(count) + " patches, but " + reference.GetName() + " has " +
                                 std::to_string(needed) + (firstBandOnly ? " pixels" : " values") + "; give an output with one value for " +
                                 (firstBandOnly ? "the class of each pixel" : "each value of the reference"));
      }
      compare(k, expected, predicted, reference.GetBands());
    }
  };
  batches.Run({}, visit);
}

int ClassOf(double value, const std::string& where)
{
  if (!(std::abs(value) <= std::numeric_limits<int>::max()) || value != std::round(value))
  {
    std::ostringstream text;
    text << where << " holds " << value << ", but classes are integers of 32 bits; check the name, or use validation.mode rmse";
    throw std::runtime_error(text.str());
  }
  return static_cast<int>(value);
}
} // namespace

TensorflowBatches::TensorflowBatches(std::shared_ptr<const TensorflowModel> model, size_t batchSize, const std::string& name)
    : m_Model(std::move(model)), m_BatchSize(batchSize), m_Name(name)
{
}

void TensorflowBatches::RequireUnfed(const TensorflowTensorInfo& input) const
{
  const auto isSame = [&](const TensorflowTensorInfo* other)
  {
    return other->tensor == input.tensor;
  };
  if (std::any_of(m_Sources.begin(), m_Sources.end(), [&](const Source& source) { return isSame(source.input); }) ||
      std::any_of(m_Constants.begin(), m_Constants.end(), [&](const TensorflowModel::Feed& feed) { return isSame(feed.input); }))
  {
    throw std::runtime_error(m_Name + ": the model's input \"" + input.key +
                             "\" is given twice; check the sources' placeholders and the "
                             "user placeholders");
  }
}

void TensorflowBatches::AddSource(const std::string& name, const PatchesPointer& patches)
{
  const auto& input = m_Model->GetInput(name);
  this->RequireUnfed(input);
  patches->ShapeFor(input, 1);
  const size_t count = patches->GetNumberOfPatches();
  if (!m_Sources.empty() && count != m_Count)
  {
    throw std::runtime_error(patches->GetName() + ": " + std::to_string(count) + " patches, but " + m_Sources.front().patches->GetName() +
                             " has " + std::to_string(m_Count) + "; all sources need the same number");
  }
  m_Count = count;
  m_Sources.push_back({&input, patches});
}

void TensorflowBatches::AddConstant(const std::string& expression)
{
  const auto feed = ReadUserPlaceholder(*m_Model, expression);
  this->RequireUnfed(*feed.input);
  m_Constants.push_back(feed);
}

void TensorflowBatches::AddOutput(const std::string& name)
{
  m_Outputs.push_back(&m_Model->GetOutput(name));
}

void TensorflowBatches::AddTarget(const std::string& operation)
{
  m_Model->RequireOperation(operation);
  m_Targets.push_back(operation);
}

size_t TensorflowBatches::GetBatchSize() const
{
  return std::min(m_BatchSize, m_Count);
}

size_t TensorflowBatches::GetNumberOfBatches() const
{
  return m_Count == 0 ? 0 : (m_Count + this->GetBatchSize() - 1) / this->GetBatchSize();
}

std::vector<TensorflowModel::Feed> TensorflowBatches::Prepare(const size_t* patches, size_t count) const
{
  auto feeds = m_Constants;
  for (const auto& source : m_Sources)
  {
    const auto tensor = m_Model->NewTensor(source.input->type, source.patches->ShapeFor(*source.input, count));
    source.patches->Read(patches, count, source.input->type, m_Model->GetData(tensor));
    feeds.push_back({source.input, tensor});
  }
  return feeds;
}

void TensorflowBatches::Run(std::vector<size_t> order, const Visitor& visit) const
{
  const size_t size = this->GetBatchSize();
  for (const auto& source : m_Sources)
  {
    const auto& shape = source.input->shape;
    const int64_t fixed = source.input->unknownRank || shape.empty() ? -1 : shape[0];
    if (fixed >= 0 && (fixed != static_cast<int64_t>(size) || m_Count % size != 0))
    {
      throw std::runtime_error(m_Name + ": the model's input \"" + source.input->key + "\" takes exactly " + std::to_string(fixed) +
                               " patches, but there are " + std::to_string(m_Count) + " in batches of " + std::to_string(size) +
                               "; export the model with an unknown first dimension, or give that batch size and a multiple of it");
    }
  }
  if (order.empty())
  {
    order.resize(m_Count);
    std::iota(order.begin(), order.end(), size_t(0));
  }
  const auto prepare = [&](size_t begin)
  {
    return std::async(std::launch::async,
                      [this, &order, begin, count = std::min(size, order.size() - begin)] { return this->Prepare(&order[begin], count); });
  };
  std::future<std::vector<TensorflowModel::Feed>> next;
  for (size_t begin = 0; begin < order.size(); begin += size)
  {
    const auto feeds = begin == 0 ? prepare(0).get() : next.get();
    if (begin + size < order.size())
    {
      next = prepare(begin + size);
    }
    visit(&order[begin], std::min(size, order.size() - begin), m_Model->Run(feeds, m_Outputs, m_Targets));
  }
}

std::vector<size_t> ShuffledOrder(size_t count, std::mt19937_64& engine)
{
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t(0));
  for (size_t k = count; k > 1; --k) // std::shuffle differs between standard libraries
  {
    std::swap(order[k - 1], order[engine() % k]);
  }
  return order;
}

std::vector<double> TrainEpoch(const TensorflowBatches& batches, const std::vector<size_t>& order)
{
  const auto& model = batches.GetModel();
  std::vector<double> means(batches.GetOutputs().size(), 0);
  size_t batch = 0;
  batches.Run(order,
              [&](const size_t*, size_t count, const std::vector<TensorflowModel::TensorPointer>& outputs)
              {
                ++batch;
                for (size_t k = 0; k < outputs.size(); ++k)
                {
                  if (tf::SizeOf(model.GetType(outputs[k])) == 0)
                  {
                    means[k] = std::numeric_limits<double>::quiet_NaN(); // a summary, for instance
                    continue;
                  }
                  const auto values = ValuesOf(model, outputs[k]);
                  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
                  if (values.size() == 1 && !std::isfinite(sum))
                  {
                    throw TensorflowError("output \"" + batches.GetOutputs()[k]->key + "\" is " + std::to_string(sum) + " in batch " +
                                          std::to_string(batch) + " of " + std::to_string(batches.GetNumberOfBatches()) +
                                          ": the training diverges; lower the learning rate, or look for NaN and no-data in the patches");
                  }
                  means[k] += sum / static_cast<double>(values.size()) * static_cast<double>(count) /
                              static_cast<double>(batches.GetNumberOfPatches());
                }
              });
  return means;
}

std::vector<ConfusionMatrix> CompareClasses(const TensorflowBatches& batches,
                                            const std::vector<TensorflowBatches::PatchesPointer>& references)
{
  std::vector<ConfusionMatrix> matrices(references.size());
  Compare(batches, references, true,
          [&](size_t output, const std::vector<double>& expected, const std::vector<double>& predicted, size_t bands)
          {
            for (size_t k = 0; k < predicted.size(); ++k)
            {
              matrices[output].Add(ClassOf(expected[k * bands], references[output]->GetName()),
                                   ClassOf(predicted[k], "output \"" + batches.GetOutputs()[output]->key + "\" of the model"));
            }
          });
  return matrices;
}

std::vector<double> CompareValues(const TensorflowBatches& batches, const std::vector<TensorflowBatches::PatchesPointer>& references)
{
  std::vector<double> sums(references.size(), 0);
  std::vector<size_t> counts(references.size(), 0);
  Compare(batches, references, false,
          [&](size_t output, const std::vector<double>& expected, const std::vector<double>& predicted, size_t)
          {
            for (size_t k = 0; k < predicted.size(); ++k)
            {
              sums[output] += (predicted[k] - expected[k]) * (predicted[k] - expected[k]);
            }
            counts[output] += predicted.size();
          });
  for (size_t k = 0; k < sums.size(); ++k)
  {
    sums[k] = std::sqrt(sums[k] / static_cast<double>(counts[k]));
  }
  return sums;
}

} // namespace otb
