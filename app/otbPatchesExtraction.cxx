/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbNumberOfSources.h"
#include "otbPatchSampler.h"
#include "otbServedImage.h"

#include "otbWrapperApplication.h"
#include "otbWrapperApplicationFactory.h"
#include "otbWrapperOutputImageParameter.h"

namespace otb
{
namespace Wrapper
{

/** \class PatchesExtraction
 * \brief Patches around points, in equal footprints: a shell over PatchSampler.
 * \ingroup OTBSuperResolutionTools
 */
class PatchesExtraction : public Application
{
public:
  using Self = PatchesExtraction;
  using Superclass = Application;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  itkNewMacro(Self);
  itkTypeMacro(PatchesExtraction, otb::Wrapper::Application);

private:
  void DoInit() override
  {
    SetName("PatchesExtraction");
    SetDescription("Cuts patches around points out of one or several images, in equal footprints.");
    SetDocLongDescription("The patches of each source are written one below the other into one image. When sources have different "
                          "spacings, the patch is snapped "
                          "to the coarsest grid and every source whose patch covers the same ground gets exactly that footprint; a sample "
                          "that cannot have it, "
                          "that leaves an image, or that holds no-data is rejected in all sources, and counted. The environment variable "
                          "OTB_TF_NSOURCES sets "
                          "the number of sources (1 when it is not set).");
    SetDocLimitations("Points are not reprojected: they must be in the CRS of the images.");
    SetDocAuthors("The otbsr developers");
    SetDocSeeAlso("PatchesSelection, TensorflowModelServe");
    AddDocTag(Tags::Learning);

    std::string value;
    m_NumberOfSources = ReadNumberOfSources(value);
    if (m_NumberOfSources == 0)
    {
      m_Error = "OTB_TF_NSOURCES is '" + value + "', expected an integer from 1 to 99; set it to the number of sources, or unset it";
      m_NumberOfSources = 1;
    }
    for (unsigned int i = 1; i <= m_NumberOfSources; ++i)
    {
      const std::string key = "source" + std::to_string(i), name = "source " + std::to_string(i);
      AddParameter(ParameterType_Group, key, "Parameters of " + name);
      AddParameter(ParameterType_InputImageList, key + ".il", "Images of " + name);
      SetParameterDescription(key + ".il", "Images of one size; their bands are stacked.");
      AddParameter(ParameterType_OutputImage, key + ".out", "Patches of " + name);
      SetParameterDescription(key + ".out", "Image of patches, one below the other.");
      AddParameter(ParameterType_Int, key + ".patchsizex", "Width of the patches of " + name + " in pixels");
      SetMinimumParameterIntValue(key + ".patchsizex", 1);
      AddParameter(ParameterType_Int, key + ".patchsizey", "Height of the patches of " + name + " in pixels");
      SetMinimumParameterIntValue(key + ".patchsizey", 1);
      AddParameter(ParameterType_Float, key + ".nodata", "No-data value of " + name);
      SetParameterDescription(key + ".nodata", "A patch with this value in any band of any pixel is rejected.");
      MandatoryOff(key + ".nodata");
    }
    AddParameter(ParameterType_InputFilename, "vec", "Points");
    SetParameterDescription("vec", "Vector data: one point a sample, in the CRS of the images.");
    AddParameter(ParameterType_OutputImage, "outlabels", "Labels");
    SetParameterDescription("outlabels", "Image of one column: the label of each patch.");
    SetDefaultOutputPixelType("outlabels", ImagePixelType_uint8);
    MandatoryOff("outlabels");
    AddParameter(ParameterType_String, "field", "Field of the labels");
    SetParameterDescription("field", "Field of the points with an integer label; points without a value are rejected.");

    SetDocExampleParameterValue("source1.il", "sentinel2.tif");
    SetDocExampleParameterValue("source1.patchsizex", "32");
    SetDocExampleParameterValue("source1.patchsizey", "32");
    SetDocExampleParameterValue("source1.out", "patches.tif int16");
    SetDocExampleParameterValue("vec", "points.gpkg");
    SetDocExampleParameterValue("field", "id");
  }

