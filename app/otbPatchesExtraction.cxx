/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLegacyMacros.h"
#include "otbPatchImageSource.h"
#include "otbPatchSampler.h"
#include "otbServedImage.h"
#include "otbUnfinishedFiles.h"
#include "otbWrapperComplaint.h"
#include "otbWrapperParameters.h"
#include "otbWrapperPatchImages.h"

#include "otbWrapperApplication.h"
#include "otbWrapperApplicationFactory.h"
#include "otbWrapperOutputImageParameter.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>

#include <malloc.h>

namespace otb
{
namespace Wrapper
{
namespace
{

// GDAL's blocks are freed by other threads than those that made them: each mapped by itself, they leave no holes that add up with the
// number of patches. MALLOC_MMAP_THRESHOLD_, if the user sets it, decides.
void BoundHoles()
{
#if defined(M_MMAP_THRESHOLD)
  if (std::getenv("MALLOC_MMAP_THRESHOLD_") == nullptr)
  {
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
  }
#endif
}

} // namespace

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

    m_NumberOfSources = m_Sources.GetNumber();
    for (unsigned int i = 1; i <= m_NumberOfSources; ++i)
    {
      const std::string key = "source" + std::to_string(i), name = "source " + std::to_string(i);
      AddParameter(ParameterType_Group, key, "Parameters of " + name);
      AddParameter(ParameterType_InputImageList, key + ".il", "Images of " + name);
      SetParameterDescription(key + ".il", "Images of one size; their bands are stacked.");
      AddParameter(ParameterType_OutputImage, key + ".out", "Patches of " + name);
      SetParameterDescription(key + ".out", "Image of patches, one below the other.");
      AddParameter(ParameterType_Int, key + ".patchsizex", "Width of the patches of " + name + " in pixels");
      AddParameter(ParameterType_Int, key + ".patchsizey", "Height of the patches of " + name + " in pixels");
      AddParameter(ParameterType_Float, key + ".nodata", "No-data value of " + name + " (pixel value)");
      SetParameterDescription(key + ".nodata", "A patch with this value in any band of any pixel is rejected.");
      MandatoryOff(key + ".nodata");
      AllowNan(*this, key + ".nodata");
    }
    AddParameter(ParameterType_InputFilename, "vec", "Points");
    SetParameterDescription("vec", "Vector data: one point a sample, in the CRS of the images.");
    AddParameter(ParameterType_OutputImage, "outlabels", "Labels");
    SetParameterDescription("outlabels", "Image of one column: the label of each patch.");
    SetDefaultOutputPixelType("outlabels", ImagePixelType_uint8);
    MandatoryOff("outlabels");
    AddParameter(ParameterType_String, "field", "Field of the labels");
    SetParameterDescription("field", "Field of the points with an integer label; points without a value are rejected.");
    RefuseWords(*this);

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
    PatchSampler sampler;
    const std::string said = ComplaintOf(
        [&]()
        {
          m_Sources.RequireNumber();
          FindProducts();
          for (unsigned int i = 1; i <= m_NumberOfSources; ++i)
          {
            const std::string key = "source" + std::to_string(i);
            const bool hasNoData = HasUserValue(key + ".nodata");
            auto& list = *dynamic_cast<InputImageListParameter*>(GetParameterByKey(key + ".il"));
            sampler.AddSource(std::make_shared<PatchReader>(PatchImagesOf(m_Sources, list, key),
                                                            GetIntegerFrom(*this, key + ".patchsizex", 1),
                                                            GetIntegerFrom(*this, key + ".patchsizey", 1), key),
                              hasNoData, hasNoData ? static_cast<float>(GetFloatOrNan(*this, key + ".nodata")) : 0.f);
          }
          sampler.Select(sampler.ReadLocations(GetParameterString("vec"), GetParameterString("field")));
          m_Patches.clear();
          for (unsigned int i = 0; i < m_NumberOfSources; ++i)
          {
            SetPatches("source" + std::to_string(i + 1) + ".out", sampler.GetSources()[i]);
            if (!sampler.GetSources()[i].sameGround)
            {
              otbAppLogWARNING(<< "the patches of source " << i + 1
                               << " cover other ground than those of the coarsest source: only their centres match");
            }
          }
        });
    if (!said.empty())
    {
      otbAppLogFATAL(<< said);
    }
    SetLabels(sampler.GetLabels());
    otbAppLogINFO(<< "patches: " << sampler.Summary());
    m_Monitor = m_Products.empty() ? nullptr : std::make_unique<WriteMonitor>();
    m_Unfinished = std::make_unique<UnfinishedFiles>(m_Products);
    if (!m_Products.empty())
    {
      BoundHoles();
    }
  }

