/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowTraining_h
#define otbTensorflowTraining_h

#include "otbConfusionMatrix.h"
#include "otbTensorflowModel.h"
#include "otbTrainingPatches.h"

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace otb
{

/** \class TensorflowBatches
 * \brief Runs a model over the patches of several sources, batch by batch: a training epoch if there are targets, inference otherwise.
 *
 * Every patch is in exactly one batch; the last batch takes the rest. A batch is prepared while the one before runs.
 *
 * \ingroup OTBSuperResolutionTools
 */
class TensorflowBatches
{
public:
  using PatchesPointer = std::shared_ptr<const TrainingPatches>;

  /** Gets the patches' numbers and the outputs of each batch. */
  using Visitor = std::function<void(const size_t* patches, size_t count, const std::vector<TensorflowModel::TensorPointer>& outputs)>;

  /** \param name for messages ("training") */
  TensorflowBatches(std::shared_ptr<const TensorflowModel> model, size_t batchSize, const std::string& name);

  /** Patches for an input of the model. \throws std::runtime_error if the numbers of patches differ, the patches do not fit the input, or
   * it is fed already. */
  void AddSource(const std::string& input, const PatchesPointer& patches);

  /** An input that is the same in every batch, as "name=value". */
  void AddConstant(const std::string& expression);
  void AddOutput(const std::string& name);
  /** An operation of the graph to run in each batch. */
  void AddTarget(const std::string& operation);

  size_t GetNumberOfPatches() const
  {
    return m_Count;
  }
  /** Patches in a batch but the last one. */
  size_t GetBatchSize() const;
  size_t GetNumberOfBatches() const;
  const TensorflowModel& GetModel() const
  {
    return *m_Model;
  }
  const std::vector<const TensorflowTensorInfo*>& GetOutputs() const
  {
    return m_Outputs;
  }

  /** \param order the patches' numbers; empty: as they are stored. \throws TensorflowError, or what reading throws */
  void Run(std::vector<size_t> order, const Visitor& visit) const;

private:
  struct Source
  {
    const TensorflowTensorInfo* input;
    PatchesPointer patches;
  };
  std::vector<TensorflowModel::Feed> Prepare(const size_t* patches, size_t count) const;
  void RequireUnfed(const TensorflowTensorInfo& input) const;

  std::shared_ptr<const TensorflowModel> m_Model;
  size_t m_BatchSize;
  std::string m_Name;
  size_t m_Count = 0;
  std::vector<Source> m_Sources;
  std::vector<TensorflowModel::Feed> m_Constants;
  std::vector<const TensorflowTensorInfo*> m_Outputs;
  std::vector<std::string> m_Targets;
};

/** The numbers 0 to count - 1 in random order: the same with every compiler. */
std::vector<size_t> ShuffledOrder(size_t count, std::mt19937_64& engine);

/** One pass over all patches in that order. \return the mean of each output (NaN for one that has no numbers).
 * \throws TensorflowError if an output of one value (a loss) is not finite. */
std::vector<double> TrainEpoch(const TensorflowBatches& batches, const std::vector<size_t>& order);

/** The classes that each output gives, against the first band of the reference of the same position.
 * \throws std::runtime_error if they do not have one value a pixel of the reference, or these are not integers. */
std::vector<ConfusionMatrix> CompareClasses(const TensorflowBatches& batches,
                                            const std::vector<TensorflowBatches::PatchesPointer>& references);

/** Root mean square difference of each output from the reference of the same position, over all pixels and bands.
 * \throws std::runtime_error if they differ in size */
std::vector<double> CompareValues(const TensorflowBatches& batches, const std::vector<TensorflowBatches::PatchesPointer>& references);

} // namespace otb

#endif
