/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWrapperTensorflowServing_h
#define otbWrapperTensorflowServing_h

#include "otbServedImage.h"
#include "otbTensorflowModelFilter.h"

#include "otbWrapperApplication.h"
#include "otbWrapperOutputImageParameter.h"

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace otb
{
namespace Wrapper
{

/** \class TensorflowServing
 * \brief What the applications that run a model over an image share: checks of the input, one filter of the output's pixel type, fast
 * writing, and a check of the product.
 * \ingroup OTBSuperResolutionTools
 */
class TensorflowServing : public Application
{
public:
  using Self = TensorflowServing;
  using Pointer = itk::SmartPointer<Self>;
  itkTypeMacro(TensorflowServing, otb::Wrapper::Application);

protected:
  /** How to run which model. Blocks are in output pixels. */
  struct Settings
  {
    std::shared_ptr<const TensorflowModel> model;
    std::string input;
    std::vector<std::string> outputs;
    std::vector<TensorflowModel::Feed> constants;
    double scale = 1;
    std::array<itk::IndexValueType, 2> marginBefore{{0, 0}};
    std::array<itk::IndexValueType, 2> marginAfter{{0, 0}};
    std::array<itk::IndexValueType, 2> expressionField{{1, 1}};
    std::array<itk::IndexValueType, 2> block{{2048, 2048}};
    std::vector<double> inputNoData;
    double outputNoData = 0;
    bool writeNoData = false; ///< no-data is reserved, and in the product's metadata
    bool prefetch = true;
    std::vector<std::string> bandNames;
  };

  /** Runs `work`; errors of ours end as one FATAL message. */
  void Guarded(const std::function<void()>& work)
  {
    std::string said; // not "message": the macro below has one
    try
    {
      work();
      return;
    }
    catch (const itk::ExceptionObject&)
    {
      throw;
    }
    catch (const std::exception& error)
    {
      said = error.what();
    }
    m_Monitor.reset(); // or the message below could be swallowed
    otbAppLogFATAL(<< said);
  }

  /** Warn about grids that are unusual but served. */
  void WarnAboutGrid(const FloatVectorImageType* image)
  {
    if (image->GetProjectionRef().empty())
    {
      otbAppLogWARNING("The image has no coordinate reference system: the product has none either");
    }
    if (SamplingGrid::FromImage(image).IsSouthUp())
    {
      otbAppLogWARNING("The image is south-up (positive y spacing): the product is, too");
    }
  }

  /** Build the filter between the image and parameter "out". */
  void Serve(FloatVectorImageType* image, const Settings& settings)
  {
    m_BandNames = settings.bandNames;
    const auto type = this->GetParameterOutputImagePixelType("out");
    switch (type)
    {
    case ImagePixelType_uint8:
      return this->ServeAs<UInt8VectorImageType>(image, settings);
    case ImagePixelType_int16:
      return this->ServeAs<Int16VectorImageType>(image, settings);
    case ImagePixelType_uint16:
      return this->ServeAs<UInt16VectorImageType>(image, settings);
    case ImagePixelType_int32:
      return this->ServeAs<Int32VectorImageType>(image, settings);
    case ImagePixelType_uint32:
      return this->ServeAs<UInt32VectorImageType>(image, settings);
    case ImagePixelType_float:
      return this->ServeAs<FloatVectorImageType>(image, settings);
    case ImagePixelType_double:
      return this->ServeAs<DoubleVectorImageType>(image, settings);
    default:
      throw ServedImageError("out: pixel type " + OutputImageParameter::ConvertPixelTypeToString(type) +
                             " is not supported; use a real one");
    }
  }

private:
  template <class TOutputImage>
  void ServeAs(FloatVectorImageType* image, const Settings& settings)
  {
    using FilterType = TensorflowModelFilter<FloatVectorImageType, TOutputImage>;
    using PixelType = typename TOutputImage::InternalPixelType;

    const auto noData = static_cast<double>(tensorflow_model_filter::Convert<PixelType>(settings.outputNoData, PixelType(0)));
    if (settings.writeNoData && noData != settings.outputNoData)
    {
      otbAppLogWARNING("No-data " << settings.outputNoData << " does not fit the output's pixel type: " << noData << " is used");
    }
    auto filter = FilterType::New();
    filter->SetInput(image);
    filter->SetModel(settings.model, settings.input, settings.outputs);
    filter->SetScale(settings.scale);
    filter->SetMargins(settings.marginBefore, settings.marginAfter);
    filter->SetExpressionField(settings.expressionField);
    filter->SetConstants(settings.constants);
    filter->SetInputNoData(settings.inputNoData);
    filter->SetOutputNoData(std::isnan(settings.outputNoData) ? settings.outputNoData : noData, settings.writeNoData);
    filter->SetMaximumBlockSize(settings.block);
    filter->SetPrefetch(settings.prefetch);
    if (!filter->HasValidPixel(256))
    {
      throw ServedImageError("the image has no valid pixel: every pixel is no-data or not a number; check the no-data value");
    }
    filter->UpdateOutputInformation();
    m_Filter = filter;

    auto* parameter = dynamic_cast<OutputImageParameter*>(this->GetParameterByKey("out"));
    if (parameter != nullptr && this->HasValue("out") && !std::string(parameter->GetFileName()).empty())
    {
      RequireWritableFolder(parameter->GetFileName());
      const auto size = filter->GetOutput()->GetLargestPossibleRegion().GetSize();
      const auto margin = static_cast<double>(settings.marginBefore[0] + settings.marginAfter[0]) / settings.scale;
      const auto blocks =
          NumberOfWritingBlocks(size[0], size[1], static_cast<unsigned int>(std::max(settings.block[0], settings.block[1])), margin);
      parameter->SetFileName(
          WithTiledWriting(parameter->GetFileName(), blocks, std::is_floating_point<PixelType>::value, settings.writeNoData, noData));
      m_Product = parameter->GetFileName();
      m_Monitor.reset();
      m_Monitor = std::make_unique<WriteMonitor>();
    }
    this->SetParameterOutputImage<TOutputImage>("out", filter->GetOutput());
  }

  void AfterExecuteAndWriteOutputs() override
  {
    if (m_Monitor == nullptr)
    {
      return;
    }
    this->Guarded(
        [this]()
        {
          m_Monitor->RequireWhole(m_Product);
          m_Monitor.reset();
          NameBands(m_Product, m_BandNames);
        });
  }

  itk::ProcessObject::Pointer m_Filter;
  std::unique_ptr<WriteMonitor> m_Monitor;
  std::string m_Product;
  std::vector<std::string> m_BandNames;
};

} // namespace Wrapper
} // namespace otb

#endif
