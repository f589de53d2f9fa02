/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowModel_h
#define otbTensorflowModel_h

#include "otbFrozenGraph.h"
#include "otbTensorflowLibrary.h"

#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace otb
{

/** \class TensorflowTensorInfo
 * \brief An input or output of a signature: what the caller calls it, the graph's tensor, its type and shape.
 * \ingroup OTBSuperResolutionTools
 */
struct TensorflowTensorInfo
{
  std::string key;    ///< name in the signature
  std::string tensor; ///< name in the graph, "operation:index"
  tf::DataType type = tf::Float;
  bool unknownRank = false;
  std::vector<int64_t> shape; ///< -1 for dimensions that are not fixed
};

/** \class TensorflowSignature
 * \brief The inputs and outputs of one function of a SavedModel, by name.
 * \ingroup OTBSuperResolutionTools
 */
struct TensorflowSignature
{
  std::map<std::string, TensorflowTensorInfo> inputs;
  std::map<std::string, TensorflowTensorInfo> outputs;
};

/** \class TensorflowSaver
 * \brief The operations of a graph that write and read checkpoints; all empty if it has none.
 * \ingroup OTBSuperResolutionTools
 */
struct TensorflowSaver
{
  std::string fileName;         ///< tensor that takes the checkpoint's prefix
  std::string saveOperation;    ///< tensor or operation
  std::string restoreOperation; ///< operation
};

/** Reads the saver out of a serialized MetaGraphDef. \throws TensorflowError if it is malformed. */
TensorflowSaver ReadTensorflowSaver(const void* data, size_t length);

/** Reads the signatures out of a serialized MetaGraphDef (protobuf's wire format). \throws TensorflowError if it is malformed. */
std::map<std::string, TensorflowSignature> ReadTensorflowSignatures(const void* data, size_t length);

/** A serialized ConfigProto; `threads` 0 leaves the choice to TensorFlow. */
std::string WriteTensorflowConfiguration(unsigned int threads);

/** \class TensorflowModel
 * \brief A SavedModel: its signature, and Run.
 *
 * Run, GetInput and GetOutput may be called from several threads at once.
 *
 * \ingroup OTBSuperResolutionTools
 */
class TensorflowModel
{
public:
  using TensorPointer = std::shared_ptr<tf::Tensor>;

  /** What a model is loaded for: to be run and changed as it is, or to be frozen (call Freeze before Run, which else is slow). */
  enum class Use
  {
    AsItIs,
    Frozen
  };

  /** Load a SavedModel.
   * \param folder the folder with saved_model.pb
   * \param tags of the meta-graph; empty: {"serve"}
   * \param signature its name; empty: "serving_default", or the only one there is
   * \param threads that TensorFlow may use; 0: all
   * \throws TensorflowError */
  explicit TensorflowModel(const std::string& folder, std::vector<std::string> tags = {}, const std::string& signature = "",
                           unsigned int threads = 0, Use use = Use::AsItIs);

  /** The same in a thread of its own, to be frozen. */
  static std::future<std::shared_ptr<TensorflowModel>> LoadAside(const std::string& folder, const std::string& signature,
                                                                 unsigned int threads);
  ~TensorflowModel();
  TensorflowModel(const TensorflowModel&) = delete;
  TensorflowModel& operator=(const TensorflowModel&) = delete;

  const TensorflowSignature& GetSignature() const
  {
    return m_Signature;
  }

  /** The signature "NAME_phases" of a model whose last step makes a coarse picture's channels the pixels of a fine one (depth to space),
   * without that step: same inputs, and an output of the same key for each whose channels are ordered (row phase, column phase, band).
   * Who copies the pixels anyway saves that step by it. It may leave out an equal border all around, which the signature computes with
   * padding. Null if the SavedModel has none. */
  const TensorflowSignature* GetPhases() const
  {
    return m_Phases.outputs.empty() ? nullptr : &m_Phases;
  }

  /** The input or output of that name, where a name is, in this order: the signature's key; the part before ':' of one key; a key with
   * ":0" after it; the graph's name of one of the signature's tensors; any operation of the graph ("name" or "name:output"). Empty: the
   * first key in alphabetical order. The reference stays valid as long as the model.
   * \throws TensorflowError that lists the keys there are, or those that the name fits. */
  const TensorflowTensorInfo& GetInput(const std::string& name) const;
  const TensorflowTensorInfo& GetOutput(const std::string& name) const;

  /** Keys in alphabetical order. */
  std::vector<std::string> GetInputKeys() const;
  std::vector<std::string> GetOutputKeys() const;

  TensorPointer NewTensor(tf::DataType type, const std::vector<int64_t>& shape) const;
  void* GetData(const TensorPointer& tensor) const;
  tf::DataType GetType(const TensorPointer& tensor) const;

  std::vector<int64_t> GetShape(const TensorPointer& tensor) const;

  struct Feed
  {
    const TensorflowTensorInfo* input;
    TensorPointer tensor;
  };

  /** Evaluate the outputs, and run the targets: operations of the graph by their names (what a training step updates).
   * \throws TensorflowError with TensorFlow's message. */
  std::vector<TensorPointer> Run(const std::vector<Feed>& feeds, const std::vector<const TensorflowTensorInfo*>& outputs,
                                 const std::vector<std::string>& targets = {}) const;

  /** Make the variables constants, for which TensorFlow has faster kernels, and forget all that the given tensors (fed or asked for) do
   * not need: others can then neither be fed nor asked for. Not while the model runs.
   * \return why it stays as it is (FrozenGraph); empty if it is frozen \throws TensorflowError if it then cannot be loaded again */
  std::string Freeze(const std::vector<const TensorflowTensorInfo*>& kept);

  /** Check that the graph has an operation of that name. \throws TensorflowError */
  void RequireOperation(const std::string& name) const;

  /** Write the variables as a checkpoint: files "prefix.index" and "prefix.data-...". They are complete once they have these names.
   * \throws TensorflowError if the model has no saver, or the files cannot be written. */
  void Save(const std::string& prefix) const;

  /** Read the variables from a checkpoint. \throws TensorflowError if the model has no saver, or the checkpoint is not its own. */
  void Restore(const std::string& prefix);

private:
  tf::Output Find(const TensorflowTensorInfo& info) const;
  tf::Operation* FindOperation(const std::string& name) const;
  const TensorflowTensorInfo& FindByName(const std::map<std::string, TensorflowTensorInfo>& infos, const std::string& name,
                                         const char* kind) const;
  const TensorflowTensorInfo* FindInGraph(const std::string& name) const;
  void RunSaver(const std::string& prefix, const std::string& operation) const;
  std::map<std::string, TensorPointer> ReadVariables(const std::map<std::string, FrozenGraph::Variable>& variables) const;
  void Load(const std::string& configuration);
  void Unload();
  void SetSession(tf::Session* session, tf::Graph* graph);
  tf::Session* NewSession(tf::Graph* graph) const;
  std::string TryToFreeze(const std::vector<const TensorflowTensorInfo*>& kept);
  void Replace(const std::string& graphDef);
  std::vector<TensorPointer> RunSession(const std::vector<tf::Output>& inputs, const std::vector<tf::Tensor*>& values,
                                        const std::vector<tf::Output>& outputs, const std::vector<const tf::Operation*>& targets,
                                        const std::string& doing) const;

  const TensorflowLibrary& m_Library;
  std::string m_Folder;
  std::vector<std::string> m_Tags;
  std::string m_Configuration; ///< of sessions, serialized
  Use m_Use;
  tf::Buffer* m_MetaGraph = nullptr;
  tf::Graph* m_Graph = nullptr;
  tf::Session* m_Session = nullptr;
  TensorflowSignature m_Signature;
  TensorflowSignature m_Phases;
  TensorflowSaver m_Saver;
  mutable std::mutex m_Mutex;
  mutable std::map<std::string, TensorflowTensorInfo> m_GraphTensors; ///< tensors outside the signature that were asked for
};

} // namespace otb

#endif
