/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowModel_h
#define otbTensorflowModel_h

#include "otbTensorflowLibrary.h"

#include <map>
#include <memory>
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

/** Reads the signatures out of a serialized MetaGraphDef (protobuf's wire format). \throws TensorflowError if it is malformed. */
std::map<std::string, TensorflowSignature> ReadTensorflowSignatures(const void* data, size_t length);

/** A serialized ConfigProto; `threads` 0 leaves the choice to TensorFlow. */
std::string WriteTensorflowConfiguration(unsigned int threads);

/** \class TensorflowModel
 * \brief A SavedModel: its signature, and Run.
 *
 * Run may be called from several threads at once.
 *
 * \ingroup OTBSuperResolutionTools
 */
class TensorflowModel
{
public:
  using TensorPointer = std::shared_ptr<tf::Tensor>;

  /** Load a SavedModel.
   * \param folder the folder with saved_model.pb
   * \param tags of the meta-graph; empty: {"serve"}
   * \param signature its name; empty: "serving_default", or the only one there is
   * \param threads that TensorFlow may use; 0: all
   * \throws TensorflowError */
  explicit TensorflowModel(const std::string& folder, std::vector<std::string> tags = {}, const std::string& signature = "",
                           unsigned int threads = 0);
  ~TensorflowModel();
  TensorflowModel(const TensorflowModel&) = delete;
  TensorflowModel& operator=(const TensorflowModel&) = delete;

  const TensorflowSignature& GetSignature() const
  {
    return m_Signature;
  }

  /** The input or output of that name: the signature's key, or its part before ':'. Empty: the first key in alphabetical order.
   * \throws TensorflowError that lists the names there are. */
  const TensorflowTensorInfo& GetInput(const std::string& name) const;
  const TensorflowTensorInfo& GetOutput(const std::string& name) const;

  TensorPointer NewTensor(tf::DataType type, const std::vector<int64_t>& shape) const;
  void* GetData(const TensorPointer& tensor) const;
  tf::DataType GetType(const TensorPointer& tensor) const;

  std::vector<int64_t> GetShape(const TensorPointer& tensor) const;

  struct Feed
  {
    const TensorflowTensorInfo* input;
    TensorPointer tensor;
  };

  /** Evaluate the outputs. \throws TensorflowError with TensorFlow's message. */
  std::vector<TensorPointer> Run(const std::vector<Feed>& feeds, const std::vector<const TensorflowTensorInfo*>& outputs) const;

private:
  tf::Output Find(const TensorflowTensorInfo& info) const;

  const TensorflowLibrary& m_Library;
  std::string m_Folder;
  tf::Graph* m_Graph = nullptr;
  tf::Session* m_Session = nullptr;
  TensorflowSignature m_Signature;
};

} // namespace otb

#endif
