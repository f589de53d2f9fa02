/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLegacyMacros.h"
#include "otbNumberOfThreads.h"
#include "otbTensorflowPlaceholder.h"
#include "otbWrapperParameters.h"
#include "otbWrapperSources.h"
#include "otbWrapperTensorflowServing.h"

#include "otbWrapperApplicationFactory.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <set>

namespace otb
{
namespace Wrapper
{

/** \class TensorflowModelServe
 * \brief Run a TensorFlow SavedModel over images, with the parameters of OTBTF's application of the same name.
 *
 * Unlike OTBTF's, the product covers all that the sources cover (mirrored at the border), its corner is the first source's, and integers
 * are rounded.
 *
 * \ingroup OTBSuperResolutionTools
 */
class TensorflowModelServe : public TensorflowServing
{
public:
  using Self = TensorflowModelServe;
  using Pointer = itk::SmartPointer<Self>;
  itkNewMacro(Self);
  itkTypeMacro(TensorflowModelServe, otb::Wrapper::Application);

private:
  void AddInteger(const std::string& key, const std::string& name, int value)
  {
    AddParameter(ParameterType_Int, key, name);
    SetDefaultParameterInt(key, value);
  }

  void AddSource(const std::string& number)
  {
    const std::string key = "source" + number, of = " of source " + number;
    AddParameter(ParameterType_Group, key, "Source " + number);
    AddParameter(ParameterType_InputImageList, key + ".il", "Images" + of);
    SetParameterDescription(key + ".il", "Images of one grid, stacked band-wise in this order.");
    AddInteger(key + ".rfieldx", "Receptive field width (pixels" + of + ")", 1);
    SetParameterDescription(key + ".rfieldx", "Columns of this source that one evaluation of the model needs.");
    AddInteger(key + ".rfieldy", "Receptive field height (pixels" + of + ")", 1);
    SetParameterDescription(key + ".rfieldy", "Rows of this source that one evaluation of the model needs.");
    AddParameter(ParameterType_String, key + ".placeholder", "Name of the model's input" + of);
    SetParameterDescription(key + ".placeholder",
                            "Key in the model's signature, or name of a tensor in its graph. By default the inputs that "
                            "are no user placeholders are taken in alphabetical order, one a source.");
    MandatoryOff(key + ".placeholder");
    AddParameter(ParameterType_Float, key + ".nodata", "No-data value" + of + " (pixel value)");
    SetParameterDescription(key + ".nodata", "Output pixels over pixels with this value in all bands become output.bv. It may be nan.");
    AllowNan(*this, key + ".nodata");
    MandatoryOff(key + ".nodata");
  }

