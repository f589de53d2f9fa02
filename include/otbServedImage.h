/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbServedImage_h
#define otbServedImage_h

#include "otbImageMetadata.h"

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace otb
{

/** \class ServedImageError
 * \brief An image that cannot be served, or a product that was not written whole.
 * \ingroup OTBSuperResolutionTools
 */
class ServedImageError : public std::runtime_error
{
public:
  using std::runtime_error::runtime_error;
};

/** The file of an extended file name: what stands before "?&". */
std::string FileOfExtendedName(const std::string& name);

/** The folder of that file. */
std::string FolderOf(const std::string& extendedName);

/** Check an image file before OTB reads it: it opens, its pixels are not complex, its grid is axis-aligned.
 * In-memory images (no file name) pass. \throws ServedImageError or SamplingGridError */
void RequireServableFile(const std::string& extendedName);

/** The no-data value of each band in an image's metadata; empty if no band has one. */
std::vector<double> NoDataOf(const ImageMetadata& metadata, unsigned int bands);

/** The output's extended file name with what makes writing fast: a GeoTIFF in tiles, compressed, written in the model's blocks; unless the
 * name has options of the user's, or is no GeoTIFF. \param blocks as NumberOfWritingBlocks gives it */
std::string WithTiledWriting(const std::string& extendedName, unsigned int blocks, bool isReal, bool hasNoData, double noData);

/** The output's extended file name for an image of patches, one below the other: written in blocks of whole patches, a few at a time; a
 * GeoTIFF in strips of whole patches, so that each is read in one go. What the name has of the user's options stays. \param bytes of a
 * patch */
std::string WithPatchWriting(const std::string& extendedName, std::size_t height, std::size_t bytes);

/** Check that a file can be created where the output's name says, before any work. \throws ServedImageError */
void RequireWritableFolder(const std::string& extendedName);

/** The number of blocks to ask OTB's writer for, so that its square blocks are about `block` output pixels wide and cost the model least:
 * OTB derives the width from the number, and a thin last column would be fed with all its margin.
 * \param margin output pixels that the model throws away, both sides together */
unsigned int NumberOfWritingBlocks(size_t width, size_t height, unsigned int block, double margin);

/** \class WriteMonitor
 * \brief Collects GDAL's errors while a product is written, because OTB overlooks them (a full disk), and checks the product afterwards.
 * \ingroup OTBSuperResolutionTools
 */
class WriteMonitor
{
public:
  WriteMonitor();
  ~WriteMonitor();
  WriteMonitor(const WriteMonitor&) = delete;
  WriteMonitor& operator=(const WriteMonitor&) = delete;

  /** Call once the writer has closed the file: no error was seen, the file opens, and its last block can be read. A damaged product is
   * removed. \throws ServedImageError */
  void RequireWhole(const std::string& extendedName);

  /** First error so far; empty if none. */
  std::string FirstError() const;

private:
  struct State;
  std::unique_ptr<State> m_State;
};

/** Name the bands of a file that has that many. Formats that cannot are left as they are. */
void NameBands(const std::string& extendedName, const std::vector<std::string>& names);

} // namespace otb

#endif
