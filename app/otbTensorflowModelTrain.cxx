/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLegacyMacros.h"
#include "otbNumberOfThreads.h"
#include "otbServedImage.h"
#include "otbTensorflowTraining.h"
#include "otbWrapperComplaint.h"
#include "otbWrapperParameters.h"
#include "otbWrapperPatchImages.h"
#include "otbWrapperSources.h"

#include "otbWrapperApplicationFactory.h"

namespace otb
{
namespace Wrapper
{

/** \class TensorflowModelTrain
 * \brief Trains a SavedModel that has an optimiser in its graph, on images of patches: a shell over TensorflowBatches.
 * \ingroup OTBSuperResolutionTools
 */
class TensorflowModelTrain : public Application
{
public:
  using Self = TensorflowModelTrain;
  using Superclass = Application;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  itkNewMacro(Self);
  itkTypeMacro(TensorflowModelTrain, otb::Wrapper::Application);

private:
  /** What a launcher shows as progress. */
  class Progress : public itk::ProcessObject
  {
  public:
    using Self = Progress;
    using Superclass = itk::ProcessObject;
    using Pointer = itk::SmartPointer<Self>;
    itkNewMacro(Self);
  };

  /** What a validation compares: the patches to run, and for each output its reference. */
  struct Validation
  {
    std::string name;
    std::unique_ptr<TensorflowBatches> batches;
    std::vector<TensorflowBatches::PatchesPointer> references;
  };

