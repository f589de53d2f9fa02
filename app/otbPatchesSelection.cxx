/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLegacyMacros.h"
#include "otbPatchGrid.h"
#include "otbPointFile.h"

#include "otbWrapperApplication.h"
#include "otbWrapperApplicationFactory.h"
#include "otbWrapperComplaint.h"
#include "otbWrapperParameters.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <sstream>

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
    SetDocLimitations("None");
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
    AddParameter(ParameterType_Float, "nodata", "No-data value (pixel value)");
    SetParameterDescription("nodata", "A patch with a pixel that has this value in all bands is left out.");
    MandatoryOff("nodata");
    AllowNan(*this, "nodata");

    AddParameter(ParameterType_Group, "grid", "Grid of patches");
    AddParameter(ParameterType_Int, "grid.step", "Distance between the patches' centres in pixels");
    AddParameter(ParameterType_Int, "grid.psize", "Size of the patches in pixels");
    AddParameter(ParameterType_Int, "grid.offsetx", "Columns that the grid is moved by (pixels)");
    SetDefaultParameterInt("grid.offsetx", 0);
    AddParameter(ParameterType_Int, "grid.offsety", "Rows that the grid is moved by (pixels)");
    SetDefaultParameterInt("grid.offsety", 0);

    AddParameter(ParameterType_Choice, "strategy", "How patches are dealt out");
    AddChoice("strategy.chessboard", "Training and validation as the black and white squares of a chessboard");
    AddChoice("strategy.split", "Training, validation and test in given proportions");
    AddParameter(ParameterType_Bool, "strategy.split.random", "Deal out in random order");
    MandatoryOff("strategy.split.random");
    AddParameter(ParameterType_Float, "strategy.split.trainprop", "Share of training (relative)");
    SetParameterDescription("strategy.split.trainprop", "Shares are relative to their sum.");
    AddParameter(ParameterType_Float, "strategy.split.validprop", "Share of validation (relative)");
    AddParameter(ParameterType_Float, "strategy.split.testprop", "Share of test (relative)");
    for (const std::string key : {"strategy.split.trainprop", "strategy.split.validprop", "strategy.split.testprop"})
    {
      SetDefaultParameterFloat(key, key == "strategy.split.trainprop" ? 50.f : 25.f);
    }
    AddChoice("strategy.all", "All patches are for training");
    AddChoice("strategy.balanced", "A share of the patches, chosen so that their classes are as even as possible, for training");
    AddParameter(ParameterType_Float, "strategy.balanced.sp", "Share of the patches that is chosen (0 to 1)");
    SetParameterDescription("strategy.balanced.sp", "Between 0 and 1, of all patches that can be placed.");
    SetDefaultParameterFloat("strategy.balanced.sp", 0.25f);
    AddParameter(ParameterType_Int, "strategy.balanced.nclasses", "Number of classes");
    SetParameterDescription("strategy.balanced.nclasses", "Classes are the labels 0, 1 ... nclasses - 1; other labels do not count.");
    AddParameter(ParameterType_InputImage, "strategy.balanced.labelimage", "Label image");
    SetParameterDescription("strategy.balanced.labelimage", "Image of the same size as the image, with the class of each pixel.");

    AddParameter(ParameterType_OutputFilename, "outtrain", "Points of training");
    AddParameter(ParameterType_OutputFilename, "outvalid", "Points of validation");
    MandatoryOff("outvalid");
    AddParameter(ParameterType_OutputFilename, "outtest", "Points of test");
    MandatoryOff("outtest");
    AddRAMParameter();
    RefuseWords(*this);

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

  double Share(const std::string& group)
  {
    return GetRealWithin(*this, "strategy.split." + group + "prop", 0, std::numeric_limits<float>::max());
  }

  void DoExecute() override
  {
    const std::string said = ComplaintOf([this]() { Select(); });
    if (!said.empty())
    {
      otbAppLogFATAL(<< said);
    }
  }

  void Select()
  {
    PatchGrid grid;
    grid.step = GetIntegerFrom(*this, "grid.step", 1);
    grid.size = GetIntegerFrom(*this, "grid.psize", 1);
    grid.offset = {GetParameterInt("grid.offsetx"), GetParameterInt("grid.offsety")};
    if (HasUserValue("nodata"))
    {
      grid.noData = static_cast<float>(GetFloatOrNan(*this, "nodata"));
    }
    RequireServableFile(GetParameterString("in"));
    FloatVectorImageType* image = GetParameterImage("in");
    FloatImageType* mask = IsGiven("mask") ? GetParameterFloatImage("mask") : nullptr;
    for (const std::string key : {"outtrain", "outvalid", "outtest"})
    {
      if (IsGiven(key))
      {
        RequireOwnFile(*this, key);
      }
    }
    const auto sites = grid.Place(image, mask, std::size_t(GetParameterInt("ram")) << 20);
    if (sites.empty())
    {
      throw std::runtime_error("no patch of " + std::to_string(grid.size) +
                               " pixels can be placed; check the image's size, grid.psize, nodata and mask");
    }
    const std::string strategy = GetParameterString("strategy");
    const std::vector<std::string> outputs = {"outtrain", "outvalid", "outtest"};
    std::size_t used = outputs.size(); // outputs that the strategy fills
    std::vector<PatchGrid::Group> groups(sites.size(), 0);
    if (strategy == "chessboard")
    {
      used = 2;
      groups = grid.Chessboard(sites);
    }
    else if (strategy == "split")
    {
      groups = PatchGrid::Split(sites.size(),
                                {Share("train"), IsGiven("outvalid") ? Share("valid") : 0., IsGiven("outtest") ? Share("test") : 0.},
                                GetParameterInt("strategy.split.random") != 0);
    }
    else
    {
      used = 1;
      groups = strategy == "balanced" ? Balance(grid, sites, image) : groups;
    }

    // Numbers run on from one file to the next.
    long long next = 0;
    const auto geometry = SamplingGrid::FromImage(image);
    std::vector<std::unique_ptr<PointFile>> files;
    for (PatchGrid::Group group = 0; group < outputs.size(); ++group)
    {
      const auto count = std::count(groups.begin(), groups.end(), group);
      const bool isGiven = IsGiven(outputs[group]);
      if (isGiven && group >= used)
      {
        otbAppLogWARNING(<< outputs[group] << " is ignored: strategy " << strategy << " does not fill it");
      }
      else if (isGiven && count == 0)
      {
        otbAppLogWARNING(<< outputs[group] << ": no patch falls to it; the file is not written");
      }
      else if (isGiven)
      {
        files.push_back(std::make_unique<PointFile>(GetParameterString(outputs[group]), image->GetProjectionRef(),
                                                    std::vector<PointFile::FieldType>{{"id", OFTInteger}}));
        for (std::size_t k = 0; k < sites.size(); ++k)
        {
          if (groups[k] == group)
          {
            files.back()->Add(grid.PointOf(sites[k], geometry), {next++});
          }
        }
        files.back()->Finish();
        otbAppLogINFO(<< outputs[group] << ": " << count << " patches");
      }
      else if (count > 0)
      {
        otbAppLogWARNING(<< count << " patches fall to " << outputs[group] << ", which is not given: they are left out");
      }
    }
    for (const auto& file : files)
    {
      file->Publish();
    }
  }

  std::vector<PatchGrid::Group> Balance(const PatchGrid& grid, const std::vector<PatchGrid::Site>& sites, const FloatVectorImageType* image)
  {
    const double share = GetRealWithin(*this, "strategy.balanced.sp", 0, 1);
    if (!(share > 0))
    {
      throw std::runtime_error("strategy.balanced.sp is " + std::to_string(share) + ", expected a share of the patches above 0, up to 1");
    }
    const auto classes = static_cast<unsigned int>(GetIntegerFrom(*this, "strategy.balanced.nclasses", 1));
    std::size_t ignored = 0;
    const auto histograms = grid.CountLabels(sites, image, GetParameterFloatImage("strategy.balanced.labelimage"), classes, ignored);
    const auto groups = PatchGrid::Balance(histograms, classes, share);
    std::vector<std::size_t> pixels(classes, 0);
    for (std::size_t k = 0; k < groups.size(); ++k)
    {
      for (const auto& [label, count] : histograms[k])
      {
        pixels[label] += groups[k] == 0 ? count : 0;
      }
    }
    std::ostringstream text;
    for (unsigned int label = 0; label < classes; ++label)
    {
      text << (label ? ", " : "") << label << ": " << pixels[label];
    }
    if (std::count(groups.begin(), groups.end(), PatchGrid::Group(0)) == 0)
    {
      throw std::runtime_error("strategy.balanced.labelimage has no label from 0 to " + std::to_string(classes - 1) +
                               " in any patch; check strategy.balanced.nclasses");
    }
    if (ignored > 0)
    {
      otbAppLogWARNING(<< ignored << " pixels of the patches have a label that is not from 0 to " << classes - 1 << ": not counted");
    }
    otbAppLogINFO(<< "pixels of each class in the chosen patches: " << text.str());
    return groups;
  }
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::PatchesSelection)
