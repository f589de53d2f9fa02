/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbTensorflowModel.h"

#include "otbWireMessage.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
#endif

namespace otb
{
namespace
{
// Field numbers: tensorflow/core/protobuf/meta_graph.proto and tensorflow/core/framework/tensor_shape.proto.
void ReadShape(WireMessage message, TensorflowTensorInfo& info)
{
  for (const auto& field : message)
  {
    if (field.number == 2) // dim
    {
      int64_t size = 0;
      for (const auto& inner : field.Message())
      {
        if (inner.number == 1)
        {
          size = static_cast<int64_t>(inner.value);
        }
      }
      info.shape.push_back(size);
    }
    else if (field.number == 3)
    {
      info.unknownRank = field.value != 0;
    }
  }
}

TensorflowTensorInfo ReadTensorInfo(const std::string& key, WireMessage message)
{
  TensorflowTensorInfo info;
  info.key = key;
  for (const auto& field : message)
  {
    if (field.number == 1)
    {
      info.tensor = field.Text();
    }
    else if (field.number == 2)
    {
      info.type = static_cast<tf::DataType>(field.value);
    }
    else if (field.number == 3)
    {
      ReadShape(field.Message(), info);
    }
  }
  return info;
}

class Status
{
public:
  explicit Status(const TensorflowLibrary& library) : m_Library(library), m_Status(library.NewStatus())
  {
  }
  ~Status()
  {
    m_Library.DeleteStatus(m_Status);
  }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;