  void DoInit() override
  {
    SetName("TensorflowModelServe");
    SetDescription("Runs a TensorFlow SavedModel over one or several images.");
    SetDocLongDescription(
        "Runs a SavedModel over images, with the parameters of OTBTF's TensorflowModelServe. Without model.fullyconv, the model gets a "
        "patch "
        "of each source (its receptive field) around each output pixel. With it, the model is run on whole blocks, in which one evaluation "
        "takes the receptive field and gives the expression field. output.spcscale is the output's spacing over the first source's. The "
        "product has the first source's corner, covers all that the sources cover (they are mirrored at their borders), and does not "
        "depend "
        "on tiles, memory or threads. The environment variable OTB_TF_NSOURCES sets the number of sources (1 when it is not set). "
        "TensorFlow "
        "is looked for when the application runs (environment variable OTB_TF_LIBRARY, or the Python environment's tensorflow package).");
    SetDocLimitations("With model.fullyconv, output.spcscale is a fraction p/q and the sources' grids must nest in the output's blocks.");
    SetDocAuthors("The otbsr developers");
    SetDocSeeAlso("SuperResolution, PatchesExtraction");
    AddDocTag(Tags::Learning);

    m_NumberOfSources = m_Sources.GetNumber();
    for (unsigned int i = 1; i <= m_NumberOfSources; ++i)
    {
      AddSource(std::to_string(i));
    }

    AddParameter(ParameterType_Group, "model", "Model");
    AddParameter(ParameterType_Directory, "model.dir", "SavedModel folder");
    SetParameterDescription("model.dir", "Folder with saved_model.pb and variables.");
    AddParameter(ParameterType_StringList, "model.userplaceholders", "Further inputs of the model, as name=value");
    SetParameterDescription("model.userplaceholders", "Values are integers, reals or booleans, or lists of them: (1, 2, 3).");
    MandatoryOff("model.userplaceholders");
    AddParameter(ParameterType_Bool, "model.fullyconv", "Fully convolutional model");
    SetParameterDescription("model.fullyconv", "Run the model on whole blocks instead of on a patch for each output pixel.");
    MandatoryOff("model.fullyconv");
    AddParameter(ParameterType_StringList, "model.tagsets", "Tags of the model's graph");
    SetParameterDescription("model.tagsets", "All of them must be on one graph of the SavedModel. By default serve.");
    MandatoryOff("model.tagsets");

    AddParameter(ParameterType_Group, "output", "Output");
    AddParameter(ParameterType_Float, "output.spcscale", "Output spacing over the spacing of source 1 (ratio)");
    SetParameterDescription("output.spcscale", "0.25 gives pixels of 2.5 m from pixels of 10 m.");
    SetDefaultParameterFloat("output.spcscale", 1.0);
    AddParameter(ParameterType_StringList, "output.names", "Names of the model's outputs");
    SetParameterDescription("output.names",
                            "Keys in the model's signature, or names of tensors in its graph; several are stacked band-wise. "
                            "By default the first key in alphabetical order.");
    MandatoryOff("output.names");
    AddParameter(ParameterType_Float, "output.bv", "Output where there is no data (pixel value)");
    SetParameterDescription("output.bv", "In all bands; also for results that are not a number, if the output is of integers.");
    SetDefaultParameterFloat("output.bv", 0.0);
    AllowNan(*this, "output.bv");
    AddInteger("output.efieldx", "Expression field width (output pixels)", 1);
    SetParameterDescription("output.efieldx", "Columns of output that one evaluation of the model gives. 1 without model.fullyconv.");
    AddInteger("output.efieldy", "Expression field height (output pixels)", 1);
    SetParameterDescription("output.efieldy", "Rows of output that one evaluation of the model gives. 1 without model.fullyconv.");
    AddParameter(ParameterType_Choice, "output.rounding", "Reals to integers");
    SetParameterDescription("output.rounding", "How real results become pixels of integers.");
    AddChoice("output.rounding.nearest", "to the nearest");
    AddChoice("output.rounding.truncate", "toward zero, as OTBTF does");

    AddParameter(ParameterType_Group, "optim", "Optimisation");
    AddParameter(ParameterType_Bool, "optim.disabletiling", "Do not split what the writer asks for");
    SetParameterDescription("optim.disabletiling", "The model is run once for each region that the writer asks for.");
    MandatoryOff("optim.disabletiling");
    AddInteger("optim.tilesizex", "Tile width (output pixels)", 16);
    AddInteger("optim.tilesizey", "Tile height (output pixels)", 16);
    for (const std::string key : {"optim.tilesizex", "optim.tilesizey"})
    {
      SetParameterDescription(key,
                              "Raised to a multiple of the expression field and of the pixels of all sources. Used only when given: by "
                              "default tiles are as large as the memory allows (environment variable OTB_MAX_RAM_HINT, in MB; 2048 "
                              "when it is not set).");
    }

    AddParameter(ParameterType_OutputImage, "out", "Output image");
    SetParameterDescription("out", "A GeoTIFF without extended file name options is written in compressed tiles.");
    SetDefaultOutputPixelType("out", ImagePixelType_float);
    RefuseWords(*this);

    SetDocExampleParameterValue("source1.il", "sentinel2_10m.tif");
    SetDocExampleParameterValue("source1.rfieldx", "54");
    SetDocExampleParameterValue("source1.rfieldy", "54");
    SetDocExampleParameterValue("model.dir", "models/f-light-x4");
    SetDocExampleParameterValue("model.fullyconv", "on");
    SetDocExampleParameterValue("output.spcscale", "0.25");
    SetDocExampleParameterValue("output.efieldx", "16");
    SetDocExampleParameterValue("output.efieldy", "16");
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

  /** The memory for blocks in MB. */
  static double Megabytes()
  {
    const char* hint = std::getenv("OTB_MAX_RAM_HINT");
    const double given = hint == nullptr ? 0 : std::strtod(hint, nullptr);
    return given > 0 ? std::min(given, 1e8) : 2048; // "inf" is a number, too
  }

  /** The model's input of each source: the one that is named, or the next in alphabetical order that is no user placeholder. As in OTBTF,
   * "next" counts the sources that are named, unless an input would then be fed twice or left out. */
  static std::vector<const TensorflowTensorInfo*> InputsOf(const TensorflowModel& model, const std::vector<std::string>& names,
                                                           const std::vector<TensorflowModel::Feed>& constants)
  {
    std::vector<const TensorflowTensorInfo*> free, inputs(names.size(), nullptr);
    std::string keys, constantKeys;
    for (const auto& entry : model.GetSignature().inputs)
    {
      const bool isConstant =
          std::any_of(constants.begin(), constants.end(), [&](const auto& feed) { return feed.input->tensor == entry.second.tensor; });
      std::string& list = isConstant ? constantKeys : keys;
      list += (list.empty() ? "" : ", ") + entry.first;
      if (!isConstant)
      {
        free.push_back(&entry.second);
      }
    }
    std::set<std::string> fed;
    const auto feed = [&](size_t k, const TensorflowTensorInfo* input)
    {
      inputs[k] = input;
      return fed.insert(input->tensor).second;
    };
    for (size_t k = 0; k < names.size(); ++k)
    {
      if (!names[k].empty() && !feed(k, &model.GetInput(names[k])))
      {
        throw TensorflowError("source" + std::to_string(k + 1) + ".placeholder: \"" + names[k] +
                              "\" is the input of another source, too; the model's inputs are: " + keys);
      }
    }
    const auto isFed = [&](const TensorflowTensorInfo* input)
    {
      return fed.count(input->tensor) != 0;
    };
    std::vector<const TensorflowTensorInfo*> rest;
    std::copy_if(free.begin(), free.end(), std::back_inserter(rest), [&](const auto* input) { return !isFed(input); });
    const auto unnamed = static_cast<size_t>(std::count(names.begin(), names.end(), ""));
    if (unnamed > rest.size())
    {
      throw TensorflowError(std::to_string(names.size()) + " sources, but the model takes " + std::to_string(free.size()) +
                            (free.size() == 1 ? " image: " : " images: ") + (keys.empty() ? "none" : keys) +
                            (constantKeys.empty() ? "" : " (user placeholders: " + constantKeys + ")") + "; check OTB_TF_NSOURCES");
    }
    bool byPosition = true;
    for (size_t k = 0; k < names.size(); ++k)
    {
      byPosition = byPosition && (!names[k].empty() || (k < free.size() && !isFed(free[k])));
    }
    size_t next = 0;
    for (size_t k = 0; k < names.size(); ++k)
    {
      if (names[k].empty())
      {
        feed(k, byPosition ? free[k] : rest[next++]);
      }
    }
    return inputs;
  }

  void Connect()
  {
    m_Sources.RequireNumber();
    Settings settings;
    std::vector<std::string> names;
    for (unsigned int i = 1; i <= m_NumberOfSources; ++i)
    {
      const std::string key = "source" + std::to_string(i);
      Source source;
      source.images = m_Sources.Stack(*dynamic_cast<InputImageListParameter*>(GetParameterByKey(key + ".il")), key);
      source.receptiveField = {{GetIntegerFrom(*this, key + ".rfieldx", 1), GetIntegerFrom(*this, key + ".rfieldy", 1)}};
      if (HasUserValue(key + ".nodata"))
      {
        source.noData = {GetFloatOrNan(*this, key + ".nodata")};
      }
      for (const auto& name : GetParameterStringList(key + ".il"))
      {
        settings.prefetch = settings.prefetch && !name.empty(); // images in memory may be wanted by others meanwhile
      }
      names.push_back(GetParameterString(key + ".placeholder"));
      settings.sources.push_back(source);
    }
    this->WarnAboutGrid(settings.sources[0].images, "Source 1");

    const unsigned int threads = NumberOfTensorflowThreads();
    settings.threads = threads;
    settings.model = std::make_shared<TensorflowModel>(GetParameterString("model.dir"), GetParameterStringList("model.tagsets"), "",
                                                       threads, TensorflowModel::Use::Frozen);
    otbAppLogINFO(<< "TensorFlow " << TensorflowLibrary::Get().Version() << ", "
                  << (threads > 0 ? std::to_string(threads) : std::string("all")) << " threads");
    std::set<std::string> given;
    for (const auto& expression : GetParameterStringList("model.userplaceholders"))
    {
      settings.constants.push_back(ReadUserPlaceholder(*settings.model, expression));
      const auto* input = settings.constants.back().input;
      if (!given.insert(input->tensor).second)
      {
        throw TensorflowError("model.userplaceholders: \"" + input->key + "\" is given twice; give each input of the model once");
      }
    }
    const auto inputs = InputsOf(*settings.model, names, settings.constants);
    for (size_t k = 0; k < inputs.size(); ++k)
    {
      if (given.count(inputs[k]->tensor) != 0)
      {
        throw TensorflowError("\"" + inputs[k]->key + "\" is source " + std::to_string(k + 1) +
                              " and a user placeholder, too; name another input in source" + std::to_string(k + 1) +
                              ".placeholder or in model.userplaceholders");
      }
    }
    for (size_t k = 0; k < inputs.size(); ++k)
    {
      settings.sources[k].input = inputs[k];
      if (inputs.size() > 1 || settings.model->GetSignature().inputs.size() > 1)
      {
        otbAppLogINFO(<< "Source " << k + 1 << " is the model's input \"" << inputs[k]->key << "\"");
      }
    }
    settings.outputs = GetParameterStringList("output.names");
    settings.mode = GetParameterInt("model.fullyconv") != 0 ? ServingGrid::Mode::FullyConvolutional : ServingGrid::Mode::Patches;
    settings.scale = GetParameterFloat("output.spcscale");
    const std::string axes[2] = {"x", "y"};
    for (unsigned int k = 0; k < 2; ++k)
    {
      settings.expressionField[k] = GetIntegerFrom(*this, "output.efield" + axes[k], 1);
      const int tile = GetIntegerFrom(*this, "optim.tilesize" + axes[k], 1);
      settings.block[k] = HasUserValue("optim.tilesize" + axes[k]) ? tile : 0;
    }
    settings.splits = GetParameterInt("optim.disabletiling") == 0;
    settings.outputNoData = GetFloatOrNan(*this, "output.bv");
    settings.truncate = GetParameterString("output.rounding") == "truncate";
    settings.megabytes = Megabytes();
    this->Serve(settings);
  }

  void AfterProduct() override
  {
    if (this->GetNumberOfRuns() == 0)
    {
      otbAppLogWARNING("The product has no valid pixel: in a source, every pixel is no-data; check the no-data values");
    }
  }

  Sources m_Sources;
  unsigned int m_NumberOfSources = 1;
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::TensorflowModelServe)
