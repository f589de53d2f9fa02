/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbLabelSampler.h"
#include "otbLegacyMacros.h"
#include "otbPointFile.h"

#include "otbWrapperApplication.h"
#include "otbWrapperApplicationFactory.h"
#include "otbWrapperComplaint.h"
#include "otbWrapperParameters.h"

#include <algorithm>
#include <limits>
#include <sstream>

namespace otb
{
namespace Wrapper
{

/** \class LabelImageSampleSelection
 * \brief Points at pixels of a label image, class by class: a shell over LabelSampler.
 * \ingroup OTBSuperResolutionTools
 */
class LabelImageSampleSelection : public Application
{
public:
  using Self = LabelImageSampleSelection;
  using Superclass = Application;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  itkNewMacro(Self);
  itkTypeMacro(LabelImageSampleSelection, otb::Wrapper::Application);

private:
  /** A screenful. */
  static constexpr std::size_t MostLabelsTold = 50;

  void DoInit() override
  {
    SetName("LabelImageSampleSelection");
    SetDescription("Picks pixels of a label image, class by class, as points.");
    SetDocLongDescription(
        "In each class, pixels are picked at regular intervals along the rows, until there are as many as wanted. Each becomes a point at "
        "the "
        "pixel's centre, from which PatchesExtraction cuts a patch. Field 'class' counts from 0 (the label minus the smallest label of the "
        "image), as networks want it; field 'label' is the label. The result is the same in every run.");
    SetDocLimitations("The field 'class' depends on the smallest label that occurs: for several images with one nomenclature use 'label'.");
    SetDocAuthors("The otbsr developers");
    SetDocSeeAlso("PatchesExtraction, PatchesSelection");
    AddDocTag(Tags::Learning);

    AddParameter(ParameterType_InputImage, "inref", "Label image");
    SetParameterDescription("inref", "Image of one band with integer labels.");
    AddParameter(ParameterType_Choice, "strategy", "How many pixels of each class");
    AddChoice("strategy.constant", "The same number in each class");
    AddParameter(ParameterType_Int, "strategy.constant.nb", "Number of pixels in each class");
    SetParameterDescription("strategy.constant.nb", "A class that has less is taken whole.");
    AddChoice("strategy.total", "A number in total, each class in proportion");
    AddParameter(ParameterType_Int, "strategy.total.v", "Number of pixels in total");
    SetParameterDescription("strategy.total.v", "About: the interval between pixels is rounded down to an integer.");
    for (const std::string key : {"strategy.constant.nb", "strategy.total.v"})
    {
      SetDefaultParameterInt(key, 1000);
    }
    AddChoice("strategy.smallest", "As many as the smallest class has");
    AddChoice("strategy.all", "All pixels");
    AddParameter(ParameterType_Int, "nodata", "Label that means no-data");
    SetDefaultParameterInt("nodata", -1);
    AddParameter(ParameterType_Int, "pad", "Pixels along the edges that are left out");
    SetDefaultParameterInt("pad", 0);
    MandatoryOff("pad");
    AddParameter(ParameterType_OutputFilename, "outvec", "Points");
    SetParameterDescription("outvec", "Vector file; the ending tells the format.");
    AddRAMParameter();
    RefuseWords(*this);

    SetDocExampleParameterValue("inref", "labels.tif");
    SetDocExampleParameterValue("strategy", "constant");
    SetDocExampleParameterValue("strategy.constant.nb", "500");
    SetDocExampleParameterValue("nodata", "255");
    SetDocExampleParameterValue("outvec", "points.gpkg");
  }

  void DoUpdateParameters() override
  {
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
    RequireServableFile(GetParameterString("inref"));
    DoubleVectorImageType* image = GetParameterDoubleVectorImage("inref");
    const LabelSampler sampler(image, GetParameterInt("nodata"), static_cast<unsigned int>(GetIntegerFrom(*this, "pad", 0)),
                               std::size_t(GetParameterInt("ram")) << 18);
    const auto counts = sampler.Count();
    const std::string strategy = GetParameterString("strategy");
    std::size_t smallest = std::numeric_limits<std::size_t>::max();
    for (const auto& entry : counts)
    {
      smallest = std::min(smallest, entry.second);
    }
    const auto wanted = static_cast<std::size_t>(GetIntegerFrom(*this, "strategy.constant.nb", 1));
    const auto total = static_cast<std::size_t>(GetIntegerFrom(*this, "strategy.total.v", 1));
    const auto intervals = strategy == "constant"   ? LabelSampler::Same(counts, wanted)
                           : strategy == "smallest" ? LabelSampler::Same(counts, smallest)
                           : strategy == "total"    ? LabelSampler::InTotal(counts, total)
                                                    : LabelSampler::InTotal(counts, std::numeric_limits<std::size_t>::max());
    if (strategy == "constant" && smallest < wanted)
    {
      otbAppLogWARNING(<< "the smallest class has " << smallest << " pixels, less than strategy.constant.nb (" << wanted
                       << "): classes with less are taken whole");
    }

    const std::int64_t first = counts.begin()->first;
    const bool isWide = counts.rbegin()->first - first > std::numeric_limits<std::int32_t>::max();
    PointFile points(GetParameterString("outvec"), image->GetProjectionRef(),
                     {{"class", isWide ? OFTInteger64 : OFTInteger}, {"label", OFTInteger64}});
    LabelSampler::Counts picked;
    sampler.Pick(intervals,
                 [&](const LabelSampler::PointType& point, std::int64_t label)
                 {
                   ++picked[label];
                   points.Add(point, {label - first, label});
                 });
    if (points.GetSize() == 0)
    {
      throw std::runtime_error("no class has as many as " + std::to_string(intervals.begin()->second.step) +
                               " pixels, the interval between samples; raise strategy.total.v");
    }
    points.Finish();
    points.Publish();
    std::ostringstream text;
    std::size_t told = 0;
    for (const auto& [label, count] : counts)
    {
      if (++told > MostLabelsTold)
      {
        text << " and " << counts.size() - MostLabelsTold << " labels more";
        break;
      }
      text << (told == 1 ? "" : ", ") << label << ": " << picked[label] << " of " << count;
    }
    otbAppLogINFO(<< points.GetSize() << " points; of each label, " << text.str() << "; field 'class' is the label minus " << first);
  }
};

} // namespace Wrapper
} // namespace otb

OTB_APPLICATION_EXPORT(otb::Wrapper::LabelImageSampleSelection)
