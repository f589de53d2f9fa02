/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowLibrary_h
#define otbTensorflowLibrary_h

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace otb
{

/** \brief The part of TensorFlow's stable C ABI that is used here, so that nothing of TensorFlow is needed to build. */
namespace tf
{
struct Status;
struct Graph;
struct SessionOptions;
struct Session;
struct Tensor;
struct Operation;
struct OperationDescription;
struct ImportGraphDefOptions;

/** A block of bytes; the layout is part of the ABI. */
struct Buffer
{
  const void* data;
  size_t length;
  void (*deallocator)(void* data, size_t length);
};

/** TF_TString: a value of a string tensor; only its size is part of what is used here. */
struct Text
{
  uint64_t words[3];
};

/** One end of an edge of the graph; passed by value in the ABI. */
struct Output
{
  Operation* operation;
  int index;
};

/** TF_DataType, but for types of less than a byte or of 8 bit reals. */
enum DataType : int
{
  Float = 1,
  Double = 2,
  Int32 = 3,
  UInt8 = 4,
  Int16 = 5,
  Int8 = 6,
  String = 7,
  Complex64 = 8,
  Int64 = 9,
  Bool = 10,
  QInt8 = 11,
  QUInt8 = 12,
  QInt32 = 13,
  BFloat16 = 14,
  QInt16 = 15,
  QUInt16 = 16,
  UInt16 = 17,
  Complex128 = 18,
  Half = 19,
  Resource = 20,
  Variant = 21,
  UInt32 = 22,
  UInt64 = 23
};

/** The name of a type as tf.dtypes has it; "type 99" for unknown ones. */
std::string NameOf(DataType type);

/** Bytes per value of the numeric types that can be converted; 0 for the others. */
size_t SizeOf(DataType type);
} // namespace tf

/** \class TensorflowError
 * \brief TensorFlow is missing, cannot load a model, or fails to run it.
 * \ingroup OTBSuperResolutionTools
 */
class TensorflowError : public std::runtime_error
{
public:
  using std::runtime_error::runtime_error;
};

/** \class TensorflowLibrary
 * \brief TensorFlow's C API, bound at run time from the shared library of the pip wheel (libtensorflow_cc.so.2) or libtensorflow.so.2.
 *
 * Looked at, in this order: a TensorFlow that the process has loaded already (a second copy aborts); the environment variable
 * OTB_TF_LIBRARY (and nothing after it when it is set); ../../tensorflow beside the folder of the application (site-packages); the
 * site-packages of $VIRTUAL_ENV; the loader's path.
 *
 * It is loaded with RTLD_DEEPBIND: the wheel exports its own zlib, sqlite, protobuf ..., which must not mix with those of OTB's
 * dependencies. OTB_TF_NODEEPBIND=1 switches that off (for sanitizers).
 *
 * \ingroup OTBSuperResolutionTools
 */
class TensorflowLibrary
{
public:
  /** The one instance, loaded at the first call. \throws TensorflowError naming the places that were looked at. */
  static const TensorflowLibrary& Get();

  /** Sets the environment variables that TensorFlow is to find; Get() does it, too. To be called before a thread that calls Get(): setenv
   * may not run while another thread asks for a variable, as GDAL does all the time. */
  static void PrepareEnvironment();

  TensorflowLibrary(const TensorflowLibrary&) = delete;
  TensorflowLibrary& operator=(const TensorflowLibrary&) = delete;

  /** Path of the library file, as far as known. */
  const std::string& GetPath() const
  {
    return m_Path;
  }

  const char* (*Version)() = nullptr;
  tf::Status* (*NewStatus)() = nullptr;
  void (*DeleteStatus)(tf::Status*) = nullptr;
  int (*GetCode)(const tf::Status*) = nullptr;
  const char* (*Message)(const tf::Status*) = nullptr;
  tf::Graph* (*NewGraph)() = nullptr;
  void (*DeleteGraph)(tf::Graph*) = nullptr;
  tf::SessionOptions* (*NewSessionOptions)() = nullptr;
  void (*DeleteSessionOptions)(tf::SessionOptions*) = nullptr;
  void (*SetConfig)(tf::SessionOptions*, const void*, size_t, tf::Status*) = nullptr;
  tf::Buffer* (*NewBuffer)() = nullptr;
  void (*DeleteBuffer)(tf::Buffer*) = nullptr;
  tf::Session* (*LoadSessionFromSavedModel)(const tf::SessionOptions*, const tf::Buffer* runOptions, const char* folder,
                                            const char* const* tags, int numberOfTags, tf::Graph*, tf::Buffer* metaGraph,
                                            tf::Status*) = nullptr;
  tf::Session* (*NewSession)(tf::Graph*, const tf::SessionOptions*, tf::Status*) = nullptr;
  void (*CloseSession)(tf::Session*, tf::Status*) = nullptr;
  void (*DeleteSession)(tf::Session*, tf::Status*) = nullptr;
  void (*SessionRun)(tf::Session*, const tf::Buffer* runOptions, const tf::Output* inputs, tf::Tensor* const* inputValues,
                     int numberOfInputs, const tf::Output* outputs, tf::Tensor** outputValues, int numberOfOutputs,
                     const tf::Operation* const* targets, int numberOfTargets, tf::Buffer* runMetadata, tf::Status*) = nullptr;
  tf::ImportGraphDefOptions* (*NewImportGraphDefOptions)() = nullptr;
  void (*DeleteImportGraphDefOptions)(tf::ImportGraphDefOptions*) = nullptr;
  void (*GraphImportGraphDef)(tf::Graph*, const tf::Buffer* graphDef, const tf::ImportGraphDefOptions*, tf::Status*) = nullptr;
  tf::OperationDescription* (*NewOperation)(tf::Graph*, const char* type, const char* name) = nullptr;
  void (*AddInput)(tf::OperationDescription*, tf::Output) = nullptr;
  void (*SetAttrType)(tf::OperationDescription*, const char* name, int type) = nullptr;
  tf::Operation* (*FinishOperation)(tf::OperationDescription*, tf::Status*) = nullptr;
  tf::Operation* (*GraphOperationByName)(tf::Graph*, const char*) = nullptr;
  int (*GraphGetTensorNumDims)(tf::Graph*, tf::Output, tf::Status*) = nullptr;
  void (*GraphGetTensorShape)(tf::Graph*, tf::Output, int64_t* dims, int rank, tf::Status*) = nullptr;
  int (*OperationNumOutputs)(tf::Operation*) = nullptr;
  int (*OperationOutputType)(tf::Output) = nullptr;
  tf::Tensor* (*AllocateTensor)(int type, const int64_t* dims, int rank, size_t bytes) = nullptr;
  void (*DeleteTensor)(tf::Tensor*) = nullptr;
  void* (*TensorData)(const tf::Tensor*) = nullptr;
  size_t (*TensorByteSize)(const tf::Tensor*) = nullptr;
  int (*NumDims)(const tf::Tensor*) = nullptr;
  int64_t (*Dim)(const tf::Tensor*, int) = nullptr;
  int (*TensorType)(const tf::Tensor*) = nullptr;
  void (*StringInit)(tf::Text*) = nullptr;
  void (*StringCopy)(tf::Text*, const char*, size_t) = nullptr;
  void (*StringDealloc)(tf::Text*) = nullptr;

private:
  TensorflowLibrary();

  std::string m_Path;
};

} // namespace otb

#endif