  void DoInit() override
  {
    SetName("TensorflowModelTrain");
    SetDescription("Trains a TensorFlow SavedModel on images of patches.");
    SetDocLongDescription(
        "Runs operations of the model's graph (training.targetnodes: the optimiser's step) on batches of patches, each "
        "patch once in an epoch and in a new random order. The patches of a source are one below the other in its images, "
        "as PatchesExtraction writes them. The trained variables are written as a checkpoint (model.saveto). Every few "
        "epochs the model can be compared with references, on the training and on the validation patches: a validation "
        "source whose name is that of the training source's placeholder is an input, any other name is the output that "
        "the source is the reference of. The environment variable OTB_TF_NSOURCES sets the number of sources without "
        "that of the references: there is one source more than it says.");
    SetDocLimitations("The graph must hold the optimiser: models written with TensorFlow 1's interface (tf.compat.v1), or with a training "
                      "step as a signature, whose tensors and operations are then given by their names in the graph.");
    SetDocAuthors("The otbsr developers");
    SetDocSeeAlso("PatchesExtraction, TensorflowModelServe");
    AddDocTag(Tags::Learning);

    m_NumberOfSources = m_Sources.GetNumber() + 1;

    AddParameter(ParameterType_Group, "model", "Model");
    AddParameter(ParameterType_Directory, "model.dir", "SavedModel folder");
    AddParameter(ParameterType_String, "model.restorefrom", "Checkpoint to start from");
    SetParameterDescription("model.restorefrom", "The path of a checkpoint's files without .index. By default the variables are those of "
                                                 "the SavedModel.");
    MandatoryOff("model.restorefrom");
    AddParameter(ParameterType_String, "model.saveto", "Checkpoint to write");
    SetParameterDescription("model.saveto",
                            "The path of the files without .index, written after the last epoch. \"variables/variables\" in "
                            "the SavedModel's folder trains the SavedModel itself.");
    MandatoryOff("model.saveto");
    AddParameter(ParameterType_StringList, "model.tagsets", "Tags of the model's graph");
    MandatoryOff("model.tagsets");

    AddParameter(ParameterType_Group, "training", "Training");
    AddCount("training.batchsize", "Patches in a batch", 100);
    AddCount("training.epochs", "Number of epochs", 100);
    AddParameter(ParameterType_StringList, "training.userplaceholders", "Further inputs when training, as name=value");
    SetParameterDescription("training.userplaceholders", "Values are integers, reals or booleans, or lists of them: (1, 2, 3).");
    MandatoryOff("training.userplaceholders");
    AddParameter(ParameterType_StringList, "training.targetnodes", "Operations to run on each batch");
    SetParameterDescription("training.targetnodes", "Names of nodes in the graph, for instance the optimiser's.");
    AddParameter(ParameterType_StringList, "training.outputtensors", "Outputs whose mean is told after each epoch");
    SetParameterDescription("training.outputtensors", "Keys in the signature or names of tensors in the graph, for instance the loss. The "
                                                      "training stops with an error when a single value is not finite.");
    MandatoryOff("training.outputtensors");
    AddParameter(ParameterType_Bool, "training.usestreaming", "Read the training patches when they are needed");
    SetParameterDescription("training.usestreaming", "For patches that do not fit into memory; slower.");
    MandatoryOff("training.usestreaming");
    for (unsigned int k = 1; k <= m_NumberOfSources; ++k)
    {
      const std::string key = Key("training", k), name = "source " + std::to_string(k);
      AddParameter(ParameterType_Group, key, "Training " + name);
      AddParameter(ParameterType_InputImageList, key + ".il", "Patches of " + name);
      SetParameterDescription(key + ".il", "Images of one size, stacked band-wise: as wide as a patch, patches one below the other.");
      AddParameter(ParameterType_Int, key + ".patchsizex", "Width of the patches of " + name + " in pixels");
      AddParameter(ParameterType_Int, key + ".patchsizey", "Height of the patches of " + name + " in pixels");
      AddParameter(ParameterType_String, key + ".placeholder", "Name of the model's input for " + name);
      SetParameterDescription(key + ".placeholder", "Key in the signature, or name of a tensor in the graph.");
    }

    AddParameter(ParameterType_Group, "validation", "Validation");
    AddCount("validation.step", "Epochs from one validation to the next", 10);
    AddParameter(ParameterType_Choice, "validation.mode", "Figures");
    AddChoice("validation.mode.none", "No validation");
    AddChoice("validation.mode.class", "Classes: precision, recall, F-score, overall accuracy, kappa, confusion matrix");
    AddChoice("validation.mode.rmse", "Values: root mean square error");
    AddParameter(ParameterType_StringList, "validation.userplaceholders", "Further inputs when validating, as name=value");
    MandatoryOff("validation.userplaceholders");
    AddParameter(ParameterType_Bool, "validation.usestreaming", "Read the validation patches when they are needed");
    MandatoryOff("validation.usestreaming");
    for (unsigned int k = 1; k <= m_NumberOfSources; ++k)
    {
      const std::string key = Key("validation", k), name = "source " + std::to_string(k);
      AddParameter(ParameterType_Group, key, "Validation " + name);
      AddParameter(ParameterType_InputImageList, key + ".il", "Patches of " + name);
      SetParameterDescription(key + ".il", "Of the size of the training patches. Needed unless validation.mode is none.");
      MandatoryOff(key + ".il");
      AddParameter(ParameterType_String, key + ".name", "Name of the input, or of the output that this is the reference of");
      SetParameterDescription(key + ".name", "By default the training source's placeholder: an input.");
      MandatoryOff(key + ".name");
    }
    AddParameter(ParameterType_Int, "rand", "Seed of the order of the patches");
    SetParameterDescription("rand", "The same seed gives the same order. By default another one each time; it is told.");
    MandatoryOff("rand");
    RefuseWords(*this);

    SetDocExampleParameterValue("model.dir", "savedmodel");
    SetDocExampleParameterValue("model.saveto", "savedmodel/variables/variables");
    SetDocExampleParameterValue("training.targetnodes", "optimizer");
    SetDocExampleParameterValue("training.outputtensors", "loss");
    SetDocExampleParameterValue("training.source1.il", "patches.tif");
    SetDocExampleParameterValue("training.source1.patchsizex", "16");
    SetDocExampleParameterValue("training.source1.patchsizey", "16");
    SetDocExampleParameterValue("training.source1.placeholder", "x");
    SetDocExampleParameterValue("training.source2.il", "labels.tif");
    SetDocExampleParameterValue("training.source2.patchsizex", "1");
    SetDocExampleParameterValue("training.source2.patchsizey", "1");
    SetDocExampleParameterValue("training.source2.placeholder", "y");
  }

