/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTrainingPatches_h
#define otbTrainingPatches_h

#include "otbPatchReader.h"
#include "otbTensorflowModel.h"

#include <string>
#include <vector>

namespace otb
{

/** \class TrainingPatches
 * \brief The patches of one source, one below the other in images as PatchesExtraction writes them, as batches for a model.
 *
 * Pixels keep the type of the files until they become the tensor's, so that labels are exact. In memory, or read whenever asked for.
 *
 * \ingroup OTBSuperResolutionTools
 */
class TrainingPatches
{
public:
  /** \param name for messages ("training.source1")
   * \throws std::runtime_error unless the images are as wide as a patch and a whole number of patches high. */
  TrainingPatches(const PatchImages& images, size_t width, size_t height, bool streamed, const std::string& name);

  const std::string& GetName() const
  {
    return m_Name;
  }
  size_t GetNumberOfPatches() const
  {
    return m_Count;
  }
  unsigned int GetBands() const
  {
    return m_Reader.GetBands();
  }
  /** Pixels of a patch. */
  size_t GetNumberOfPixels() const
  {
    return m_Reader.GetWidth() * m_Reader.GetHeight();
  }

  /** The shape of a batch of `count` patches for an input of the model: [count, rows, columns, bands]; or with fewer dimensions, if the
   * input declares fewer and patches have a single column, row or band to leave out. \throws std::runtime_error if that cannot be. */
  std::vector<int64_t> ShapeFor(const TensorflowTensorInfo& input, size_t count) const;

  /** `count` patches by their numbers, as values of a tensor's type. */
  void Read(const size_t* patches, size_t count, tf::DataType type, void* values) const;

private:
  void ReadPixels(const size_t* patches, size_t count, void* to) const;

  std::string m_Name;
  PatchReader m_Reader;
  GDALDataType m_Type = GDT_Float64;
  size_t m_Count = 0;
  std::vector<char> m_Memory; ///< all pixels; empty if streamed
};

} // namespace otb

#endif
