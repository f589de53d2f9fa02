/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbPatchReader_h
#define otbPatchReader_h

#include "otbSamplingGrid.h"
#include "otbVectorImage.h"

#include "gdal.h"

#include <memory>
#include <string>
#include <vector>

namespace otb
{

/** \class PatchReader
 * \brief Reads many patches of one size out of images of one size, stacked band-wise.
 *
 * Patches are read in the order in which they lie in the image, by all threads, so that each block of a compressed file is decoded about
 * once a call. Files are read through GDAL in their own pixel type; images in memory, and files with an extended name, through their
 * pipeline (in float32). What is kept in memory does not grow with the number of patches.
 *
 * \ingroup OTBSuperResolutionTools
 */
class PatchReader
{
public:
  using ImageType = VectorImage<float, 2>;
  using IndexType = itk::Index<2>;
  using SizeValue = SamplingGrid::SizeValue;

  /** An image, and the file it is read from when that can be read directly: no options in its name. Empty otherwise. */
  struct Input
  {
    ImageType::Pointer image;
    std::string file;
  };

  /** \param name for messages ("source 1"). \throws std::runtime_error when there is no image, the sizes differ or a patch size is zero. */
  PatchReader(const std::vector<Input>& inputs, SizeValue width, SizeValue height, const std::string& name);
  ~PatchReader();
  PatchReader(const PatchReader&) = delete;
  PatchReader& operator=(const PatchReader&) = delete;

  const SamplingGrid& GetGrid() const
  {
    return m_Grid;
  }
  /** Width and height of a patch in pixels. */
  SizeValue GetWidth() const
  {
    return m_Width;
  }
  SizeValue GetHeight() const
  {
    return m_Height;
  }
  unsigned int GetBands() const
  {
    return m_Bands;
  }
  /** The smallest real pixel type that holds every image's pixels. */
  GDALDataType GetType() const
  {
    return m_Type;
  }

  /** Whether no pixel comes through a pipeline, so that Read may run in a thread of its own. */
  bool IsFromFiles() const
  {
    return m_IsFromFiles;
  }

  /** The block (column, row) of the file in which a patch begins. */
  IndexType BlockOf(const IndexType& corner) const;

  /** Read `count` patches, given by their first pixels' indices, which must be inside: [count, height, width, bands] of `type`, as GDAL
   * converts (rounded, clamped). Not to be called by two threads at once. \throws std::runtime_error when a file cannot be read. */
  void Read(const IndexType* corners, std::size_t count, GDALDataType type, void* to) const;

  /** Positions in `corners` in the order in which the patches are best read. */
  std::vector<std::size_t> ReadingOrder(const IndexType* corners, std::size_t count) const;

private:
  struct Stack;

  /** Reads all patches from the files, by all threads. */
  void ReadFiles(const IndexType* corners, const std::vector<std::size_t>& order, GDALDataType type, char* to) const;
  void ReadShare(Stack& stack, const IndexType* corners, const std::vector<std::size_t>& share, GDALDataType type, char* to) const;
  /** Reads all patches from an image without file, into the bands from `band` on. */
  void ReadImage(std::size_t input, unsigned int band, const IndexType* corners, std::vector<std::size_t> order, GDALDataType type,
                 char* to) const;

  std::vector<Input> m_Inputs;
  SamplingGrid m_Grid;
  SizeValue m_Width = 0;
  SizeValue m_Height = 0;
  unsigned int m_Bands = 0;
  GDALDataType m_Type = GDT_Byte;
  IndexType m_Block = {{1, 1}}; ///< size of the files' largest blocks
  GIntBig m_CacheBytes = 0;
  bool m_IsFromFiles = true;
  mutable std::vector<std::unique_ptr<Stack>> m_Stacks; ///< one a thread: GDAL's datasets are not to be shared
};

} // namespace otb

#endif