  tf::Status* Get() const
  {
    return m_Status;
  }
  bool IsOk() const
  {
    return m_Library.GetCode(m_Status) == 0;
  }
  /** TensorFlow's message, on one line. */
  std::string Message() const
  {
    std::string text = m_Library.Message(m_Status);
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text.substr(0, 600);
  }

private:
  const TensorflowLibrary& m_Library;
  tf::Status* m_Status;
};

std::string Join(const std::vector<std::string>& words)
{
  std::string text;
  for (const auto& word : words)
  {
    text += (text.empty() ? "" : ", ") + word;
  }
  return text;
}

std::vector<std::string> KeysOf(const std::map<std::string, TensorflowTensorInfo>& infos)
{
  std::vector<std::string> keys;
  for (const auto& info : infos)
  {
    keys.push_back(info.first);
  }
  return keys;
}

/** A graph's name of a tensor, "operation:output", in its parts. */
std::pair<std::string, int> SplitTensorName(const std::string& name)
{
  const auto colon = name.rfind(':');
  const std::string digits = colon == std::string::npos ? "0" : name.substr(colon + 1);
  const bool isIndex = !digits.empty() && digits.size() < 6 && digits.find_first_not_of("0123456789") == std::string::npos;
  return isIndex ? std::make_pair(name.substr(0, colon), std::stoi(digits)) : std::make_pair(std::string(), 0);
}
} // namespace

std::map<std::string, TensorflowSignature> ReadTensorflowSignatures(const void* data, size_t length)
{
  std::map<std::string, TensorflowSignature> signatures;
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (const auto& field : WireMessage(bytes, bytes + length))
  {
    if (field.number != 5) // signature_def
    {
      continue;
    }
    auto entry = field.Message().MapEntry();
    auto& signature = signatures[entry.first];
    for (const auto& inner : entry.second)
    {
      if (inner.number == 1 || inner.number == 2)
      {
        const auto tensor = inner.Message().MapEntry();
        (inner.number == 1 ? signature.inputs : signature.outputs)[tensor.first] = ReadTensorInfo(tensor.first, tensor.second);
      }
    }
  }
  return signatures;
}

TensorflowSaver ReadTensorflowSaver(const void* data, size_t length)
{
  TensorflowSaver saver;
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (const auto& field : WireMessage(bytes, bytes + length))
  {
    if (field.number != 3) // saver_def
    {
      continue;
    }
    for (const auto& inner : field.Message())
    {
      if (inner.number >= 1 && inner.number <= 3)
      {
        (inner.number == 1 ? saver.fileName : inner.number == 2 ? saver.saveOperation : saver.restoreOperation) = inner.Text();
      }
    }
  }
  return saver;
}

std::string WriteTensorflowConfiguration(unsigned int threads)
{
  // tensorflow/core/protobuf/config.proto: intra_op_parallelism_threads = 2, inter_op_parallelism_threads = 5, allow_soft_placement = 7,
  // gpu_options = 6 { allow_growth = 4 }
  std::string bytes;
  if (threads > 0)
  {
    AppendField(bytes, 2, threads);
    AppendField(bytes, 5, threads);
  }
  AppendField(bytes, 7, 1);
  std::string gpu;
  AppendField(gpu, 4, 1);
  AppendField(bytes, 6, gpu);
  return bytes;
}

namespace
{
/** More of a ConfigProto: graph_options = 10 { rewrite_options = 10 { disable_meta_optimizer = 19 } }. */
std::string WriteWithoutOptimisation()
{
  std::string rewriting, graph, bytes;
  AppendField(rewriting, 19, 1);
  AppendField(graph, 10, rewriting);
  AppendField(bytes, 10, graph);
  return bytes;
}

/** A new tensor, deleted with its last pointer. TensorFlow gives the memory of a deleted tensor to a new one: ThreadSanitizer, which does
 * not see its locks, is told that these are in order. */
TensorflowModel::TensorPointer Owned(const TensorflowLibrary& library, tf::Tensor* tensor)
{
#if defined(__SANITIZE_THREAD__)
  auto* const order = const_cast<TensorflowLibrary*>(&library);
  __tsan_acquire(order);
  return TensorflowModel::TensorPointer(tensor,
                                        [order](tf::Tensor* old)
                                        {
                                          __tsan_release(order);
                                          order->DeleteTensor(old);
                                        });
#else
  return TensorflowModel::TensorPointer(tensor, library.DeleteTensor);
#endif
}
} // namespace

std::future<std::shared_ptr<TensorflowModel>> TensorflowModel::LoadAside(const std::string& folder, const std::string& signature,
                                                                         unsigned int threads)
{
  TensorflowLibrary::PrepareEnvironment();
  return std::async(std::launch::async, [folder, signature, threads]
                    { return std::make_shared<TensorflowModel>(folder, std::vector<std::string>(), signature, threads, Use::Frozen); });
}

TensorflowModel::TensorflowModel(const std::string& folder, std::vector<std::string> tags, const std::string& signature,
                                 unsigned int threads, Use use)
    : m_Library(TensorflowLibrary::Get()),
      m_Folder(folder),
      m_Tags(tags.empty() ? std::vector<std::string>{"serve"} : std::move(tags)),
      m_Configuration(WriteTensorflowConfiguration(threads)),
      m_Use(use)
{
  if (!std::ifstream(folder + "/saved_model.pb"))
  {
    throw TensorflowError(folder + ": holds no saved_model.pb; give the folder of a TensorFlow SavedModel");
  }
  this->Load(use == Use::Frozen ? m_Configuration + WriteWithoutOptimisation() : m_Configuration);
  std::map<std::string, TensorflowSignature> signatures;
  std::string error;
  try
  {
    signatures = ReadTensorflowSignatures(m_MetaGraph->data, m_MetaGraph->length);
    m_Saver = ReadTensorflowSaver(m_MetaGraph->data, m_MetaGraph->length);
  }
  catch (const TensorflowError& damaged)
  {
    error = folder + ": " + damaged.what();
  }
  signatures.erase("__saved_model_init_op");

  std::string name = signature.empty() ? "serving_default" : signature;
  if (signature.empty() && signatures.count(name) == 0 && signatures.size() == 1)
  {
    name = signatures.begin()->first;
  }
  if (error.empty() && signatures.count(name) == 0)
  {
    std::vector<std::string> names;
    for (const auto& other : signatures)
    {
      names.push_back(other.first);
    }
    error = folder + ": the SavedModel has no signature \"" + name + "\"; it has: " + (names.empty() ? "none" : Join(names));
  }
  if (!error.empty())
  {
    this->Unload();
    throw TensorflowError(error);
  }
  m_Signature = signatures[name];
  m_Phases = signatures[name + "_phases"];
}

TensorflowModel::~TensorflowModel()
{
  this->Unload();
}

// The SavedModel in place of what was loaded before, if anything.
void TensorflowModel::Load(const std::string& configuration)
{
  std::vector<const char*> tags;
  std::transform(m_Tags.begin(), m_Tags.end(), std::back_inserter(tags), [](const std::string& tag) { return tag.c_str(); });
  this->Unload();
  Status status(m_Library);
  auto* options = m_Library.NewSessionOptions();
  m_MetaGraph = m_Library.NewBuffer();
  m_Graph = m_Library.NewGraph();
  m_Library.SetConfig(options, configuration.data(), configuration.size(), status.Get());
  if (status.IsOk())
  {
    m_Session = m_Library.LoadSessionFromSavedModel(options, nullptr, m_Folder.c_str(), tags.data(), static_cast<int>(tags.size()), m_Graph,
                                                    m_MetaGraph, status.Get());
  }
  m_Library.DeleteSessionOptions(options);
  if (!status.IsOk())
  {
    const auto message = status.Message();
    this->Unload();
    throw TensorflowError(m_Folder + ": TensorFlow " + m_Library.Version() + " cannot load this SavedModel (tags " + Join(m_Tags) +
                          "): " + message);
  }
}

void TensorflowModel::Unload()
{
  this->SetSession(nullptr, nullptr);
  if (m_MetaGraph != nullptr)
  {
    m_Library.DeleteBuffer(m_MetaGraph);
    m_MetaGraph = nullptr;
  }
}

void TensorflowModel::SetSession(tf::Session* session, tf::Graph* graph)
{
  if (m_Session != nullptr)
  {
    Status status(m_Library);
    m_Library.CloseSession(m_Session, status.Get());
    m_Library.DeleteSession(m_Session, status.Get());
  }
  if (m_Graph != nullptr && m_Graph != graph)
  {
    m_Library.DeleteGraph(m_Graph);
  }
  m_Session = session;
  m_Graph = graph;
}

const TensorflowTensorInfo& TensorflowModel::GetInput(const std::string& name) const
{
  return this->FindByName(m_Signature.inputs, name, "input");
}

const TensorflowTensorInfo& TensorflowModel::GetOutput(const std::string& name) const
{
  return this->FindByName(m_Signature.outputs, name, "output");
}

std::vector<std::string> TensorflowModel::GetInputKeys() const
{
  return KeysOf(m_Signature.inputs);
}

std::vector<std::string> TensorflowModel::GetOutputKeys() const
{
  return KeysOf(m_Signature.outputs);
}

const TensorflowTensorInfo& TensorflowModel::FindByName(const std::map<std::string, TensorflowTensorInfo>& infos, const std::string& name,
                                                        const char* kind) const
{
  if (name.empty() && !infos.empty())
  {
    return infos.begin()->second;
  }
  if (const auto exact = infos.find(name); exact != infos.end())
  {
    return exact->second;
  }
  std::vector<std::string> fitting;
  for (const auto& info : infos)
  {
    if (info.first.find(':') != std::string::npos && info.first.substr(0, info.first.find(':')) == name)
    {
      fitting.push_back(info.first);
    }
  }
  if (fitting.size() > 1)
  {
    throw TensorflowError(m_Folder + ": \"" + name + "\" may be any of the model's " + kind + "s " + Join(fitting) + "; give one of these");
  }
  if (fitting.size() == 1)
  {
    return infos.at(fitting.front());
  }
  const auto graphName = SplitTensorName(name);
  if (const auto key = infos.find(graphName.first); graphName.second == 0 && key != infos.end())
  {
    return key->second;
  }
  for (const auto& info : infos)
  {
    if (!graphName.first.empty() && SplitTensorName(info.second.tensor) == graphName)
    {
      return info.second;
    }
  }
  if (const auto* info = this->FindInGraph(name))
  {
    return *info;
  }
  throw TensorflowError(m_Folder + ": the model has no " + kind + " \"" + name +
                        "\"; it has: " + (infos.empty() ? "none" : Join(KeysOf(infos))));
}

const TensorflowTensorInfo* TensorflowModel::FindInGraph(const std::string& name) const
{
  const std::lock_guard<std::mutex> lock(m_Mutex);
  if (const auto known = m_GraphTensors.find(name); known != m_GraphTensors.end())
  {
    return &known->second;
  }
  const auto [operationName, index] = SplitTensorName(name);
  auto* operation = operationName.empty() ? nullptr : m_Library.GraphOperationByName(m_Graph, operationName.c_str());
  if (operation == nullptr || index >= m_Library.OperationNumOutputs(operation))
  {
    return nullptr;
  }
  TensorflowTensorInfo info;
  info.key = name;
  info.tensor = operationName + ":" + std::to_string(index);
  const tf::Output end{operation, index};
  info.type = static_cast<tf::DataType>(m_Library.OperationOutputType(end));
  Status status(m_Library);
  const int rank = m_Library.GraphGetTensorNumDims(m_Graph, end, status.Get());
  info.unknownRank = !status.IsOk() || rank < 0;
  if (!info.unknownRank && rank > 0)
  {
    info.shape.resize(static_cast<size_t>(rank), -1);
    m_Library.GraphGetTensorShape(m_Graph, end, info.shape.data(), rank, status.Get());
  }
  return &m_GraphTensors.emplace(name, info).first->second;
}

TensorflowModel::TensorPointer TensorflowModel::NewTensor(tf::DataType type, const std::vector<int64_t>& shape) const
{
  size_t bytes = tf::SizeOf(type);
  if (bytes == 0)
  {
    throw TensorflowError("tensors of " + tf::NameOf(type) +
                          " cannot be fed; use float16, bfloat16, float32, float64, bool or an integer type");
  }
  // what is asked for may come from a parameter: TensorFlow would take the computer down with it
  const auto memory = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  for (const int64_t size : shape)
  {
    if (size < 0 || (size > 0 && bytes > memory / static_cast<size_t>(size)))
    {
      std::string text;
      for (const int64_t length : shape)
      {
        text += (text.empty() ? "" : " x ") + std::to_string(length);
      }
      throw TensorflowError("a tensor of " + text + " " + tf::NameOf(type) + " is larger than the memory (" + std::to_string(memory >> 20) +
                            " MB); check the receptive field, or use smaller blocks");
    }
    bytes *= static_cast<size_t>(size);
  }
  tf::Tensor* tensor = m_Library.AllocateTensor(type, shape.data(), static_cast<int>(shape.size()), bytes);
  if (tensor == nullptr)
  {
    throw TensorflowError("TensorFlow cannot allocate a tensor of " + std::to_string(bytes) + " bytes; use smaller blocks");
  }
  return Owned(m_Library, tensor);
}

void* TensorflowModel::GetData(const TensorPointer& tensor) const
{
  return m_Library.TensorData(tensor.get());
}

tf::DataType TensorflowModel::GetType(const TensorPointer& tensor) const
{
  return static_cast<tf::DataType>(m_Library.TensorType(tensor.get()));
}

std::vector<int64_t> TensorflowModel::GetShape(const TensorPointer& tensor) const
{
  std::vector<int64_t> shape(static_cast<size_t>(m_Library.NumDims(tensor.get())));
  for (size_t k = 0; k < shape.size(); ++k)
  {
    shape[k] = m_Library.Dim(tensor.get(), static_cast<int>(k));
  }
  return shape;
}

tf::Operation* TensorflowModel::FindOperation(const std::string& name) const
{
  auto* operation = m_Library.GraphOperationByName(m_Graph, SplitTensorName(name).first.c_str());
  if (operation == nullptr)
  {
    throw TensorflowError(m_Folder + ": the graph has no operation \"" + name +
                          "\"; give the name of a node of the graph, as in tf.Operation.name");
  }
  return operation;
}

void TensorflowModel::RequireOperation(const std::string& name) const
{
  this->FindOperation(name);
}

tf::Output TensorflowModel::Find(const TensorflowTensorInfo& info) const
{
  const auto name = SplitTensorName(info.tensor);
  const tf::Output output{m_Library.GraphOperationByName(m_Graph, name.first.c_str()), name.second};
  if (output.operation == nullptr)
  {
    throw TensorflowError(
        m_Folder + ": " +
        (info.tensor.empty()
             ? "\"" + info.key + "\" is no dense tensor; export the model with tf.Tensor as inputs and outputs"
             : "the graph has no operation \"" + name.first + "\" although the signature names it; export the model again"));
  }
  return output;
}

std::vector<TensorflowModel::TensorPointer> TensorflowModel::RunSession(const std::vector<tf::Output>& inputs,
                                                                        const std::vector<tf::Tensor*>& values,
                                                                        const std::vector<tf::Output>& outputs,
                                                                        const std::vector<const tf::Operation*>& targets,
                                                                        const std::string& doing) const
{
  std::vector<tf::Tensor*> outputValues(outputs.size(), nullptr);
  Status status(m_Library);
  m_Library.SessionRun(m_Session, nullptr, inputs.data(), values.data(), static_cast<int>(inputs.size()), outputs.data(),
                       outputValues.data(), static_cast<int>(outputs.size()), targets.data(), static_cast<int>(targets.size()), nullptr,
                       status.Get());
  if (!status.IsOk())
  {
    throw TensorflowError(m_Folder + ": TensorFlow failed to " + doing + ": " + status.Message());
  }
  std::vector<TensorPointer> results;
  for (auto* value : outputValues)
  {
    results.push_back(Owned(m_Library, value));
  }
  return results;
}

std::vector<TensorflowModel::TensorPointer> TensorflowModel::Run(const std::vector<Feed>& feeds,
                                                                 const std::vector<const TensorflowTensorInfo*>& outputs,
                                                                 const std::vector<std::string>& targets) const
{
  std::vector<tf::Output> inputEnds, outputEnds;
  std::vector<tf::Tensor*> inputValues;
  std::vector<const tf::Operation*> operations;
  for (const auto& feed : feeds)
  {
    inputEnds.push_back(this->Find(*feed.input));
    inputValues.push_back(feed.tensor.get());
  }
  for (const auto* output : outputs)
  {
    outputEnds.push_back(this->Find(*output));
  }
  for (const auto& target : targets)
  {
    operations.push_back(this->FindOperation(target));
  }
  return this->RunSession(inputEnds, inputValues, outputEnds, operations, "run the model");
}

std::string TensorflowModel::Freeze(const std::vector<const TensorflowTensorInfo*>& kept)
{
  std::string obstacle;
  try
  {
    obstacle = this->TryToFreeze(kept);
  }
  catch (const TensorflowError& error)
  {
    obstacle = error.what();
  }
  if (!obstacle.empty() && m_Use == Use::Frozen)
  {
    this->Load(m_Configuration);
  }
  return obstacle;
}

std::string TensorflowModel::TryToFreeze(const std::vector<const TensorflowTensorInfo*>& kept)
{
  constexpr size_t mostBytes = size_t(256) << 20; // for a while there are several copies; and a GraphDef has at most 2 GB
  std::vector<std::string> names;
  for (const auto* info : kept)
  {
    names.push_back(SplitTensorName(info->tensor).first);
  }
  const auto* const bytes = static_cast<const uint8_t*>(m_MetaGraph->data);
  WireMessage::Field graph;
  for (const auto& field : WireMessage(bytes, bytes + m_MetaGraph->length))
  {
    graph = field.number == 2 ? field : graph; // graph_def
  }
  const FrozenGraph frozen(graph.begin, static_cast<size_t>(graph.end - graph.begin), names);
  if (!frozen.GetObstacle().empty())
  {
    return frozen.GetObstacle();
  }
  if (frozen.GetVariables().empty())
  {
    if (m_Use == Use::Frozen)
    {
      this->SetSession(this->NewSession(m_Graph), m_Graph);
    }
    return {};
  }
  const auto values = this->ReadVariables(frozen.GetVariables());
  size_t total = 0;
  for (const auto& value : values)
  {
    total += m_Library.TensorByteSize(value.second.get());
  }
  if (total > mostBytes)
  {
    return "its variables have " + std::to_string(total >> 20) + " MB";
  }
  this->Replace(frozen.Write(
      [&](const std::string& variable)
      {
        const auto& tensor = values.at(variable);
        return FrozenGraph::Value{this->GetType(tensor), this->GetShape(tensor), this->GetData(tensor),
                                  m_Library.TensorByteSize(tensor.get())};
      }));
  return {};
}

std::map<std::string, TensorflowModel::TensorPointer>
TensorflowModel::ReadVariables(const std::map<std::string, FrozenGraph::Variable>& variables) const
{
  std::vector<tf::Output> ends;
  for (const auto& [name, variable] : variables)
  {
    if (tf::SizeOf(variable.type) == 0)
    {
      throw TensorflowError("variable " + name + " holds " + tf::NameOf(variable.type));
    }
    auto* operation = this->FindOperation(name);
    if (variable.isResource)
    {
      Status status(m_Library);
      auto* read = m_Library.NewOperation(m_Graph, "ReadVariableOp", ("otbsr/read" + std::to_string(ends.size())).c_str());
      m_Library.AddInput(read, {operation, 0});
      m_Library.SetAttrType(read, "dtype", variable.type);
      operation = m_Library.FinishOperation(read, status.Get());
      if (!status.IsOk())
      {
        throw TensorflowError("variable " + name + " cannot be read: " + status.Message());
      }
    }
    ends.push_back({operation, 0});
  }
  const auto tensors = this->RunSession({}, {}, ends, {}, "read the variables");
  std::map<std::string, TensorPointer> values;
  auto tensor = tensors.begin();
  for (const auto& variable : variables)
  {
    values[variable.first] = *tensor++;
  }
  return values;
}

// A session of a graph, with all optimisations.
tf::Session* TensorflowModel::NewSession(tf::Graph* graph) const
{
  Status status(m_Library);
  auto* options = m_Library.NewSessionOptions();
  m_Library.SetConfig(options, m_Configuration.data(), m_Configuration.size(), status.Get());
  auto* session = status.IsOk() ? m_Library.NewSession(graph, options, status.Get()) : nullptr;
  m_Library.DeleteSessionOptions(options);
  if (!status.IsOk())
  {
    throw TensorflowError("TensorFlow does not take the graph: " + status.Message());
  }
  return session;
}

// Another graph, with a session of its own, in place of the model's.
void TensorflowModel::Replace(const std::string& graphDef)
{
  Status status(m_Library);
  auto* graph = m_Library.NewGraph();
  auto* importing = m_Library.NewImportGraphDefOptions();
  const tf::Buffer bytes{graphDef.data(), graphDef.size(), nullptr};
  m_Library.GraphImportGraphDef(graph, &bytes, importing, status.Get());
  m_Library.DeleteImportGraphDefOptions(importing);
  try
  {
    if (!status.IsOk())
    {
      throw TensorflowError("TensorFlow does not take the frozen graph: " + status.Message());
    }
    this->SetSession(this->NewSession(graph), graph);
  }
  catch (const TensorflowError&)
  {
    m_Library.DeleteGraph(graph);
    throw;
  }
}

void TensorflowModel::RunSaver(const std::string& prefix, const std::string& operation) const
{
  if (m_Saver.fileName.empty() || operation.empty())
  {
    throw TensorflowError(m_Folder + ": the model cannot write or read checkpoints: it has no saver; export it with its variables");
  }
  const auto file = SplitTensorName(m_Saver.fileName);
  const TensorPointer tensor(m_Library.AllocateTensor(tf::String, nullptr, 0, sizeof(tf::Text)),
                             [this](tf::Tensor* owned)
                             {
                               m_Library.StringDealloc(static_cast<tf::Text*>(m_Library.TensorData(owned)));
                               m_Library.DeleteTensor(owned);
                             });
  auto* text = static_cast<tf::Text*>(m_Library.TensorData(tensor.get()));
  m_Library.StringInit(text);
  m_Library.StringCopy(text, prefix.data(), prefix.size());
  this->RunSession({tf::Output{this->FindOperation(file.first), file.second}}, {tensor.get()}, {}, {this->FindOperation(operation)},
                   (operation == m_Saver.saveOperation ? "write checkpoint " : "read checkpoint ") + prefix);
}

void TensorflowModel::Save(const std::string& prefix) const
{
  namespace fs = std::filesystem;
  const fs::path whole(prefix), parent = whole.has_parent_path() ? whole.parent_path() : fs::path("."),
                                unfinished(prefix + ".unfinished" + std::to_string(getpid()));
  const std::string name = whole.filename().string();
  const auto isData = [&](const fs::path& file)
  {
    return file.filename().string().rfind(name + ".data-", 0) == 0;
  };
  std::error_code failed;
  fs::create_directory(unfinished, failed);
  try
  {
    if (failed)
    {
      throw TensorflowError(unfinished.string() + ": cannot be created (" + failed.message() + "); check the folder of the checkpoint");
    }
    this->RunSaver((unfinished / name).string(), m_Saver.saveOperation);
    for (const auto& file : fs::directory_iterator(parent)) // of an earlier checkpoint, maybe in more files
    {
      if (isData(file.path()) && !fs::exists(unfinished / file.path().filename()))
      {
        fs::remove(file.path());
      }
    }
    for (const auto& file : fs::directory_iterator(unfinished))
    {
      if (isData(file.path()))
      {
        fs::rename(file.path(), parent / file.path().filename());
      }
    }
    fs::rename(unfinished / (name + ".index"), prefix + ".index");
  }
  catch (const fs::filesystem_error& error)
  {
    fs::remove_all(unfinished, failed);
    throw TensorflowError(prefix + ": the checkpoint cannot be written (" + error.what() + "); check the folder");
  }
  catch (const TensorflowError&)
  {
    fs::remove_all(unfinished, failed);
    throw;
  }
  fs::remove_all(unfinished, failed);
}

void TensorflowModel::Restore(const std::string& prefix)
{
  if (!std::ifstream(prefix + ".index"))
  {
    throw TensorflowError(prefix + ": there is no checkpoint of this prefix (file " + prefix +
                          ".index); give the path of its files without .index and .data-...");
  }
  this->RunSaver(prefix, m_Saver.restoreOperation);
}

} // namespace otb
