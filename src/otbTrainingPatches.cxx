/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbTrainingPatches.h"
#include "otbTensorflowTensor.h"

#include <cstring>
#include <numeric>
#include <stdexcept>

namespace otb
{
namespace
{
/** The type itself if it is handled below, else one that holds its values. */
GDALDataType ReadAs(GDALDataType type)
{
  switch (type)
  {
  case GDT_Byte:
  case GDT_UInt16:
  case GDT_Int16:
  case GDT_UInt32:
  case GDT_Int32:
  case GDT_Float32:
    return type;
  default:
    return GDT_Float64;
  }
}
} // namespace

TrainingPatches::TrainingPatches(const PatchImages& images, size_t width, size_t height, bool streamed, const std::string& name)
    : m_Name(name), m_Reader(images, width, height, name), m_Type(ReadAs(m_Reader.GetType()))
{
  const auto size = m_Reader.GetGrid().GetRegion().GetSize();
  if (size[0] != width || size[1] % height != 0)
  {
    throw std::runtime_error(name + ": images of " + std::to_string(size[0]) + " x " + std::to_string(size[1]) +
                             " pixels are no patches of " + std::to_string(width) + " x " + std::to_string(height) +
                             " one below the other; check the patch size");
  }
  m_Count = size[1] / height;
  if (!streamed)
  {
    std::vector<size_t> all(m_Count);
    std::iota(all.begin(), all.end(), size_t(0));
    std::vector<char> memory(m_Count * this->GetNumberOfPixels() * this->GetBands() *
                             static_cast<size_t>(GDALGetDataTypeSizeBytes(m_Type)));
    this->ReadPixels(all.data(), m_Count, memory.data());
    m_Memory.swap(memory);
  }
}

std::vector<int64_t> TrainingPatches::ShapeFor(const TensorflowTensorInfo& input, size_t count) const
{
  const auto batch = static_cast<int64_t>(count), rows = static_cast<int64_t>(m_Reader.GetHeight()),
             columns = static_cast<int64_t>(m_Reader.GetWidth()), bands = static_cast<int64_t>(this->GetBands());
  std::vector<int64_t> shape{batch, rows, columns, bands};
  const size_t rank = input.unknownRank ? 4 : input.shape.size();
  if (rank == 1 && rows * columns * bands == 1)
  {
    shape = {batch};
  }
  else if (rank == 2 && rows * columns == 1)
  {
    shape = {batch, bands};
  }
  else if (rank == 3 && bands == 1)
  {
    shape = {batch, rows, columns};
  }
  bool fits = rank == shape.size();
  std::string declared;
  for (size_t k = 0; k < input.shape.size(); ++k)
  {
    declared += (k == 0 ? "" : ", ") + (input.shape[k] < 0 ? "?" : std::to_string(input.shape[k]));
    fits = fits && (k == 0 || input.shape[k] < 0 || input.shape[k] == shape[k]); // the batch is checked by who chooses it
  }
  if (!fits)
  {
    throw std::runtime_error(m_Name + ": patches of " + std::to_string(columns) + " x " + std::to_string(rows) + " pixels and " +
                             std::to_string(bands) + " bands do not fit the model's \"" + input.key + "\" of shape [" + declared +
                             "]; check the patch size, the bands and the name");
  }
  return shape;
}

void TrainingPatches::ReadPixels(const size_t* patches, size_t count, void* to) const
{
  if (!m_Memory.empty())
  {
    const size_t bytes = m_Memory.size() / m_Count;
    for (size_t k = 0; k < count; ++k)
    {
      std::memcpy(static_cast<char*>(to) + k * bytes, m_Memory.data() + patches[k] * bytes, bytes);
    }
    return;
  }
  std::vector<PatchReader::IndexType> corners(count, m_Reader.GetGrid().GetRegion().GetIndex());
  for (size_t k = 0; k < count; ++k)
  {
    corners[k][1] += static_cast<itk::IndexValueType>(patches[k] * m_Reader.GetHeight());
  }
  m_Reader.Read(corners.data(), count, m_Type, to);
}

void TrainingPatches::Read(const size_t* patches, size_t count, tf::DataType type, void* values) const
{
  const size_t number = count * this->GetNumberOfPixels() * this->GetBands();
  const auto convert = [&](auto null)
  {
    std::vector<decltype(null)> pixels(number);
    this->ReadPixels(patches, count, pixels.data());
    tensorflow_tensor::FromPixels(type, pixels.data(), values, number);
  };
  switch (m_Type)
  {
  case GDT_Byte:
    return convert(uint8_t());
  case GDT_UInt16:
    return convert(uint16_t());
  case GDT_Int16:
    return convert(int16_t());
  case GDT_UInt32:
    return convert(uint32_t());
  case GDT_Int32:
    return convert(int32_t());
  case GDT_Float32:
    return convert(float());
  default:
    return convert(double());
  }
}

} // namespace otb