  void SetPatches(const std::string& key, const PatchSampler::Source& source)
  {
    const auto type = GetParameterOutputImagePixelType(key);
    switch (type)
    {
    case ImagePixelType_uint8:
      return SetPatchesAs<UInt8VectorImageType>(key, source);
    case ImagePixelType_int16:
      return SetPatchesAs<Int16VectorImageType>(key, source);
    case ImagePixelType_uint16:
      return SetPatchesAs<UInt16VectorImageType>(key, source);
    case ImagePixelType_int32:
      return SetPatchesAs<Int32VectorImageType>(key, source);
    case ImagePixelType_uint32:
      return SetPatchesAs<UInt32VectorImageType>(key, source);
    case ImagePixelType_float:
      if (source.reader->GetType() == GDT_Int32 || source.reader->GetType() == GDT_UInt32)
      {
        otbAppLogWARNING(<< key
                         << ": integers of 32 bits lose digits beyond 2^24 as float; write 'file.tif int32' or 'uint32' to keep them");
      }
      return SetPatchesAs<FloatVectorImageType>(key, source);
    case ImagePixelType_double:
      return SetPatchesAs<DoubleVectorImageType>(key, source);
    default:
      throw ServedImageError(key + ": pixel type " + OutputImageParameter::ConvertPixelTypeToString(type) +
                             " is not supported; use a real one");
    }
  }

  template <class TImage>
  void SetPatchesAs(const std::string& key, const PatchSampler::Source& source)
  {
    const PatchReader& reader = *source.reader;
    std::string folder;
    auto* parameter = dynamic_cast<OutputImageParameter*>(GetParameterByKey(key));
    if (parameter != nullptr && !std::string(parameter->GetFileName()).empty())
    {
      const auto bandBytes = reader.GetWidth() * reader.GetHeight() * sizeof(typename TImage::InternalPixelType);
      parameter->SetFileName(
          WithPatchWriting(parameter->GetFileName(), reader.GetHeight(), bandBytes, reader.GetGroup(bandBytes * reader.GetBands())));
      folder = FolderOf(parameter->GetFileName());
    }
    auto patches = PatchImageSource<TImage>::New();
    patches->GetOutput()->SetReleaseDataFlag(!folder.empty()); // 10 MB less while the next source is written
    patches->SetPatches(source.reader, source.corners, folder);
    m_Patches.push_back(patches.GetPointer());
    SetParameterOutputImage<TImage>(key, patches->GetOutput());
  }

  void SetLabels(const std::vector<int>& labels)
  {
    if (!IsParameterEnabled("outlabels") || (!HasValue("outlabels") && !m_Products.empty()))
    {
      return;
    }
    Int32ImageType::RegionType region;
    region.SetSize(0, 1);
    region.SetSize(1, labels.size());
    m_Labels = Int32ImageType::New();
    m_Labels->SetRegions(region);
    m_Labels->Allocate();
    std::copy(labels.begin(), labels.end(), m_Labels->GetBufferPointer());
    SetParameterOutputImage("outlabels", m_Labels.GetPointer());

    const auto [least, greatest] = std::minmax_element(labels.begin(), labels.end());
    const auto type = GetParameterOutputImagePixelType("outlabels");
    const std::map<ImagePixelType, std::array<double, 2>> ranges = {{ImagePixelType_uint8, {0, 255}},
                                                                    {ImagePixelType_int16, {-32768, 32767}},
                                                                    {ImagePixelType_uint16, {0, 65535}},
                                                                    {ImagePixelType_uint32, {0, 4294967295.}},
                                                                    {ImagePixelType_float, {-16777216, 16777216}}};
    const auto range = ranges.find(type);
    if (range != ranges.end() && (*least < range->second[0] || *greatest > range->second[1]))
    {
      otbAppLogWARNING(<< "outlabels: labels from " << *least << " to " << *greatest << " do not fit "
                       << OutputImageParameter::ConvertPixelTypeToString(type) << ": written as int32");
      SetParameterOutputImagePixelType("outlabels", ImagePixelType_int32);
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
      const std::string product = IsParameterEnabled(key) ? GetProductName(*this, key) : "";
      if (!product.empty())
      {
        RequireWritableFolder(product);
        RequireOwnFile(*this, key);
        m_Products.push_back(product);
      }
    }
  }

  void AfterExecuteAndWriteOutputs() override
  {
    const std::string damaged = ComplaintOf(
        [this]()
        {
          if (m_Monitor)
          {
            m_Monitor->RequireWhole(m_Products);
          }
        });
    if (!damaged.empty())
    {
      RemoveProducts();
      otbAppLogFATAL(<< damaged);
    }
    m_Monitor.reset();
    m_Unfinished.reset();
  }

  /** One image without the others is of no use. */
  void RemoveProducts()
  {
    m_Monitor.reset();
    for (const std::string& product : m_Products)
    {
      RemovePlainFile(FileOfExtendedName(product));
    }
  }

  ~PatchesExtraction() override
  {
    if (m_Monitor != nullptr) // writing began and did not end
    {
      RemoveProducts();
    }
  }

  std::vector<itk::ProcessObject::Pointer> m_Patches;
  std::vector<std::string> m_Products;
  std::unique_ptr<WriteMonitor> m_Monitor;
  std::unique_ptr<UnfinishedFiles> m_Unfinished;
  Sources m_Sources;
  unsigned int m_NumberOfSources = 1;
  Int32ImageType::Pointer m_Labels;
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::PatchesExtraction)
