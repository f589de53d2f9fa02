/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbPointFile.h"
#include "otbServedImage.h"

#include "cpl_conv.h"
#include "cpl_error.h"
#include "cpl_string.h"
#include "cpl_vsi.h"
#include "gdal_priv.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace otb
{
namespace
{

std::string BaseName(const std::string& file)
{
  const auto slash = file.rfind('/');
  return slash == std::string::npos ? file : file.substr(slash + 1);
}

std::unique_ptr<GDALDataset> Open(const std::string& file)
{
  CPLPushErrorHandler(CPLQuietErrorHandler);
  std::unique_ptr<GDALDataset> dataset(
      static_cast<GDALDataset*>(GDALOpenEx(file.c_str(), GDAL_OF_VECTOR | GDAL_OF_READONLY, nullptr, nullptr, nullptr)));
  CPLPopErrorHandler();
  return dataset;
}

/** The driver that writes files with that ending; null if there is none. */
GDALDriver* DriverOf(const std::string& name)
{
  const std::string ending = CPLGetExtension(name.c_str());
  for (int k = 0; !ending.empty() && k < GetGDALDriverManager()->GetDriverCount(); ++k)
  {
    GDALDriver* driver = GetGDALDriverManager()->GetDriver(k);
    const char* endings = driver->GetMetadataItem(GDAL_DMD_EXTENSIONS);
    if (driver->GetMetadataItem(GDAL_DCAP_VECTOR) != nullptr && driver->GetMetadataItem(GDAL_DCAP_CREATE) != nullptr && endings != nullptr)
    {
      const CPLStringList list(CSLTokenizeString2(endings, " ", 0));
      if (list.FindString(ending.c_str()) >= 0)
      {
        return driver;
      }
    }
  }
  return nullptr;
}

/** GDAL puts whole SQL scripts into its messages. */
std::string Shortened(std::string text)
{
  for (char& letter : text)
  {
    letter = letter == '\n' ? ' ' : letter;
  }
  return text.size() > 200 ? text.substr(0, 100) + " ... " + text.substr(text.size() - 60) : text;
}

} // namespace

void PointFile::Fail(const std::string& cause) const
{
  throw std::runtime_error(m_File + ": cannot be written (" + Shortened(cause) +
                           "); check the folder, the free space, and the ending of the name");
}

PointFile::PointFile(const std::string& file, const std::string& wkt, const std::vector<FieldType>& fields) : m_File(file)
{
  RequireWritableFolder(file);
  m_Folder = FolderOf(file) + "/.points-XXXXXX";
  if (mkdtemp(m_Folder.data()) == nullptr)
  {
    m_Folder.clear();
    this->Fail(std::strerror(errno));
  }
  m_Path = m_Folder + "/" + BaseName(file);
  GDALAllRegister();
  CPLPushErrorHandler(CPLQuietErrorHandler); // told once, by us
  CPLErrorReset();
  const std::string name = BaseName(file), stem = name.substr(0, name.rfind('.'));
  GDALDriver* driver = DriverOf(name);
  m_Data.reset(driver == nullptr ? nullptr : driver->Create(m_Path.c_str(), 0, 0, 0, GDT_Unknown, nullptr));
  if (m_Data != nullptr)
  {
    OGRSpatialReference reference;
    const bool hasReference = !wkt.empty() && reference.importFromWkt(wkt.c_str()) == OGRERR_NONE;
#if GDAL_VERSION_NUM >= 3000000
    reference.SetAxisMappingStrategy(OAMS_TRADITIONAL_GIS_ORDER);
#endif
    m_Layer = m_Data->CreateLayer(stem.c_str(), hasReference ? &reference : nullptr, wkbPoint, nullptr);
  }
  for (const FieldType& field : fields)
  {
    OGRFieldDefn definition(field.first.c_str(), field.second);
    m_Layer = m_Layer != nullptr && m_Layer->CreateField(&definition) == OGRERR_NONE ? m_Layer : nullptr;
  }
  m_HasTransaction = m_Layer != nullptr && m_Layer->StartTransaction() == OGRERR_NONE; // not all formats have them
  const std::string cause = driver == nullptr ? "no vector format has that ending" : CPLGetLastErrorMsg();
  if (m_Layer == nullptr)
  {
    m_Data.reset();
    VSIRmdirRecursive(m_Folder.c_str());
  }
  CPLPopErrorHandler();
  if (m_Layer == nullptr)
  {
    this->Fail(cause);
  }
}

PointFile::~PointFile()
{
  CPLPushErrorHandler(CPLQuietErrorHandler);
  m_Data.reset();
  CPLPopErrorHandler();
  VSIRmdirRecursive(m_Folder.c_str());
}

void PointFile::Add(const PointType& point, const std::vector<long long>& values)
{
  OGRFeature feature(m_Layer->GetLayerDefn());
  OGRPoint geometry(point[0], point[1]);
  feature.SetGeometry(&geometry);
  for (std::size_t k = 0; k < values.size(); ++k)
  {
    feature.SetField(static_cast<int>(k), static_cast<GIntBig>(values[k]));
  }
  CPLPushErrorHandler(CPLQuietErrorHandler);
  const OGRErr result = m_Layer->CreateFeature(&feature);
  const std::string cause = CPLGetLastErrorMsg();
  CPLPopErrorHandler();
  if (result != OGRERR_NONE)
  {
    this->Fail(cause);
  }
  ++m_Size;
}

void PointFile::Finish()
{
  CPLPushErrorHandler(CPLQuietErrorHandler);
  CPLErrorReset();
  const bool isCommitted = !m_HasTransaction || m_Layer->CommitTransaction() == OGRERR_NONE;
  m_Layer = nullptr;
  m_Data.reset();
  std::string cause = !isCommitted || CPLGetLastErrorType() >= CE_Failure ? CPLGetLastErrorMsg() : "";
  CPLPopErrorHandler();
  const auto written = cause.empty() ? Open(m_Path) : nullptr;
  if (cause.empty() &&
      (!written || written->GetLayerCount() != 1 || written->GetLayer(0)->GetFeatureCount(true) != static_cast<GIntBig>(m_Size)))
  {
    cause = "it holds not all of the " + std::to_string(m_Size) + " points after writing";
  }
  if (!cause.empty())
  {
    this->Fail(cause);
  }
}

void PointFile::Publish()
{
  if (const auto previous = Open(m_File))
  {
    // Files beside it (a spatial index) would go with the wrong points.
    char** names = previous->GetFileList();
    for (char** name = names; name != nullptr && *name != nullptr; ++name)
    {
      std::remove(*name);
    }
    CSLDestroy(names);
  }
  char** names = VSIReadDir(m_Folder.c_str());
  std::string cause;
  for (char** name = names; name != nullptr && *name != nullptr; ++name)
  {
    const std::string entry = *name;
    if (entry != "." && entry != ".." && std::rename((m_Folder + "/" + entry).c_str(), (FolderOf(m_File) + "/" + entry).c_str()) != 0)
    {
      cause = std::strerror(errno);
    }
  }
  CSLDestroy(names);
  if (!cause.empty())
  {
    this->Fail(cause);
  }
}

} // namespace otb