  void AddCount(const std::string& key, const std::string& name, int value)
  {
    AddParameter(ParameterType_Int, key, name);
    SetDefaultParameterInt(key, value);
  }

  static std::string Key(const std::string& group, unsigned int number)
  {
    return group + ".source" + std::to_string(number);
  }

  void DoUpdateParameters() override
  {
  }

  void DoExecute() override
  {
    const std::string said = OwnComplaintOf(
        [this]()
        {
          m_Sources.RequireNumber();
          this->Train();
        });
    if (!said.empty())
    {
      otbAppLogFATAL(<< said);
    }
  }

  TensorflowBatches::PatchesPointer ReadPatches(const std::string& group, unsigned int number)
  {
    const std::string key = Key(group, number), size = Key("training", number) + ".patchsize";
    auto& list = *dynamic_cast<InputImageListParameter*>(GetParameterByKey(key + ".il"));
    return std::make_shared<TrainingPatches>(PatchImagesOf(m_Sources, list, key), GetIntegerFrom(*this, size + "x", 1),
                                             GetIntegerFrom(*this, size + "y", 1), GetParameterInt(group + ".usestreaming") != 0, key);
  }

  /** The sources of `patches` as inputs and references, as validation.sourceN.name says. */
  Validation MakeValidation(const std::shared_ptr<const TensorflowModel>& model, const std::string& name,
                            const std::vector<TensorflowBatches::PatchesPointer>& patches)
  {
    Validation validation;
    validation.name = name;
    validation.batches = std::make_unique<TensorflowBatches>(model, GetParameterInt("training.batchsize"), "validation");
    for (unsigned int k = 1; k <= m_NumberOfSources; ++k)
    {
      const std::string placeholder = GetParameterString(Key("training", k) + ".placeholder");
      const std::string given = GetParameterString(Key("validation", k) + ".name");
      if (given.empty() || given == placeholder)
      {
        validation.batches->AddSource(placeholder, patches[k - 1]);
      }
      else
      {
        validation.batches->AddOutput(given);
        validation.references.push_back(patches[k - 1]);
      }
    }
    if (validation.references.empty() || validation.references.size() == m_NumberOfSources)
    {
      throw std::runtime_error(
          "validation.sourceN.name: " +
          std::string(validation.references.empty() ? "no source is the reference of an output" : "no source is an input of the model") +
          "; inputs have the name of the training source's placeholder, references that of an output");
    }
    for (const auto& expression : GetParameterStringList("validation.userplaceholders"))
    {
      validation.batches->AddConstant(expression);
    }
    return validation;
  }

  void Validate(const Validation& validation)
  {
    const auto& outputs = validation.batches->GetOutputs();
    if (GetParameterString("validation.mode") == "class")
    {
      const auto matrices = CompareClasses(*validation.batches, validation.references);
      for (size_t k = 0; k < outputs.size(); ++k)
      {
        otbAppLogINFO(<< validation.name << " patches, output \"" << outputs[k]->key << "\": " << matrices[k].Describe());
      }
      return;
    }
    const auto errors = CompareValues(*validation.batches, validation.references);
    for (size_t k = 0; k < outputs.size(); ++k)
    {
      otbAppLogINFO(<< validation.name << " patches, output \"" << outputs[k]->key << "\": root mean square error " << errors[k]);
    }
  }

