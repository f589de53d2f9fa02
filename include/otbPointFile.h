/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbPointFile_h
#define otbPointFile_h

#include "otbSamplingGrid.h"

#include "ogrsf_frmts.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace otb
{

/** \class PointFile
 * \brief Writes points with integer fields to a vector file, whose name appears only once it is whole.
 *
 * The file is made in a temporary folder beside its place. Until Publish, a file of that name stays as it was, and nothing else is left.
 *
 * \ingroup OTBSuperResolutionTools
 */
class PointFile
{
public:
  using PointType = SamplingGrid::PointType;
  /** Name and OFTInteger or OFTInteger64. */
  using FieldType = std::pair<std::string, OGRFieldType>;

  /** \param file the extension tells the format; the layer has its name without extension
   * \param wkt projection; may be empty
   * \throws std::runtime_error if the file cannot be created */
  PointFile(const std::string& file, const std::string& wkt, const std::vector<FieldType>& fields);
  ~PointFile();
  PointFile(const PointFile&) = delete;
  PointFile& operator=(const PointFile&) = delete;

  /** \param values one for each field. \throws std::runtime_error */
  void Add(const PointType& point, const std::vector<long long>& values);

  std::size_t GetSize() const
  {
    return m_Size;
  }

  /** Closes the file and reads it back: a full disk is not reported by all drivers. \throws std::runtime_error */
  void Finish();

  /** Gives the finished file its name. \throws std::runtime_error */
  void Publish();

private:
  [[noreturn]] void Fail(const std::string& cause) const;

  std::string m_File;
  std::string m_Folder; ///< temporary
  std::string m_Path;   ///< in it
  std::unique_ptr<GDALDataset> m_Data;
  OGRLayer* m_Layer = nullptr;
  bool m_HasTransaction = false;
  std::size_t m_Size = 0;
};

} // namespace otb

#endif
