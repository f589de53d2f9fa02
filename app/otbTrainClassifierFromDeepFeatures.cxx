/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLegacyMacros.h"
#include "otbWrapperDeepFeatures.h"

#include "otbWrapperApplicationFactory.h"

namespace otb
{
namespace Wrapper
{

/** \class TrainClassifierFromDeepFeatures
 * \brief TensorflowModelServe and TrainImagesClassifier in one, without the image of features between them.
 * \ingroup OTBSuperResolutionTools
 */
class TrainClassifierFromDeepFeatures : public DeepFeatures
{
public:
  using Self = TrainClassifierFromDeepFeatures;
  using Superclass = DeepFeatures;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  itkNewMacro(Self);
  itkTypeMacro(TrainClassifierFromDeepFeatures, otb::Wrapper::DeepFeatures);

private:
  void DoInit() override
  {
    SetName("TrainClassifierFromDeepFeatures");
    SetDescription("Trains one of OTB's classifiers on the outputs of a TensorFlow model.");
    SetDocLongDescription("Runs a SavedModel over an image as TensorflowModelServe does, and trains a classifier on its output bands as "
                          "TrainImagesClassifier does; the features are computed where they are needed and are not written. The result "
                          "is that of the two applications one after the other.");
    SetDocLimitations("One image, and one vector file with integer classes. The model runs again for each of the steps of "
                      "TrainImagesClassifier that read pixels.");
    SetDocAuthors("The otbsr developers");
    SetDocSeeAlso("TensorflowModelServe, TrainImagesClassifier, ImageClassifierFromDeepFeatures");
    AddDocTag(Tags::Learning);
    if (!this->AddApplications(
            "TrainImagesClassifier", "Training of the classifier",
            {"PolygonClassStatistics", "MultiImageSamplingRate", "SampleSelection", "SampleExtraction", "TrainVectorClassifier"}, "model"))
    {
      return;
    }
    ShareParameter("ram", "learning.ram");
    ShareParameter("vd", "learning.io.vd", "Vector data of the training samples");
    ShareParameter("valid", "learning.io.valid", "Vector data of the validation samples");
    ShareParameter("out", "learning.io.out", "Classifier");
    ShareParameter("confmatout", "learning.io.confmatout", "Confusion matrix");
    ShareParameter("sample", "learning.sample", "Samples");
    ShareParameter("elev", "learning.elev");
    ShareParameter("classifier", "learning.classifier");
    ShareParameter("rand", "learning.rand");

    SetDocExampleParameterValue("source1.il", "sentinel2.tif");
    SetDocExampleParameterValue("model.dir", "savedmodel");
    SetDocExampleParameterValue("model.fullyconv", "on");
    SetDocExampleParameterValue("vd", "samples.gpkg");
    SetDocExampleParameterValue("sample.vfn", "class");
    SetDocExampleParameterValue("classifier", "rf");
    SetDocExampleParameterValue("out", "classifier.rf");
  }

  void DoUpdateParameters() override
  {
    if (HasValue("vd"))
    {
      UpdateInternalParameters("learning"); // the fields to choose from
    }
  }

  void DoExecute() override
  {
    auto* learning = GetInternalApplication("learning");
    learning->ClearValue("io.il");
    learning->AddImageToParameterInputImageList("io.il", this->ComputeFeatures());
    ExecuteInternal("learning");
  }
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::TrainClassifierFromDeepFeatures)
