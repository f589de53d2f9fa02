/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLegacyMacros.h"
#include "otbServedImage.h"
#include "otbUnfinishedFiles.h"
#include "otbWrapperComplaint.h"
#include "otbWrapperDeepFeatures.h"
#include "otbWrapperParameters.h"

#include "otbWrapperApplicationFactory.h"

namespace otb
{
namespace Wrapper
{

/** \class ImageClassifierFromDeepFeatures
 * \brief TensorflowModelServe and ImageClassifier in one, without the image of features between them.
 * \ingroup OTBSuperResolutionTools
 */
class ImageClassifierFromDeepFeatures : public DeepFeatures
{
public:
  using Self = ImageClassifierFromDeepFeatures;
  using Superclass = DeepFeatures;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  itkNewMacro(Self);
  itkTypeMacro(ImageClassifierFromDeepFeatures, otb::Wrapper::DeepFeatures);

private:
  void DoInit() override
  {
    SetName("ImageClassifierFromDeepFeatures");
    SetDescription("Classifies the outputs of a TensorFlow model with one of OTB's classifiers.");
    SetDocLongDescription("Runs a SavedModel over an image as TensorflowModelServe does, and classifies its output bands as "
                          "ImageClassifier does, in one pass; the features are not written. The map is that of the two applications one "
                          "after the other.");
    SetDocLimitations("Classes are integers from 0 to 65535; the map needs a pixel type that holds them (uint8 by default).");
    SetDocAuthors("The otbsr developers");
    SetDocSeeAlso("TensorflowModelServe, ImageClassifier, TrainClassifierFromDeepFeatures");
    AddDocTag(Tags::Learning);
    if (!this->AddApplications("ImageClassifier", "Classification", {}, "deepmodel"))
    {
      return;
    }
    ShareParameter("model", "learning.model", "Classifier");
    ShareParameter("imstat", "learning.imstat");
    ShareParameter("nodatalabel", "learning.nodatalabel");
    ShareParameter("out", "learning.out", "Map");
    ShareParameter("confmap", "learning.confmap");
    ShareParameter("ram", "learning.ram");
    SetMultiWriting(true); // the model runs once for both products

    SetDocExampleParameterValue("source1.il", "sentinel2.tif");
    SetDocExampleParameterValue("deepmodel.dir", "savedmodel");
    SetDocExampleParameterValue("deepmodel.fullyconv", "on");
    SetDocExampleParameterValue("model", "classifier.rf");
    SetDocExampleParameterValue("out", "map.tif uint8");
  }

  void DoUpdateParameters() override
  {
  }

  void DoExecute() override
  {
    m_Products.clear();
    m_Monitor.reset();
    const std::string said = ComplaintOf(
        [this]()
        {
          for (const std::string key : {"out", "confmap"})
          {
            const std::string name = IsParameterEnabled(key) ? GetProductName(*this, key) : "";
            if (!name.empty())
            {
              RequireWritableFolder(name);
              RequireOwnFile(*this, key);
              m_Products.push_back(name);
            }
          }
        });
    if (!said.empty())
    {
      otbAppLogFATAL(<< said);
    }
    GetInternalApplication("learning")->SetParameterInputImage("in", this->ComputeFeatures());
    ExecuteInternal("learning");
    m_Monitor = m_Products.empty() ? nullptr : std::make_unique<WriteMonitor>();
    m_Unfinished = std::make_unique<UnfinishedFiles>(m_Products);
  }

  void AfterExecuteAndWriteOutputs() override
  {
    const std::string said = ComplaintOf(
        [this]()
        {
          if (m_Monitor)
          {
            m_Monitor->RequireWhole(m_Products);
          }
        });
    m_Monitor.reset();
    m_Unfinished.reset();
    if (!said.empty())
    {
      otbAppLogFATAL(<< said);
    }
  }

  std::vector<std::string> m_Products;
  std::unique_ptr<WriteMonitor> m_Monitor;
  std::unique_ptr<UnfinishedFiles> m_Unfinished;
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::ImageClassifierFromDeepFeatures)