  void Train()
  {
    const std::string saveTo = GetParameterString("model.saveto"), restoreFrom = GetParameterString("model.restorefrom");
    if (!saveTo.empty())
    {
      RequireWritableFolder(saveTo);
    }
    auto model = std::make_shared<TensorflowModel>(GetParameterString("model.dir"), GetParameterStringList("model.tagsets"), "",
                                                   NumberOfTensorflowThreads());
    const int batchSize = GetIntegerFrom(*this, "training.batchsize", 1), epochs = GetIntegerFrom(*this, "training.epochs", 1),
              step = GetIntegerFrom(*this, "validation.step", 1);
    TensorflowBatches training(model, batchSize, "training");
    std::vector<TensorflowBatches::PatchesPointer> patches;
    for (unsigned int k = 1; k <= m_NumberOfSources; ++k)
    {
      patches.push_back(this->ReadPatches("training", k));
      training.AddSource(GetParameterString(Key("training", k) + ".placeholder"), patches.back());
    }
    for (const auto& expression : GetParameterStringList("training.userplaceholders"))
    {
      training.AddConstant(expression);
    }
    for (const auto& output : GetParameterStringList("training.outputtensors"))
    {
      training.AddOutput(output);
    }
    for (const auto& target : GetParameterStringList("training.targetnodes"))
    {
      training.AddTarget(target);
    }
    std::vector<Validation> validations;
    if (GetParameterString("validation.mode") != "none")
    {
      for (unsigned int k = 1; k <= m_NumberOfSources; ++k)
      {
        if (!HasValue(Key("validation", k) + ".il"))
        {
          throw std::runtime_error(Key("validation", k) + ".il is missing: validation.mode " + GetParameterString("validation.mode") +
                                   " needs the patches of every source");
        }
      }
      validations.push_back(this->MakeValidation(model, "Training", patches));
      patches.clear();
      for (unsigned int k = 1; k <= m_NumberOfSources; ++k)
      {
        patches.push_back(this->ReadPatches("validation", k));
      }
      validations.push_back(this->MakeValidation(model, "Validation", patches));
      if (step > epochs)
      {
        otbAppLogWARNING("validation.step is " << step << ", but there are only " << epochs << " epochs: nothing will be validated");
      }
    }
    if (training.GetBatchSize() < static_cast<size_t>(batchSize))
    {
      otbAppLogWARNING("training.batchsize is " << batchSize << ", but there are only " << training.GetNumberOfPatches()
                                                << " patches: each epoch is one batch of them all");
    }
    if (!restoreFrom.empty())
    {
      model->Restore(restoreFrom);
    }

    const auto seed = HasUserValue("rand") ? static_cast<std::mt19937_64::result_type>(GetParameterInt("rand")) : std::random_device()();
    std::mt19937_64 engine(seed);
    otbAppLogINFO("Training on " << training.GetNumberOfPatches() << " patches, " << training.GetNumberOfBatches()
                                 << " batches an epoch; seed of their order (rand): " << seed);
    auto progress = Progress::New();
    AddProcess(progress, "Training");
    progress->InvokeEvent(itk::StartEvent());
    for (int epoch = 1; epoch <= epochs; ++epoch)
    {
      std::vector<double> means;
      try
      {
        means = TrainEpoch(training, ShuffledOrder(training.GetNumberOfPatches(), engine));
      }
      catch (const TensorflowError& error)
      {
        throw TensorflowError("epoch " + std::to_string(epoch) + ": " + error.what());
      }
      std::ostringstream line;
      for (size_t k = 0; k < means.size(); ++k)
      {
        line << (k == 0 ? ": " : ", ") << training.GetOutputs()[k]->key << " " << means[k];
      }
      otbAppLogINFO("Epoch " << epoch << " of " << epochs << line.str());
      progress->UpdateProgress(static_cast<float>(epoch) / static_cast<float>(epochs));
      for (const auto& validation : validations)
      {
        if (epoch % step == 0)
        {
          this->Validate(validation);
        }
      }
    }
    progress->InvokeEvent(itk::EndEvent());
    if (!saveTo.empty())
    {
      model->Save(saveTo);
      otbAppLogINFO("The variables are written to checkpoint " << saveTo);
    }
  }

  unsigned int m_NumberOfSources = 2;
  Sources m_Sources;
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::TensorflowModelTrain)