  void DoUpdateParameters() override
  {
  }

  void DoExecute() override
  {
    if (!m_Error.empty())
    {
      otbAppLogFATAL(<< m_Error);
    }
    PatchSampler sampler;
    try
    {
      FindProducts();
      for (unsigned int i = 1; i <= m_NumberOfSources; ++i)
      {
        const std::string key = "source" + std::to_string(i);
        FloatVectorImageListType::Pointer list = GetParameterImageList(key + ".il");
        std::vector<PatchSampler::ImageType::Pointer> images;
        for (std::size_t k = 0; k < list->Size(); ++k)
        {
          images.push_back(list->GetNthElement(k));
        }
        const bool hasNoData = HasUserValue(key + ".nodata");
        sampler.AddSource(images, GetParameterInt(key + ".patchsizex"), GetParameterInt(key + ".patchsizey"), hasNoData,
                          hasNoData ? GetParameterFloat(key + ".nodata") : 0.f);
      }
      sampler.Sample(sampler.ReadLocations(GetParameterString("vec"), GetParameterString("field")));
    }
    catch (const std::exception& error)
    {
      otbAppLogFATAL(<< error.what());
    }
    for (unsigned int i = 0; i < m_NumberOfSources; ++i)
    {
      if (!sampler.GetSources()[i].sameGround)
      {
        otbAppLogWARNING(<< "the patches of source " << i + 1
                         << " cover other ground than those of the coarsest source: only their centres match");
      }
      SetParameterOutputImage("source" + std::to_string(i + 1) + ".out", sampler.GetPatches(i).GetPointer());
    }
    otbAppLogINFO(<< "patches: " << sampler.Summary());
    m_Monitor = m_Products.empty() ? nullptr : std::make_unique<WriteMonitor>();
    if (IsParameterEnabled("outlabels") && HasValue("outlabels"))
    {
      const auto& labels = sampler.GetLabels();
      Int32ImageType::RegionType region;
      region.SetSize(0, 1);
      region.SetSize(1, labels.size());
      m_Labels = Int32ImageType::New();
      m_Labels->SetRegions(region);
      m_Labels->Allocate();
      std::copy(labels.begin(), labels.end(), m_Labels->GetBufferPointer());
      SetParameterOutputImage("outlabels", m_Labels.GetPointer());
    }
  }

  /** The files that OTB will write after this; none when the application runs in memory. */
  void FindProducts()
  {
    m_Products.clear();
    m_Monitor.reset();
    std::vector<std::string> keys;
    for (unsigned int i = 1; i <= m_NumberOfSources; ++i)
    {
      keys.push_back("source" + std::to_string(i) + ".out");
    }
    keys.push_back("outlabels");
    for (const std::string& key : keys)
    {
      auto* parameter = dynamic_cast<OutputImageParameter*>(GetParameterByKey(key));
      if (IsParameterEnabled(key) && parameter && !std::string(parameter->GetFileName()).empty())
      {
        RequireWritableFolder(parameter->GetFileName());
        m_Products.push_back(parameter->GetFileName());
      }
    }
  }

  void AfterExecuteAndWriteOutputs() override
  {
    // One image without the others is of no use: when an error was seen, all are removed.
    std::string error;
    for (const std::string& product : m_Products)
    {
      try
      {
        m_Monitor->RequireWhole(product);
      }
      catch (const std::exception& damaged)
      {
        error = error.empty() ? damaged.what() : error;
      }
    }
    m_Monitor.reset();
    if (!error.empty())
    {
      otbAppLogFATAL(<< error);
    }
  }

  std::vector<std::string> m_Products;
  std::unique_ptr<WriteMonitor> m_Monitor;
  unsigned int m_NumberOfSources = 1;
  std::string m_Error;
  Int32ImageType::Pointer m_Labels;
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::PatchesExtraction)
