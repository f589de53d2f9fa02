/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbPatchReader_h
#define otbPatchReader_h

#include "otbImageStack.h"
#include "otbSamplingGrid.h"

#include "gdal.h"

#include <memory>
#include <string>
#include <vector>

namespace otb
{

/** \brief Images of one grid, and the files that they can be read from directly.
 * \ingroup OTBSuperResolutionTools
 */
struct PatchImages
{
  ImageStack stack;
  std::vector<std::string> files; ///< one for each image, without options in its name; empty where there is none
};

/** \class PatchReader
 * \brief Reads many patches of one size out of stacked images.
 *
 * Patches are read in the order in which they lie in the image. Files are read through GDAL in their own pixel type, by all threads, so
 * that each block of a compressed file is decoded about once a call; when an image has no such file (it is in memory, or its name has
 * options), the stack is read through its pipeline. What is kept in memory does not grow with the number of patches.
 *
 * \ingroup OTBSuperResolutionTools
 */
class PatchReader
{
public:
  using IndexType = itk::Index<2>;
  using SizeValue = SamplingGrid::SizeValue;

  /** \param name for messages ("source 1"). \throws std::runtime_error when there is no image or a patch size is zero. */
  PatchReader(const PatchImages& images, SizeValue width, SizeValue height, const std::string& name);
  ~PatchReader();
  PatchReader(const PatchReader&) = delete;
  PatchReader& operator=(const PatchReader&) = delete;

  const SamplingGrid& GetGrid() const
  {
    return m_Stack.GetGrid();
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
    return m_Stack.GetNumberOfBands();
  }
  /** The smallest real pixel type that holds every image's pixels. */
  GDALDataType GetType() const
  {
    return m_Type;
  }

  /** Whether the pixels come from files and not through a pipeline, so that Read may run in a thread of its own. */
  bool IsFromFiles() const
  {
    return !m_Files.empty();
  }

  /** The block (column, row) of the file in which a patch begins. */
  IndexType BlockOf(const IndexType& corner) const;

  /** How many patches of so many bytes are best read and written at a time, at least one. */
  std::size_t GetGroup(std::size_t bytes) const;

  /** How many decoded blocks stay in GDAL's cache from one call of Read to the next. */
  std::size_t GetKeptBlocks() const;

  /** Read `count` patches, given by their first pixels' indices, which must be inside: [count, height, width, bands] of `type`, as GDAL
   * converts (rounded, clamped). Not to be called by two threads at once. \throws std::runtime_error when a file cannot be read. */
  void Read(const IndexType* corners, std::size_t count, GDALDataType type, void* to) const;

  /** Positions in `corners` in the order in which the patches are best read. */
  std::vector<std::size_t> ReadingOrder(const IndexType* corners, std::size_t count) const;

private:
  struct Handles;

  bool OpenFiles();
  /** Reads all patches from the files, by all threads. */
  void ReadFiles(const IndexType* corners, const std::vector<std::size_t>& order, GDALDataType type, char* to) const;
  void ReadShare(Handles& handles, const IndexType* corners, const std::vector<std::size_t>& share, GDALDataType type, char* to) const;
  /** Reads all patches through the pipeline, strip by strip. */
  template <class TPixel>
  void ReadStack(const IndexType* corners, const std::vector<std::size_t>& order, GDALDataType type, char* to) const;

  ImageStack m_Stack;
  std::vector<std::string> m_Files; ///< empty: read the stack
  SizeValue m_Width = 0;
  SizeValue m_Height = 0;
  GDALDataType m_Type = GDT_Byte;
  IndexType m_Block = {{1, 1}};                            ///< size of the files' largest blocks
  GIntBig m_CacheBytes = 0;                                ///< of GDAL's cache, for all images
  GIntBig m_BlockBytes = 0;                                ///< of one block of all bands of all images
  mutable std::vector<std::unique_ptr<Handles>> m_Handles; ///< one a thread: GDAL's datasets are not to be shared
};

} // namespace otb

#endif
