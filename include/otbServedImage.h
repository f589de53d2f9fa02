/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbServedImage_h
#define otbServedImage_h

#include "otbSamplingGrid.h"

#include "otbImageMetadata.h"

#include <array>
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

/** Remove a file, if it is a plain one: not a device or a folder. */
void RemovePlainFile(const std::string& file);

/** The folder of that file. */
std::string FolderOf(const std::string& extendedName);

/** Check an image file before OTB reads it: it opens, its pixels are not complex, its grid is axis-aligned.
 * In-memory images (no file name) pass. \throws ServedImageError or SamplingGridError */
void RequireServableFile(const std::string& extendedName);

/** Whether a file has values that float32 cannot hold: integers of 32 or 64 bits, or float64. False if it cannot be opened. */
bool NeedsDouble(const std::string& extendedName);

/** The no-data value of each band in an image's metadata; empty if no band has one. */
std::vector<double> NoDataOf(const ImageMetadata& metadata, unsigned int bands);

/** \class WritingOptions
 * \brief What an output's extended file name asks of OTB's writer.
 * \ingroup OTBSuperResolutionTools
 */
struct WritingOptions
{
  bool isGeoTiff = false;
  bool isPlain = true; ///< no options at all
  bool isStreamingGiven = false;
  bool isInStrips = false;                              ///< the writer asks for, or the file stores, whole rows
  std::array<SamplingGrid::IndexValue, 2> tile{{1, 1}}; ///< columns and rows that the file stores together; columns are 1 for strips
  bool isStoredWhole = false;                           ///< a GeoTIFF that takes as many bytes as it has values
  bool leavesThreadsOpen = false;                       ///< compression is asked for, by any number of threads
  bool hasBox = false;                                  ///< only part of the image is written:
  SamplingGrid::RegionType box;                         ///< in output pixels
};

WritingOptions ReadWritingOptions(const std::string& extendedName);

/** \class WritingPlan
 * \brief The blocks that a model is run on, and how the writer is to ask for them. Sizes are in output pixels, x and y.
 * \ingroup OTBSuperResolutionTools
 */
struct WritingPlan
{
  using PairType = std::array<SamplingGrid::IndexValue, 2>;
  PairType block{{0, 0}}; ///< 0: whatever the writer asks for
  PairType hint{{0, 0}};  ///< region that the writer should ask for
  size_t bytesPerPixel = 1;
  PairType size{{0, 0}}; ///< what is written
};

/** The blocks that cost a model the least: the recomputed margins are small, and a last column or row is not thin.
 * \param size of the output \param step that blocks are multiples of
 * \param margin output pixels that the model computes and throws away, both sides together
 * \param mostPixels of a block with its margins
 * \param mostRows of a block (0: any) */
std::array<SamplingGrid::IndexValue, 2> PlanBlocks(const std::array<SamplingGrid::IndexValue, 2>& size,
                                                   const std::array<SamplingGrid::IndexValue, 2>& step,
                                                   const std::array<SamplingGrid::IndexValue, 2>& margin, double mostPixels,
                                                   SamplingGrid::IndexValue mostRows);

/** The height, at most `height`, of strips that OTB's writer asks for (it makes them even), so that it is a multiple of `step`: blocks of
 * this height are asked for whole. `height` itself if there is none. */
SamplingGrid::IndexValue EvenStrips(SamplingGrid::IndexValue rows, SamplingGrid::IndexValue height, SamplingGrid::IndexValue step);

/** Bytes of GDAL's cache with which nothing is decoded, or encoded, twice: a part of the tiles of a row of them if the writer does not ask
 * for whole ones. */
double WritingCache(const WritingPlan& plan, const WritingOptions& options);

/** The same for reading `area` pixels of an image again and again, along its rows: what a file in strips, or the area's tiles, take. 0 for
 * images that are in memory. */
double ReadingCache(const itk::ImageBase<2>& image, const std::array<SamplingGrid::IndexValue, 2>& area);

/** The output's extended file name with what makes writing fast. A GeoTIFF without options of the user's: in tiles, compressed. Unless the
 * user says how to stream: in the model's blocks, or in strips for a file of strips. */
std::string WithFastWriting(const std::string& extendedName, const WritingPlan& plan, bool isReal, bool hasNoData, double noData);

/** The name under which a GeoTIFF is written until it is whole: hidden, in the same folder. Empty for other formats and places, which are
 * written in place. */
std::string PartialNameOf(const std::string& extendedName);

/** The output's extended file name for an image of patches, one below the other: written in blocks of whole patches, a few at a time; a
 * GeoTIFF band after band in strips of whole patches, so that each is read in one go and nothing need be taken apart. What the name has of
 * the user's options stays. \param height of a patch in pixels \param bandBytes of one band of a patch \param groupPatches how many are
 * written at a time */
std::string WithPatchWriting(const std::string& extendedName, std::size_t height, std::size_t bandBytes, std::size_t groupPatches);

/** Check that a file can be created where the output's name says, before any work. \throws ServedImageError */
void RequireWritableFolder(const std::string& extendedName);

/** The same for a file that takes so many bytes: whether the disk has them. OTB's writer would say it in its own way, hours later.
 * \throws ServedImageError */
void RequireRoom(const std::string& extendedName, double bytes);

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

  /** What is wrong with a file that the writer has closed; empty if no error was seen, the file opens, and its last block can be read. */
  std::string FindDamage(const std::string& extendedName) const;

  /** A damaged product is removed. \throws ServedImageError
   * \param written the file if it does not have the product's name yet */
  void RequireWhole(const std::string& extendedName, const std::string& written = "") const;

  /** The same of each of several products; the first complaint is thrown. */
  void RequireWhole(const std::vector<std::string>& extendedNames) const;

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
