/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbTensorflowLibrary.h"

#include <dlfcn.h>
#include <glob.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace otb
{
namespace tf
{
std::string NameOf(DataType type)
{
  static const char* const Names[] = {
      "no type",         "float32",   "float64", "int32",       "uint8",         "int16",           "int8",
      "string",          "complex64", "int64",   "bool",        "qint8",         "quint8",          "qint32",
      "bfloat16",        "qint16",    "quint16", "uint16",      "complex128",    "float16",         "resource",
      "variant",         "uint32",    "uint64",  "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz",
      "float8_e5m2fnuz", "int4",      "uint4",   "int2",        "uint2",         "float4_e2m1fn"};
  const int number = static_cast<int>(type);
  const bool known = number >= 0 && number < static_cast<int>(sizeof(Names) / sizeof(Names[0]));
  return known ? Names[number] : "type " + std::to_string(number);
}

size_t SizeOf(DataType type)
{
  switch (type)
  {
  case UInt8:
  case Int8:
  case QInt8:
  case QUInt8:
  case Bool:
    return 1;
  case Int16:
  case UInt16:
  case QInt16:
  case QUInt16:
  case Half:
  case BFloat16:
    return 2;
  case Float:
  case Int32:
  case UInt32:
  case QInt32:
    return 4;
  case Double:
  case Int64:
  case UInt64:
    return 8;
  default:
    return 0;
  }
}
} // namespace tf

namespace
{
const char* const LibraryNames[] = {"libtensorflow_cc.so.2", "libtensorflow.so.2"};

// An executable owns (by copy relocation) std::cerr and its like; a deep-bound library sees libstdc++'s own ones, which were never
// constructed: printing to them would crash. Construct them on the same stream buffers.
void ConstructStandardStreams()
{
  void* library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr)
  {
    return;
  }
  const std::pair<const char*, std::ostream*> streams[] = {{"_ZSt4cerr", &std::cerr}, {"_ZSt4cout", &std::cout}, {"_ZSt4clog", &std::clog}};
  for (const auto& stream : streams)
  {
    void* place = dlsym(library, stream.first);
    if (place != nullptr && place != stream.second && *static_cast<void**>(place) == nullptr)
    {
      auto* constructed = new (place) std::ostream(stream.second->rdbuf());
      constructed->flags(stream.second->flags());
    }
  }
  dlclose(library);
}

/** While it lives, what goes to the standard error stream is kept; then all but TensorFlow's notes on oneDNN is written. TensorFlow's own
 * switch, TF_CPP_MIN_LOG_LEVEL, does not reach what is said while the library is being loaded. */
class QuietLoading
{
public:
  QuietLoading() : m_Kept(memfd_create("stderr", MFD_CLOEXEC)), m_Stream(dup(STDERR_FILENO))
  {
    if (m_Kept < 0 || m_Stream < 0 || dup2(m_Kept, STDERR_FILENO) < 0)
    {
      this->Close();
    }
  }

  ~QuietLoading()
  {
    if (m_Stream < 0)
    {
      return;
    }
    dup2(m_Stream, STDERR_FILENO);
    std::string text;
    char part[4096];
    off_t at = 0;
    for (ssize_t count; (count = pread(m_Kept, part, sizeof(part), at)) > 0; at += count)
    {
      text.append(part, static_cast<size_t>(count));
    }
    for (size_t start = 0, end = 0; start < text.size(); start = end)
    {
      end = std::min(text.find('\n', start), text.size() - 1) + 1;
      const std::string line = text.substr(start, end - start);
      if (line.find("oneDNN custom operations are on") == std::string::npos &&
          line.find("before absl::InitializeLog()") == std::string::npos && write(STDERR_FILENO, line.data(), line.size()) < 0)
      {
        break; // nobody reads it
      }
    }
    this->Close();
  }

  QuietLoading(const QuietLoading&) = delete;
  QuietLoading& operator=(const QuietLoading&) = delete;

private:
  void Close()
  {
    for (int* file : {&m_Kept, &m_Stream})
    {
      if (*file >= 0)
      {
        close(*file);
      }
      *file = -1;
    }
  }

  int m_Kept;
  int m_Stream;
};

std::string FolderOf(const std::string& path)
{
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

/** The files to try, in order: real ones, then names for the loader. */
std::vector<std::string> Candidates(std::vector<std::string>& lookedAt)
{
  std::vector<std::string> found;
  if (const char* given = std::getenv("OTB_TF_LIBRARY"); given != nullptr && *given != 0)
  {
    lookedAt.push_back(std::string("OTB_TF_LIBRARY=") + given);
    return {given};
  }
  std::vector<std::string> patterns;
  Dl_info self;
  if (dladdr(reinterpret_cast<void*>(&FolderOf), &self) != 0 && self.dli_fname != nullptr)
  {
    patterns.push_back(FolderOf(self.dli_fname) + "/../../tensorflow/");
  }
  if (const char* environment = std::getenv("VIRTUAL_ENV"); environment != nullptr && *environment != 0)
  {
    patterns.push_back(std::string(environment) + "/lib/python3*/site-packages/tensorflow/");
  }
  for (const auto& pattern : patterns)
  {
    for (const char* name : LibraryNames)
    {
      lookedAt.push_back(pattern + name);
      glob_t matches{};
      if (glob(lookedAt.back().c_str(), 0, nullptr, &matches) == 0)
      {
        found.insert(found.end(), matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
      }
      globfree(&matches);
    }
  }
  for (const char* name : LibraryNames)
  {
    found.push_back(name);
    lookedAt.push_back(std::string("the loader's path (") + name + ")");
  }
  return found;
}

bool HasAvx2()
{
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

// Tensors and tiles are freed by other threads than those that made them: what the arenas of a dozen threads keep of them adds up, the more
// the larger the image. MALLOC_ARENA_MAX, if the user sets it, decides.
void BoundArenas()
{
#if defined(M_ARENA_MAX)
  if (std::getenv("MALLOC_ARENA_MAX") == nullptr)
  {
    mallopt(M_ARENA_MAX, 2);
  }
#endif
}

template <class TFunction>
void Bind(void* library, const std::string& path, const char* name, TFunction& function)
{
  function = reinterpret_cast<TFunction>(dlsym(library, name));
  if (function == nullptr)
  {
    throw TensorflowError(path + " has no " + name + ": it is not a TensorFlow 2 library; pip install tensorflow, or set OTB_TF_LIBRARY");
  }
}
} // namespace

const TensorflowLibrary& TensorflowLibrary::Get()
{
  static const TensorflowLibrary instance;
  return instance;
}

void TensorflowLibrary::PrepareEnvironment()
{
  const auto set = [](const char* name, const char* value)
  {
    if (std::getenv(name) == nullptr) // the second time there is nothing to set
    {
      setenv(name, value, 0);
    }
  };
  set("TF_CPP_MIN_LOG_LEVEL", "2"); // TensorFlow's start-up notes are not the user's business
  if (HasAvx2())
  {
    // oneDNN's convolutions, which TensorFlow itself uses only on processors with AVX512-VNNI or newer, are compiled for the processor when
    // they run; the wheel's other ones are compiled for AVX. TF_ENABLE_ONEDNN_OPTS, if the user sets it, decides.
    set("TF_ENABLE_ONEDNN_OPTS", "1");
  }
}

TensorflowLibrary::TensorflowLibrary()
{
  PrepareEnvironment();
  BoundArenas();

  void* library = nullptr;
  std::string errors;
  for (const char* name : LibraryNames)
  {
    if (library == nullptr && (library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) != nullptr)
    {
      m_Path = name;
    }
  }
  std::vector<std::string> lookedAt;
  if (library == nullptr)
  {
    const bool deepBind = std::getenv("OTB_TF_NODEEPBIND") == nullptr;
    // elsewhere TensorFlow may end the process with a message on the processor
    const auto quiet = HasAvx2() ? std::make_unique<QuietLoading>() : nullptr;
    for (const auto& candidate : Candidates(lookedAt))
    {
      library = dlopen(candidate.c_str(), RTLD_LAZY | RTLD_LOCAL | (deepBind ? RTLD_DEEPBIND : 0));
      if (library != nullptr)
      {
        m_Path = candidate;
        break;
      }
      errors = dlerror();
    }
    if (deepBind)
    {
      ConstructStandardStreams();
    }
  }
  if (library == nullptr)
  {
    std::string places;
    for (const auto& place : lookedAt)
    {
      places += (places.empty() ? "" : ", ") + place;
    }
    throw TensorflowError("TensorFlow library not found: looked at " + places + " (" + errors +
                          "); pip install tensorflow, or set OTB_TF_LIBRARY");
  }
#define OTB_TF_BIND(name) Bind(library, m_Path, "TF_" #name, name)
  OTB_TF_BIND(Version);
  OTB_TF_BIND(NewStatus);
  OTB_TF_BIND(DeleteStatus);
  OTB_TF_BIND(GetCode);
  OTB_TF_BIND(Message);
  OTB_TF_BIND(NewGraph);
  OTB_TF_BIND(DeleteGraph);
  OTB_TF_BIND(NewSessionOptions);
  OTB_TF_BIND(DeleteSessionOptions);
  OTB_TF_BIND(SetConfig);
  OTB_TF_BIND(NewBuffer);
  OTB_TF_BIND(DeleteBuffer);
  OTB_TF_BIND(LoadSessionFromSavedModel);
  OTB_TF_BIND(NewSession);
  OTB_TF_BIND(CloseSession);
  OTB_TF_BIND(DeleteSession);
  OTB_TF_BIND(SessionRun);
  OTB_TF_BIND(NewImportGraphDefOptions);
  OTB_TF_BIND(DeleteImportGraphDefOptions);
  OTB_TF_BIND(GraphImportGraphDef);
  OTB_TF_BIND(NewOperation);
  OTB_TF_BIND(AddInput);
  OTB_TF_BIND(SetAttrType);
  OTB_TF_BIND(FinishOperation);
  OTB_TF_BIND(GraphOperationByName);
  OTB_TF_BIND(GraphGetTensorNumDims);
  OTB_TF_BIND(GraphGetTensorShape);
  OTB_TF_BIND(OperationNumOutputs);
  OTB_TF_BIND(OperationOutputType);
  OTB_TF_BIND(AllocateTensor);
  OTB_TF_BIND(DeleteTensor);
  OTB_TF_BIND(TensorData);
  OTB_TF_BIND(TensorByteSize);
  OTB_TF_BIND(NumDims);
  OTB_TF_BIND(Dim);
  OTB_TF_BIND(TensorType);
  OTB_TF_BIND(StringInit);
  OTB_TF_BIND(StringCopy);
  OTB_TF_BIND(StringDealloc);
#undef OTB_TF_BIND
}

} // namespace otb
