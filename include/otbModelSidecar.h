/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbModelSidecar_h
#define otbModelSidecar_h

#include <stdexcept>
#include <string>
#include <vector>

namespace otb
{

/** \class ModelSidecarError
 * \brief model.json is missing or invalid. The message names the key, its value and what is expected.
 * \ingroup OTBSuperResolutionTools
 */
class ModelSidecarError : public std::runtime_error
{
public:
  using std::runtime_error::runtime_error;
};

/** \class ModelSidecar
 * \brief model.json: what has to be known to serve a SavedModel (format 1; the same rules as in the Python package).
 * \ingroup OTBSuperResolutionTools
 */
struct ModelSidecar
{
  std::string name;
  std::string method;
  unsigned int factor = 1; ///< input over output spacing
  unsigned int margin = 0; ///< input pixels on each side that the model spoils

  std::string signature;
  std::string inputName;
  std::vector<std::string> inputBands;
  double inputSpacing = 0; ///< metres

  std::string outputName;
  std::vector<std::string> outputBands;
  std::string outputType; ///< uint8, int16, uint16, int32, uint32, float32 or float64
  bool hasNoData = false;
  double noData = 0;

  /** Reads folder/model.json. \throws ModelSidecarError */
  static ModelSidecar Read(const std::string& folder);

  /** The same from the file's content, which may be anything; `file` is said in messages. \throws ModelSidecarError and nothing else */
  static ModelSidecar Parse(const std::string& content, const std::string& file);
};

} // namespace otb

#endif
