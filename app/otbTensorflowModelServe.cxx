/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbNumberOfSources.h"
#include "otbWrapperTensorflowServing.h"

#include "otbConcatenateVectorImageFilter.h"
#include "otbWrapperApplicationFactory.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace otb
{
namespace Wrapper
{

/** \class TensorflowModelServe
 * \brief Run a TensorFlow SavedModel over an image, with the parameters of OTBTF's application of the same name.
 *
 * One source and fully convolutional models. Unlike OTBTF's, the product covers the whole input (mirrored at the border), its corner is
 * the input's, and integers are rounded.
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
  using IndexValue = itk::IndexValueType;

  /** Side of a block in input pixels unless optim.tilesizex and optim.tilesizey are given. */
  static constexpr IndexValue DefaultBlock = 512;

  void AddInteger(const std::string& key, const std::string& name, int value)
  {
    AddParameter(ParameterType_Int, key, name);
    SetMinimumParameterIntValue(key, 1);
    SetDefaultParameterInt(key, value);
  }

  void DoInit() override
  {
    SetName("TensorflowModelServe");
    SetDescription("Run a TensorFlow SavedModel over an image");
    SetDocLongDescription("Runs a fully convolutional SavedModel over an image, with the parameters of OTBTF's TensorflowModelServe. The "
                          "receptive field is the "
                          "input that the model needs for one expression field of output, output.spcscale is the output's spacing over the "
                          "input's. The product "
                          "covers the whole input, which is mirrored at its border, has its corner, and does not depend on the tiles. "
                          "TensorFlow is looked for when "
                          "the application runs (environment variable OTB_TF_LIBRARY, or the Python environment's tensorflow package).");
    SetDocLimitations(
        "One source, and fully convolutional models (model.fullyconv). output.spcscale is an integer or one over an integer.");
    SetDocAuthors("otbsr developers");
    SetDocSeeAlso("SuperResolution");
    AddDocTag(Tags::Learning);

    AddParameter(ParameterType_Group, "source1", "Source 1");
    AddParameter(ParameterType_InputImageList, "source1.il", "Input images");
    SetParameterDescription("source1.il", "Images of the same size, stacked band-wise.");
    AddInteger("source1.rfieldx", "Receptive field width (input pixels)", 1);
    AddInteger("source1.rfieldy", "Receptive field height (input pixels)", 1);
    AddParameter(ParameterType_String, "source1.placeholder", "Name of the model's input");
    SetParameterDescription("source1.placeholder", "Key in the model's signature. By default the first in alphabetical order.");
    MandatoryOff("source1.placeholder");
    AddParameter(ParameterType_Float, "source1.nodata", "No-data value of the input");
    SetParameterDescription("source1.nodata", "Pixels with this value in any band become output.bv.");
    MandatoryOff("source1.nodata");

    AddParameter(ParameterType_Group, "model", "Model");
    AddParameter(ParameterType_Directory, "model.dir", "SavedModel folder");
    AddParameter(ParameterType_StringList, "model.userplaceholders", "Further inputs of the model, as name=value");
    SetParameterDescription("model.userplaceholders", "Values are integers, reals or booleans, or lists of them: (1, 2, 3).");
    MandatoryOff("model.userplaceholders");
    AddParameter(ParameterType_Bool, "model.fullyconv", "Fully convolutional model");
    AddParameter(ParameterType_StringList, "model.tagsets", "Tags of the model's graph");
    MandatoryOff("model.tagsets");

    AddParameter(ParameterType_Group, "output", "Output");
    AddParameter(ParameterType_Float, "output.spcscale", "Output spacing over input spacing");
    SetDefaultParameterFloat("output.spcscale", 1.0);
    AddParameter(ParameterType_StringList, "output.names", "Names of the model's outputs");
    SetParameterDescription("output.names",
                            "Keys in the model's signature; several are stacked band-wise. By default the first in alphabetical order.");
    MandatoryOff("output.names");
    AddParameter(ParameterType_Float, "output.bv", "Output value where there is no data");
    SetDefaultParameterFloat("output.bv", 0.0);
    AddInteger("output.efieldx", "Expression field width (output pixels)", 1);
    AddInteger("output.efieldy", "Expression field height (output pixels)", 1);

    AddParameter(ParameterType_Group, "optim", "Optimisation");
    AddParameter(ParameterType_Bool, "optim.disabletiling", "Do not split the writer's blocks");
    AddInteger("optim.tilesizex", "Tile width (output pixels)", 16);
    AddInteger("optim.tilesizey", "Tile height (output pixels)", 16);
    SetParameterDescription("optim.tilesizex",
                            "Raised to a multiple of the expression field. Only used when given: tiles are larger by default.");
    SetParameterDescription("optim.tilesizey",
                            "Raised to a multiple of the expression field. Only used when given: tiles are larger by default.");

    AddParameter(ParameterType_OutputImage, "out", "Output image");
    SetDefaultOutputPixelType("out", ImagePixelType_float);

    SetDocExampleParameterValue("source1.il", "sentinel2_10m.tif");
    SetDocExampleParameterValue("source1.rfieldx", "46");
    SetDocExampleParameterValue("source1.rfieldy", "46");
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

  /** The input of the session that a "name=value" says. */
  static TensorflowModel::Feed ReadPlaceholder(const TensorflowModel& model, const std::string& expression)
  {
    const auto equal = expression.find('=');
    if (equal == std::string::npos || equal == 0)
    {
      throw TensorflowError("model.userplaceholders: \"" + expression + "\" is not name=value");
    }
    std::string text = expression.substr(equal + 1);
    if (!text.empty() && (text.front() == '(') != (text.back() == ')'))
    {
      throw TensorflowError("model.userplaceholders: \"" + expression + "\" misses a parenthesis");
    }
    if (!text.empty() && text.front() == '(')
    {
      text = text.substr(1, text.size() - 2);
    }
    std::vector<double> values;
    std::stringstream list(text);
    bool real = false, boolean = false;
    for (std::string word; std::getline(list, word, ',');)
    {
      word.erase(std::remove_if(word.begin(), word.end(), [](unsigned char c) { return std::isspace(c) != 0; }), word.end());
      std::string lower = word;
      std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
      char* end = nullptr;
      if (lower == "true" || lower == "false")
      {
        boolean = true;
        values.push_back(lower == "true" ? 1 : 0);
        continue;
      }
      values.push_back(std::strtod(word.c_str(), &end));
      if (word.empty() || *end != 0)
      {
        throw TensorflowError("model.userplaceholders: \"" + word + "\" in \"" + expression + "\" is no number, true or false");
      }
      real = real || word.find_first_of(".eE") != std::string::npos;
    }
    const auto& info = model.GetInput(expression.substr(0, equal));
    const auto type = boolean ? tf::Bool : real ? tf::Float : tf::Int32;
    std::vector<int64_t> shape;
    if (!(info.shape.empty() && !info.unknownRank && values.size() == 1))
    {
      shape.push_back(static_cast<int64_t>(values.size()));
    }
    const auto tensor = model.NewTensor(type, shape);
    tensorflow_model_filter::CastTo(type, values.data(), model.GetData(tensor), values.size());
    return {&info, tensor};
  }

  /** Input pixels that the model needs beyond those under its expression field: before and after. */
  static std::pair<IndexValue, IndexValue> Margins(const std::string& axis, int receptive, int expression, double scale)
  {
    const double total = receptive - expression * scale;
    const auto pixels = static_cast<IndexValue>(std::floor(total + 1e-3)); // a part of a pixel is no margin
    if (pixels < 0)
    {
      throw SamplingGridError("receptive field " + std::to_string(receptive) + " is smaller than expression field " +
                              std::to_string(expression) + " x spacing scale " + std::to_string(scale) + " in " + axis +
                              "; check source1.rfield" + axis + ", output.efield" + axis + " and output.spcscale");
    }
    return {(pixels + 1) / 2, pixels / 2};
  }

  static IndexValue AlignedTile(IndexValue tile, IndexValue expression)
  {
    return (tile + expression - 1) / expression * expression;
  }

  void Connect()
  {
    if (std::string sources; ReadNumberOfSources(sources) != 1)
    {
      throw TensorflowError("OTB_TF_NSOURCES is " + sources + ", but this version serves one source");
    }
    if (GetParameterInt("model.fullyconv") == 0)
    {
      throw TensorflowError(
          "model.fullyconv is off, but this version runs fully convolutional models only (no patch mode): set -model.fullyconv on");
    }
    if (HasUserValue("source1.il"))
    {
      for (const auto& name : GetParameterStringList("source1.il"))
      {
        RequireServableFile(name);
      }
    }
    auto list = GetParameterImageList("source1.il");
    list->GetNthElement(0)->UpdateOutputInformation();
    FloatVectorImageType* image = list->GetNthElement(0);
    if (list->Size() > 1)
    {
      const auto first = SamplingGrid::FromImage(image);
      m_Stack.clear();
      for (unsigned int k = 1; k < list->Size(); ++k)
      {
        list->GetNthElement(k)->UpdateOutputInformation();
        const auto other = SamplingGrid::FromImage(list->GetNthElement(k));
        first.RequireSame(other, "image " + std::to_string(k + 1) + " of source1.il");
        auto stack = StackType::New();
        stack->SetInput1(image);
        stack->SetInput2(list->GetNthElement(k));
        stack->UpdateOutputInformation();
        m_Stack.push_back(stack);
        image = stack->GetOutput();
      }
    }
    this->WarnAboutGrid(list->GetNthElement(0));

    Settings settings;
    settings.model = std::make_shared<TensorflowModel>(GetParameterString("model.dir"), GetParameterStringList("model.tagsets"));
    for (const auto& expression : GetParameterStringList("model.userplaceholders"))
    {
      settings.constants.push_back(ReadPlaceholder(*settings.model, expression));
    }
    // an input that is not named: the first that is not a user placeholder
    settings.input = GetParameterString("source1.placeholder");
    for (const auto& entry : settings.model->GetSignature().inputs)
    {
      const bool taken =
          std::any_of(settings.constants.begin(), settings.constants.end(), [&](const auto& feed) { return feed.input == &entry.second; });
      if (settings.input.empty() && !taken)
      {
        settings.input = entry.first;
      }
    }
    const auto& input = settings.model->GetInput(settings.input);
    const auto bands = image->GetNumberOfComponentsPerPixel();
    if (input.shape.size() == 4 && input.shape[3] > 0 && input.shape[3] != static_cast<int64_t>(bands))
    {
      throw ServedImageError("source 1 has " + std::to_string(bands) + " bands, but the model's input \"" + input.key + "\" takes " +
                             std::to_string(input.shape[3]));
    }
    settings.outputs = GetParameterStringList("output.names");
    settings.scale = GetParameterFloat("output.spcscale");
    if (!(settings.scale > 0))
    {
      throw SamplingGridError("output.spcscale is " + std::to_string(settings.scale) + ", but must be positive");
    }
    const std::string axes[2] = {"x", "y"};
    for (unsigned int k = 0; k < 2; ++k)
    {
      const int expression = GetParameterInt("output.efield" + axes[k]);
      const auto margins = Margins(axes[k], GetParameterInt("source1.rfield" + axes[k]), expression, settings.scale);
      settings.marginBefore[k] = margins.first;
      settings.marginAfter[k] = margins.second;
      settings.expressionField[k] = expression;
      const bool given = HasUserValue("optim.tilesize" + axes[k]) && GetParameterInt("optim.disabletiling") == 0;
      const auto usual = static_cast<IndexValue>(std::max(1.0, std::round(DefaultBlock / settings.scale)));
      settings.block[k] = AlignedTile(given ? GetParameterInt("optim.tilesize" + axes[k]) : usual, expression);
    }
    const bool hasNoData = HasUserValue("source1.nodata");
    settings.outputNoData = GetParameterFloat("output.bv");
    if (hasNoData)
    {
      settings.inputNoData = {GetParameterFloat("source1.nodata")};
    }
    else if (GetParameterOutputImagePixelType("out") == ImagePixelType_float ||
             GetParameterOutputImagePixelType("out") == ImagePixelType_double)
    {
      settings.outputNoData = std::numeric_limits<double>::quiet_NaN(); // NaN stays NaN
    }
    this->Serve(image, settings);
  }

  using StackType = ConcatenateVectorImageFilter<FloatVectorImageType, FloatVectorImageType, FloatVectorImageType>;
  std::vector<StackType::Pointer> m_Stack; ///< image 1 with image 2, these with image 3, ...
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::TensorflowModelServe)
