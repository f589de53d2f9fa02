/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbPatchGrid.h"

#include "otbOGRDataSourceWrapper.h"
#include "otbOGRFeatureWrapper.h"
#include "otbWrapperApplication.h"
#include "otbWrapperApplicationFactory.h"

#include <cstdio>

namespace otb
{
namespace Wrapper
{

/** \class PatchesSelection
 * \brief Places patches on a regular grid and deals them out to training, validation and test: a shell over PatchGrid.
 * \ingroup OTBSuperResolutionTools
 */
class PatchesSelection : public Application
{
public:
  using Self = PatchesSelection;
  using Superclass = Application;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  itkNewMacro(Self);
  itkTypeMacro(PatchesSelection, otb::Wrapper::Application);

private:
  void DoInit() override
  {
    SetName("PatchesSelection");
    SetDescription("Places patches on a regular grid and deals them out to training, validation and test.");
    SetDocLongDescription(
        "Patches of one size are placed every few pixels over an image, where they are inside it and free of no-data. "
        "Each becomes a point, with a number in the field 'id', from which PatchesExtraction cuts the patch. The result is "
        "the same in every run.");
    SetDocLimitations("The strategy 'balanced' of OTBTF is not there.");
    SetDocAuthors("The otbsr developers");
    SetDocSeeAlso("PatchesExtraction");
    AddDocTag(Tags::Learning);

    AddParameter(ParameterType_InputImage, "in", "Image");
    SetParameterDescription("in", "The patches are placed on this image's pixels.");
    AddParameter(ParameterType_InputImage, "mask", "Mask");
    SetParameterDescription("mask",
                            "Image of the same size. Without a no-data value, a patch is kept where the mask is 1 at its centre; with one, "
                            "where the mask is nowhere 0 in it.");
    MandatoryOff("mask");
    AddParameter(ParameterType_Float, "nodata", "No-data value");
    SetParameterDescription("nodata", "A patch with a pixel that has this value in all bands is left out.");
    MandatoryOff("nodata");

    AddParameter(ParameterType_Group, "grid", "Grid of patches");
    AddParameter(ParameterType_Int, "grid.step", "Distance between the patches' centres in pixels");
    SetMinimumParameterIntValue("grid.step", 1);
    AddParameter(ParameterType_Int, "grid.psize", "Size of the patches in pixels");
    SetMinimumParameterIntValue("grid.psize", 1);
    AddParameter(ParameterType_Int, "grid.offsetx", "Columns that the grid is moved by");
    SetDefaultParameterInt("grid.offsetx", 0);
    AddParameter(ParameterType_Int, "grid.offsety", "Rows that the grid is moved by");
    SetDefaultParameterInt("grid.offsety", 0);

    AddParameter(ParameterType_Choice, "strategy", "How patches are dealt out");
    AddChoice("strategy.chessboard", "Training and validation as the black and white squares of a chessboard");
    AddChoice("strategy.split", "Training, validation and test in given proportions");
    AddParameter(ParameterType_Bool, "strategy.split.random", "Deal out in random order");
    AddParameter(ParameterType_Float, "strategy.split.trainprop", "Share of training");
    SetParameterDescription("strategy.split.trainprop", "Shares are relative to their sum.");
    AddParameter(ParameterType_Float, "strategy.split.validprop", "Share of validation");
    AddParameter(ParameterType_Float, "strategy.split.testprop", "Share of test");
    for (const std::string key : {"strategy.split.trainprop", "strategy.split.validprop", "strategy.split.testprop"})
    {
      SetDefaultParameterFloat(key, key == "strategy.split.trainprop" ? 50.f : 25.f);
      SetMinimumParameterFloatValue(key, 0.f);
    }
    AddChoice("strategy.all", "All patches are for training");

    AddParameter(ParameterType_OutputFilename, "outtrain", "Points of training");
    AddParameter(ParameterType_OutputFilename, "outvalid", "Points of validation");
    MandatoryOff("outvalid");
    AddParameter(ParameterType_OutputFilename, "outtest", "Points of test");
    MandatoryOff("outtest");
    AddRAMParameter();

    SetDocExampleParameterValue("in", "sentinel2.tif");
    SetDocExampleParameterValue("grid.step", "32");
    SetDocExampleParameterValue("grid.psize", "32");
    SetDocExampleParameterValue("outtrain", "train.gpkg");
    SetDocExampleParameterValue("outvalid", "valid.gpkg");
  }

  void DoUpdateParameters() override
  {
  }

  bool IsGiven(const std::string& key) const
  {
    return IsParameterEnabled(key) && HasValue(key);
  }

