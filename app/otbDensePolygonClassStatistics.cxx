/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLegacyMacros.h"
#include "otbPolygonPixels.h"

#include "otbGeometriesProjectionFilter.h"
#include "otbGeometriesSet.h"
#include "otbOGRDataSourceWrapper.h"
#include "otbWrapperApplication.h"
#include "otbWrapperApplicationFactory.h"
#include "otbWrapperComplaint.h"
#include "otbWrapperElevationParametersHandler.h"
#include "otbWrapperParameters.h"

#include <algorithm>
#include <cctype>

namespace otb
{
namespace Wrapper
{

/** \class DensePolygonClassStatistics
 * \brief Counts the pixels in polygons, by class and by polygon: a shell over PolygonPixels.
 * \ingroup OTBSuperResolutionTools
 */
class DensePolygonClassStatistics : public Application
{
public:
  using Self = DensePolygonClassStatistics;
  using Superclass = Application;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  itkNewMacro(Self);
  itkTypeMacro(DensePolygonClassStatistics, otb::Wrapper::Application);

private:
  void DoInit() override
  {
    SetName("DensePolygonClassStatistics");
    SetDescription("Counts the pixels in polygons, by class and by polygon, for many polygons.");
    SetDocLongDescription(
        "The polygons are drawn on the image's grid, and a pixel belongs to the polygon that holds its centre. The result is "
        "a file as PolygonClassStatistics writes it, which SampleSelection reads; where polygons cover much of the image, it "
        "is there much sooner.");
    SetDocLimitations(
        "A pixel in several polygons counts for the last one. No-data of the image plays no role, as SampleSelection draws from "
        "all pixels of the polygons.");
    SetDocAuthors("The otbsr developers");
    SetDocSeeAlso("PolygonClassStatistics, SampleSelection");
    AddDocTag(Tags::Learning);

    AddParameter(ParameterType_InputImage, "in", "Image");
    SetParameterDescription("in", "The image whose pixels are counted.");
    AddParameter(ParameterType_InputVectorData, "vec", "Polygons");
    SetParameterDescription("vec", "Vector data, whose first layer is read. It is brought to the image's CRS.");
    AddParameter(ParameterType_OutputFilename, "out", "Counts");
    SetParameterDescription("out", "File of type .xml.");
    AddParameter(ParameterType_Field, "field", "Field of the class");
    SetParameterDescription("field", "Field of the polygons with the class: text or integers.");
    SetListViewSingleSelectionMode("field", true);
    SetVectorData("field", "vec");
    SetTypeFilter("field", {OFTString, OFTInteger, OFTInteger64});
    ElevationParametersHandler::AddElevationParameters(this, "elev");
    AddRAMParameter();
    RefuseWords(*this);

    SetDocExampleParameterValue("in", "sentinel2.tif");
    SetDocExampleParameterValue("vec", "polygons.gpkg");
    SetDocExampleParameterValue("field", "class");
    SetDocExampleParameterValue("out", "counts.xml");
  }

  /** The polygons' file; OTB does not look whether it has a layer. */
  ogr::DataSource::Pointer Vectors()
  {
    auto vectors = ogr::DataSource::New(GetParameterString("vec"), ogr::DataSource::Modes::Read);
    if (vectors->GetLayersCount() < 1)
    {
      otbAppLogFATAL(<< GetParameterString("vec") << ": has no layer; give a file with polygons");
    }
    return vectors;
  }

  void DoUpdateParameters() override
  {
    if (!HasValue("vec"))
    {
      return;
    }
    // The field is looked up among these choices: key (letters and digits, lower case) and name.
    ClearChoices("field");
    auto vectors = this->Vectors();
    OGRFeatureDefn& definition = vectors->GetLayer(0).GetLayerDefn();
    const auto types = GetTypeFilter("field");
    for (int k = 0; k < definition.GetFieldCount(); ++k)
    {
      const std::string name = definition.GetFieldDefn(k)->GetNameRef();
      if (std::find(types.begin(), types.end(), definition.GetFieldDefn(k)->GetType()) != types.end())
      {
        std::string key;
        for (const unsigned char letter : name)
        {
          key += std::isalnum(letter) ? std::string(1, static_cast<char>(std::tolower(letter))) : "";
        }
        AddChoice("field." + key, name);
      }
    }
  }

  void DoExecute() override
  {
    const std::string said = ComplaintOf([this]() { Count(); });
    if (!said.empty())
    {
      otbAppLogFATAL(<< said);
    }
  }

  void Count()
  {
    const std::string out = GetParameterString("out");
    const auto dot = out.rfind('.'), slash = out.rfind('/');
    std::string ending = dot == std::string::npos || (slash != std::string::npos && dot < slash) ? "" : out.substr(dot);
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char letter) { return std::tolower(letter); });
    if (ending != ".xml")
    {
      throw std::runtime_error((ending.empty() ? "no ending" : ending) + " is a wrong extension for parameter \"out\": Expected .xml");
    }
    const auto selected = GetSelectedItems("field");
    if (selected.empty())
    {
      throw std::runtime_error("no field is selected; give the name of a field of text or integers that the polygons have");
    }
    const std::string field = GetChoiceNames("field")[static_cast<std::size_t>(selected.front())];
    ElevationParametersHandler::SetupDEMHandlerFromElevationParameters(this, "elev");

    FloatVectorImageType* image = GetParameterImage("in");
    image->UpdateOutputInformation();
    auto vectors = this->Vectors();
    auto inPlace = this->Reprojected(vectors, image);
    auto layer = inPlace->GetLayer(0);
    const PolygonPixels pixels(SamplingGrid::FromImage(image), layer.ogr(), field, std::size_t(GetParameterInt("ram")) << 19);
    if (pixels.GetSkipped() > 0)
    {
      otbAppLogWARNING(<< pixels.GetSkipped() << " features have no geometry or no value in the field: skipped");
    }
    pixels.Write(out);
    otbAppLogINFO(<< pixels.GetClasses().size() << " classes in " << pixels.GetFeatures().size() << " polygons");
  }

  /** The vectors in the image's CRS, or its sensor geometry; as they are when one of both is not known. */
  ogr::DataSource::Pointer Reprojected(const ogr::DataSource::Pointer& vectors, const FloatVectorImageType* image)
  {
    const std::string from = vectors->GetLayer(0).GetProjectionRef(), to = image->GetProjectionRef();
    const OGRSpatialReference source(from.c_str()), target(to.c_str());
    const auto& metadata = image->GetImageMetadata();
    if (from.empty() || (to.empty() ? !metadata.HasSensorGeometry() : source.IsSame(&target) != 0))
    {
      return vectors;
    }
    otbAppLogINFO("The polygons are brought to the image's CRS");
    auto result = ogr::DataSource::New();
    auto filter = GeometriesProjectionFilter::New();
    filter->SetInput(GeometriesSet::New(vectors));
    if (to.empty())
    {
      filter->SetOutputImageMetadata(&metadata);
    }
    filter->SetOutputProjectionRef(to);
    filter->SetOutput(GeometriesSet::New(result));
    filter->Update();
    return result;
  }
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::DensePolygonClassStatistics)
