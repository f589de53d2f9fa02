/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLegacyMacros.h"
#include "otbModelSidecar.h"
#include "otbNumberOfThreads.h"
#include "otbWrapperParameters.h"
#include "otbWrapperTensorflowServing.h"

#include "otbWrapperApplicationFactory.h"

#include <algorithm>
#include <cmath>

namespace otb
{
namespace Wrapper
{

/** \class SuperResolution
 * \brief Super-resolve an image with a model folder; model.json says the rest.
 * \ingroup OTBSuperResolutionTools
 */
class SuperResolution : public TensorflowServing
{
public:
  using Self = SuperResolution;
  using Pointer = itk::SmartPointer<Self>;
  itkNewMacro(Self);
  itkTypeMacro(SuperResolution, otb::Wrapper::Application);

private:
  void DoInit() override
  {
    SetName("SuperResolution");
    SetDescription("Super-resolves an image with a TensorFlow model.");
    SetDocLongDescription(
        "Runs a super-resolution model over an image. The model is a folder with a TensorFlow SavedModel and model.json, which says the "
        "factor, "
        "the bands in their order, the margin and the output's pixel type. The product has the corner and the footprint of the input, to "
        "the "
        "border, on the grid refined by the factor. Pixels with a no-data or NaN band stay no-data. The result does not depend on "
        "block size, memory or threads. TensorFlow is looked for when the application runs: environment variable OTB_TF_LIBRARY, or the "
        "Python "
        "environment's tensorflow package. A GeoTIFF output without extended file name options is written in compressed tiles.");
    SetDocLimitations("The grid must be axis-aligned and the pixels real.");
    SetDocAuthors("The otbsr developers");
    SetDocSeeAlso("TensorflowModelServe");
    AddDocTag(Tags::Learning);
    AddDocTag("Super-resolution");

    AddParameter(ParameterType_InputImage, "in", "Input image");
    SetParameterDescription("in", "Image with the model's bands in the model's order, in the units that the model was trained with.");
    AddParameter(ParameterType_Directory, "model", "Model folder");
    SetParameterDescription("model", "Folder with saved_model.pb, variables and model.json.");
    AddParameter(ParameterType_OutputImage, "out", "Output image");
    SetParameterDescription("out", "Super-resolved image. The pixel type, if left at int16, is that of model.json.");
    SetDefaultOutputPixelType("out", ImagePixelType_int16);
    AddParameter(ParameterType_Float, "nodata", "No-data value of the input (pixel value)");
    SetParameterDescription("nodata",
                            "Input value that means no-data, in any band. By default that of the image's metadata, if it has one.");
    MandatoryOff("nodata");
    AllowNan(*this, "nodata");
    AddParameter(ParameterType_Int, "block", "Block size (input pixels; 0 = from the memory)");
    SetParameterDescription("block", "Width and height of the blocks that are given to the model, without margins. Larger is faster.");
    SetDefaultParameterInt("block", 0);
    MandatoryOff("block");
    AddParameter(ParameterType_Int, "threads", "Threads of TensorFlow (0 = all cores)");
    SetParameterDescription(
        "threads",
        "Number of threads that TensorFlow may use. 0: as many as ITK's global default (ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS), or all "
        "cores.");
    SetDefaultParameterInt("threads", 0);
    MandatoryOff("threads");
    AddRAMParameter("ram", "Available memory (MB)", 2048);
    RefuseWords(*this);

    SetDocExampleParameterValue("in", "sentinel2_10m.tif");
    SetDocExampleParameterValue("model", "models/f-light-x4");
    SetDocExampleParameterValue("out", "superresolved_2m5.tif int16");
    SetOfficialDocLink();
  }

  void DoUpdateParameters() override
  {
  }

  void DoExecute() override
  {
    this->Guarded([this]() { this->Connect(); });
  }

  void Connect()
  {
    const std::string folder = GetParameterString("model");
    const auto sidecar = ModelSidecar::Read(folder);
    RequireServableFile(GetParameterString("in"));
    const auto asked = static_cast<unsigned int>(GetIntegerFrom(*this, "threads", 0));
    const unsigned int threads = asked > 0 ? asked : NumberOfTensorflowThreads();
    auto loading = TensorflowModel::LoadAside(folder, sidecar.signature, threads); // while the image is opened

    FloatVectorImageType* image = GetParameterImage("in");
    Source source;
    source.images.Add(image, "in");
    const auto bands = source.images.GetNumberOfBands();
    if (bands != sidecar.inputBands.size())
    {
      std::string names;
      for (const auto& name : sidecar.inputBands)
      {
        names += (names.empty() ? "" : ", ") + name;
      }
      throw ServedImageError("the image has " + std::to_string(bands) + " bands, but model " + sidecar.name + " takes " +
                             std::to_string(sidecar.inputBands.size()) + ": " + names);
    }
    this->WarnAboutGrid(source.images, "The image");

    Settings settings;
    settings.model = loading.get();
    settings.threads = threads;
    source.input = &settings.model->GetInput(sidecar.inputName);
    settings.outputs = {sidecar.outputName};
    const auto& info = settings.model->GetOutput(sidecar.outputName);
    if (info.shape.size() == 4 && info.shape[3] > 0 && static_cast<size_t>(info.shape[3]) != sidecar.outputBands.size())
    {
      throw ModelSidecarError(folder + "/model.json: output.bands names " + std::to_string(sidecar.outputBands.size()) +
                              " bands, but the SavedModel gives " + std::to_string(info.shape[3]));
    }
    settings.scale = 1.0 / sidecar.factor;
    const auto field = static_cast<IndexValue>(2 * sidecar.margin + 1);
    source.receptiveField = {{field, field}};
    source.noData =
        HasUserValue("nodata") ? std::vector<double>{GetFloatOrNan(*this, "nodata")} : NoDataOf(image->GetImageMetadata(), bands);
    settings.sources = {source};
    settings.anyBandInvalid = true;
    const auto block = static_cast<IndexValue>(GetIntegerFrom(*this, "block", 0)) * static_cast<IndexValue>(sidecar.factor);
    settings.block = {{block, block}};
    settings.megabytes = std::max(64.0, static_cast<double>(GetParameterInt("ram")) - 256); // TensorFlow's own set aside
    settings.outputNoData = sidecar.hasNoData ? sidecar.noData : 0;
    settings.writeNoData = sidecar.hasNoData;
    settings.bandNames = sidecar.outputBands;
    if (!sidecar.hasNoData && sidecar.outputType.rfind("float", 0) == 0)
    {
      settings.outputNoData = std::numeric_limits<double>::quiet_NaN();
    }
    if (GetParameterOutputImagePixelType("out") == ImagePixelType_int16 && sidecar.outputType != "int16")
    {
      const std::string name = sidecar.outputType == "float32" ? "float" : sidecar.outputType == "float64" ? "double" : sidecar.outputType;
      ImagePixelType type = ImagePixelType_int16;
      if (OutputImageParameter::ConvertStringToPixelType(name, type))
      {
        SetParameterOutputImagePixelType("out", type);
      }
    }
    otbAppLogINFO("Model " << sidecar.name << ": factor " << sidecar.factor << ", margin " << sidecar.margin << ", TensorFlow "
                           << TensorflowLibrary::Get().Version());
    this->Serve(settings);
  }
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::SuperResolution)