  void DoExecute() override
  {
    const std::array<std::string, 3> outputs = {"outtrain", "outvalid", "outtest"};
    PatchGrid grid;
    grid.step = GetParameterInt("grid.step");
    grid.size = GetParameterInt("grid.psize");
    grid.offset = {GetParameterInt("grid.offsetx"), GetParameterInt("grid.offsety")};
    if (HasUserValue("nodata"))
    {
      grid.noData = GetParameterFloat("nodata");
    }
    try
    {
      FloatVectorImageType* image = GetParameterImage("in");
      FloatImageType* mask = IsGiven("mask") ? GetParameterFloatImage("mask") : nullptr;
      const auto sites = grid.Place(image, mask, std::size_t(GetParameterInt("ram")) << 20);
      if (sites.empty())
      {
        throw std::runtime_error("no patch of " + std::to_string(grid.size) +
                                 " pixels can be placed; check the image's size, grid.psize, nodata and mask");
      }
      const std::string strategy = GetParameterString("strategy");
      std::vector<PatchGrid::Group> groups(sites.size(), 0);
      if (strategy == "chessboard")
      {
        groups = grid.Chessboard(sites);
      }
      else if (strategy == "split")
      {
        groups = PatchGrid::Split(sites.size(),
                                  {GetParameterFloat("strategy.split.trainprop"),
                                   IsGiven("outvalid") ? GetParameterFloat("strategy.split.validprop") : 0.,
                                   IsGiven("outtest") ? GetParameterFloat("strategy.split.testprop") : 0.},
                                  GetParameterInt("strategy.split.random") != 0);
      }
      // Numbers run on from one file to the next.
      int next = 0;
      auto wkt = image->GetProjectionRef();
      auto geometry = SamplingGrid::FromImage(image);
      for (PatchGrid::Group group = 0; group < outputs.size(); ++group)
      {
        const auto count = std::count(groups.begin(), groups.end(), group);
        if (IsGiven(outputs[group]) && count == 0)
        {
          otbAppLogWARNING(<< outputs[group] << ": no patch falls to it; the file is not written");
        }
        else if (IsGiven(outputs[group]))
        {
          const std::string file = GetParameterString(outputs[group]);
          try
          {
            WritePoints(file, wkt, geometry, grid, sites, groups, group, next);
          }
          catch (const itk::ExceptionObject& error)
          {
            std::remove(file.c_str());
            // GDAL puts whole SQL scripts into its messages.
            const std::string what = error.GetDescription();
            throw std::runtime_error(file + ": cannot be written (" +
                                     (what.size() > 200 ? what.substr(0, 100) + " ... " + what.substr(what.size() - 60) : what) +
                                     "); check the folder, the free space, and the ending of the name");
          }
          otbAppLogINFO(<< outputs[group] << ": " << count << " patches");
        }
        else if (count > 0)
        {
          otbAppLogWARNING(<< count << " patches fall to " << outputs[group] << ", which is not given: they are left out");
        }
      }
    }
    catch (const std::exception& error)
    {
      otbAppLogFATAL(<< error.what());
    }
  }

  static void WritePoints(const std::string& file, const std::string& wkt, const SamplingGrid& geometry, const PatchGrid& grid,
                          const std::vector<PatchGrid::Site>& sites, const std::vector<PatchGrid::Group>& groups, PatchGrid::Group group,
                          int& next)
  {
    std::size_t count = 0;
    {
      auto data = ogr::DataSource::New(file, ogr::DataSource::Modes::Overwrite);
      OGRSpatialReference reference;
      const bool hasReference = !wkt.empty() && reference.importFromWkt(wkt.c_str()) == OGRERR_NONE;
#if GDAL_VERSION_NUM >= 3000000
      reference.SetAxisMappingStrategy(OAMS_TRADITIONAL_GIS_ORDER);
#endif
      auto layer = data->CreateLayer("patches", hasReference ? &reference : nullptr, wkbPoint);
      OGRFieldDefn field("id", OFTInteger);
      layer.CreateField(field, true);
      const auto start = layer.ogr().StartTransaction();
      for (std::size_t k = 0; k < sites.size(); ++k)
      {
        if (groups[k] != group)
        {
          continue;
        }
        const auto at = grid.PointOf(sites[k], geometry);
        OGRPoint point(at[0], at[1]);
        ogr::Feature feature(layer.GetLayerDefn());
        feature.SetGeometry(&point);
        feature["id"].SetValue(next++);
        layer.CreateFeature(feature);
        ++count;
      }
      if (start == OGRERR_NONE && layer.ogr().CommitTransaction() != OGRERR_NONE)
      {
        throw std::runtime_error(file + ": cannot be written; check the free space");
      }
    }
    // A full disk is not reported by all drivers.
    auto written = ogr::DataSource::New(file, ogr::DataSource::Modes::Read);
    if (written->GetLayersCount() != 1 || written->GetLayer(0).GetFeatureCount(true) != static_cast<int>(count))
    {
      throw std::runtime_error(file + ": holds not all of the " + std::to_string(count) + " points after writing; is the disk full?");
    }
  }
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::PatchesSelection)
