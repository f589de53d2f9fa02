/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWrapperTensorflowServing_h
#define otbWrapperTensorflowServing_h

#include "otbLegacyMacros.h"
#include "otbNumberOfThreads.h"
#include "otbServedImage.h"
#include "otbSmallGdalCache.h"
#include "otbTensorflowModelFilter.h"
#include "otbTensorflowTensor.h"
#include "otbUnfinishedFiles.h"
#include "otbWrapperComplaint.h"
#include "otbWrapperParameters.h"

#include "itkCommand.h"
#include "otbWrapperAddProcessToWatchEvent.h"
#include "otbWrapperApplication.h"
#include "otbWrapperOutputImageParameter.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace otb
{
namespace Wrapper
{

/** \class TensorflowServing
 * \brief What the applications that run a model over images share: one filter of the output's pixel type, blocks that fit the memory,
 * fast writing, and a product that has its name only when it is whole.
 * \ingroup OTBSuperResolutionTools
 */
class TensorflowServing : public Application
{
public:
  using Self = TensorflowServing;
  using Pointer = itk::SmartPointer<Self>;
  itkTypeMacro(TensorflowServing, otb::Wrapper::Application);

protected:
  using IndexValue = itk::IndexValueType;
  using PairType = ServingGrid::PairType;

  /** Memory of TensorFlow and of the filter per input pixel, with networks of 32 to 64 channels and factor 4: measured, rounded up. */
  static constexpr double BytesPerInputPixel = 2560;

  /** Most input pixels of a block with its margins, unless the user says more: beyond that nothing is gained (a pass over fresh memory
   * costs as much as the margins), and a second run no longer fits beside it. */
  static constexpr double LargestBlock = 600.0 * 600.0;

  /** Side in output pixels of blocks of patches, before the limit of a batch. */
  static constexpr IndexValue BlockOfPatches = 512;

  struct Source
  {
    ImageStack images;
    const TensorflowTensorInfo* input = nullptr;
    PairType receptiveField{{1, 1}};
    std::vector<double> noData; ///< of each band, or one for all; empty: none
  };

  /** How to run which model on what. */
  struct Settings
  {
    std::shared_ptr<TensorflowModel> model;
    unsigned int threads = 0; ///< of TensorFlow; 0: all
    std::vector<std::string> outputs;
    std::vector<TensorflowModel::Feed> constants;
    std::vector<Source> sources;
    double scale = 1;
    PairType expressionField{{1, 1}};
    ServingGrid::Mode mode = ServingGrid::Mode::FullyConvolutional;
    bool anyBandInvalid = false; ///< the rule of SuperResolution: see TensorflowModelFilter::InvalidRule
    double outputNoData = 0;
    bool writeNoData = false; ///< no-data is reserved, and in the product's metadata
    PairType block{{0, 0}};   ///< in output pixels; 0: from the memory
    bool splits = true;       ///< false: what the writer asks for is one block
    double megabytes = 2048;  ///< memory for blocks
    bool truncate = false;    ///< integers toward zero
    bool prefetch = true;
    std::vector<std::string> bandNames;
  };

  TensorflowServing()
  {
    auto command = itk::MemberCommand<Self>::New();
    command->SetCallbackFunction(this, &Self::WatchWriter);
    this->AddObserver(AddProcessToWatchEvent(), command);
  }

  ~TensorflowServing() override
  {
    m_Filter = nullptr;
    this->RemovePartial(); // of a writer that failed
  }

  /** Runs `work`; errors of ours end as one FATAL message. */
  void Guarded(const std::function<void()>& work)
  {
    const std::string said = OwnComplaintOf(work);
    if (!said.empty())
    {
      m_Monitor.reset(); // or the message could be swallowed
      otbAppLogFATAL(<< said);
    }
  }

  /** Warn about grids that are unusual but served. \param name "The image" */
  void WarnAboutGrid(const ImageStack& images, const std::string& name)
  {
    const auto* image = images.GetImages().front().GetPointer();
    const auto* common = dynamic_cast<const ImageCommons*>(image);
    if (common != nullptr && common->GetProjectionRef().empty())
    {
      otbAppLogWARNING(<< name << " has no coordinate reference system: the product has none either");
    }
    if (images.GetGrid().IsSouthUp())
    {
      otbAppLogWARNING(<< name << " is south-up (positive y spacing): the product is, too");
    }
  }

  /** The model with constants for variables, which is faster, if it can be had. */
  void Freeze(const Settings& settings)
  {
    std::vector<const TensorflowTensorInfo*> kept;
    for (const auto& source : settings.sources)
    {
      kept.push_back(source.input);
    }
    for (const auto& constant : settings.constants)
    {
      kept.push_back(constant.input);
    }
    for (const auto& name : settings.outputs.empty() ? std::vector<std::string>{""} : settings.outputs)
    {
      kept.push_back(&settings.model->GetOutput(name));
    }
    if (const auto* phases = settings.model->GetPhases())
    {
      for (const auto* tensors : {&phases->inputs, &phases->outputs})
      {
        for (const auto& tensor : *tensors)
        {
          kept.push_back(&tensor.second);
        }
      }
    }
    if (const auto obstacle = settings.model->Freeze(kept); !obstacle.empty())
    {
      otbAppLogINFO(<< "The model's variables stay variables, for which TensorFlow may be slower: " << obstacle);
    }
  }

  /** Build the filter between the sources and parameter "out". */
  void Serve(const Settings& settings)
  {
    this->Freeze(settings);
    m_BandNames = settings.bandNames;
    const auto type = this->GetParameterOutputImagePixelType("out");
    switch (type)
    {
    case ImagePixelType_uint8:
      return this->ServeAs<UInt8VectorImageType>(settings);
    case ImagePixelType_int16:
      return this->ServeAs<Int16VectorImageType>(settings);
    case ImagePixelType_uint16:
      return this->ServeAs<UInt16VectorImageType>(settings);
    case ImagePixelType_int32:
      return this->ServeAs<Int32VectorImageType>(settings);
    case ImagePixelType_uint32:
      return this->ServeAs<UInt32VectorImageType>(settings);
    case ImagePixelType_float:
      return this->ServeAs<FloatVectorImageType>(settings);
    case ImagePixelType_double:
      return this->ServeAs<DoubleVectorImageType>(settings);
    default:
      throw ServedImageError("out: pixel type " + OutputImageParameter::ConvertPixelTypeToString(type) +
                             " is not supported; use a real one");
    }
  }

  /** How many times the model was run in the last execution. */
  size_t GetNumberOfRuns() const
  {
    return m_NumberOfRuns ? m_NumberOfRuns() : 0;
  }

  /** After a product was written whole. */
  virtual void AfterProduct()
  {
  }

private:
  template <class TOutputImage>
  void ServeAs(const Settings& settings)
  {
    using FilterType = TensorflowModelFilter<TOutputImage>;
    using PixelType = typename TOutputImage::InternalPixelType;
    using RuleType = typename FilterType::InvalidRule;

    const auto noData = static_cast<double>(tensorflow_tensor::Convert<PixelType>(settings.outputNoData));
    if (settings.writeNoData && noData != settings.outputNoData)
    {
      otbAppLogWARNING("No-data " << settings.outputNoData << " does not fit the output's pixel type: " << noData << " is used");
    }
    auto filter = FilterType::New();
    filter->SetModel(settings.model, settings.outputs);
    for (const auto& source : settings.sources)
    {
      filter->AddSource(source.images, *source.input, source.receptiveField, source.noData);
    }
    filter->SetSampling(settings.scale, settings.expressionField, settings.mode);
    filter->SetConstants(settings.constants);
    filter->SetInvalidRule(settings.anyBandInvalid ? RuleType::AnyBand : RuleType::AllBands);
    filter->SetOutputNoData(std::isnan(settings.outputNoData) ? settings.outputNoData : noData, settings.writeNoData);
    filter->SetTruncate(settings.truncate);
    filter->SetPrefetch(settings.prefetch);
    if (settings.anyBandInvalid && !filter->HasValidPixel(size_t(1) << 18))
    {
      throw ServedImageError("the image has no valid pixel: every pixel is no-data or not a number; check the no-data value");
    }

    auto* parameter = dynamic_cast<OutputImageParameter*>(this->GetParameterByKey("out"));
    m_Product = this->HasValue("out") ? GetProductName(*this, "out") : std::string();
    m_Partial.clear();
    m_Monitor.reset();
    m_Unfinished.reset();
    if (!m_Product.empty())
    {
      RequireWritableFolder(m_Product);
      if (PartialNameOf(m_Product).empty()) // or the input is read whole before its name is taken
      {
        RequireOwnFile(*this, "out");
      }
    }
    const auto options = ReadWritingOptions(m_Product);
    if (options.hasBox)
    {
      filter->SetRegionOfInterest(options.box);
    }
    filter->UpdateOutputInformation();

    WritingPlan plan;
    plan.bytesPerPixel = filter->GetOutput()->GetNumberOfComponentsPerPixel() * sizeof(PixelType);
    auto written = filter->GetOutput()->GetLargestPossibleRegion();
    if (options.hasBox)
    {
      written.Crop(options.box);
    }
    plan.size = {{static_cast<IndexValue>(written.GetSize(0)), static_cast<IndexValue>(written.GetSize(1))}};
    if (options.isStoredWhole)
    {
      RequireRoom(m_Product,
                  static_cast<double>(plan.size[0]) * static_cast<double>(plan.size[1]) * static_cast<double>(plan.bytesPerPixel));
    }
    // what is kept for a writer of strips: little in memory, for a wide image as for a narrow one, the rest beside the product
    constexpr double mebibyte = 1024 * 1024;
    const double share = std::max(64.0, settings.megabytes / 4) * mebibyte;
    const std::string folder = m_Product.empty() ? "" : FolderOf(m_Product);
    const double kept = folder.empty() ? share : 32 * mebibyte;
    plan.block = this->BlocksOf(settings, filter->GetGrid(), plan, options, folder.empty() ? kept : 4096 * mebibyte);
    for (unsigned int k = 0; k < 2; ++k)
    {
      const IndexValue block = plan.block[k] > 0 ? plan.block[k] : filter->GetGrid().GetStep()[k];
      plan.hint[k] = block >= 512 ? block : (511 / block + 1) * block;
    }
    filter->SetBlockSize(plan.block);
    filter->SetWritingHint(plan.hint);
    filter->SetRoomForKept(static_cast<size_t>(kept), folder);
    // two at once fill the moments in which one does not occupy all cores; two cores it hardly leaves idle, and memory stays that of one
    const unsigned int threads = settings.threads > 0 ? settings.threads : NumberOfThreads();
    const bool hasRoomForTwo = threads > 2 && settings.mode == ServingGrid::Mode::FullyConvolutional && plan.block[0] > 0 &&
                               2 * BytesOfRun(settings, filter->GetGrid(), plan.block) < settings.megabytes * 1e6;
    filter->SetConcurrentRuns(hasRoomForTwo ? 2 : 1);
    filter->UpdateOutputInformation();
    m_Filter = filter;
    m_NumberOfRuns = [number = filter.GetPointer()]
    {
      return number->GetNumberOfRuns();
    };
    m_FinishPrefetch = [number = filter.GetPointer()]
    {
      number->FinishPrefetch();
    };

    if (!m_Product.empty())
    {
      if (plan.block[0] == 0)
      {
        plan.hint.fill(0); // as OTB likes
      }
      const std::string name = WithFastWriting(m_Product, plan, std::is_floating_point<PixelType>::value, settings.writeNoData, noData);
      const std::string file = FileOfExtendedName(name);
      m_Partial = PartialNameOf(m_Product);
      parameter->SetFileName((m_Partial.empty() ? file : m_Partial) + name.substr(file.size()));
      m_Monitor = std::make_unique<WriteMonitor>();
      m_Unfinished = std::make_unique<UnfinishedFiles>(std::vector<std::string>{m_Partial.empty() ? m_Product : m_Partial});
      m_Cache.reset();
      const double needed = WritingCache(plan, options) + ReadingCacheOf(settings, filter->GetGrid(), plan.hint);
      m_Cache = std::make_unique<SmallGdalCache>(static_cast<long long>(8 * mebibyte + std::min(needed, share)));
      filter->SetFailureHandler([this](const std::string& cause) { this->Fail(cause); });
    }
    this->SetParameterOutputImage<TOutputImage>("out", filter->GetOutput());
  }

  /** Input pixels of the finest source per output pixel, and the largest margins of the sources in output pixels. */
  static double FinestInput(const Settings& settings, const ServingGrid& grid, PairType& margin)
  {
    double inputPixels = 1.0 / 16; // the output counts, too
    margin.fill(0);
    for (size_t i = 0; i < settings.sources.size(); ++i)
    {
      const auto& spacing = settings.sources[i].images.GetGrid().GetSpacing();
      const auto& output = grid.GetOutput().GetSpacing();
      inputPixels = std::max(inputPixels, std::abs(output[0] / spacing[0] * output[1] / spacing[1]));
      for (unsigned int k = 0; k < 2; ++k)
      {
        const double pixels = static_cast<double>(grid.Margin(i, k)) * std::abs(spacing[k] / output[k]);
        margin[k] = std::max(margin[k], static_cast<IndexValue>(std::ceil(pixels)));
      }
    }
    return inputPixels;
  }

  /** GDAL's cache for reading blocks of so many output pixels from all sources. */
  static double ReadingCacheOf(const Settings& settings, const ServingGrid& grid, const PairType& block)
  {
    double bytes = 0;
    for (size_t i = 0; i < settings.sources.size(); ++i)
    {
      const auto& spacing = settings.sources[i].images.GetGrid().GetSpacing();
      PairType area;
      for (unsigned int k = 0; k < 2; ++k)
      {
        area[k] = grid.Margin(i, k) +
                  static_cast<IndexValue>(static_cast<double>(block[k]) * std::abs(grid.GetOutput().GetSpacing()[k] / spacing[k]));
      }
      for (const auto& image : settings.sources[i].images.GetImages())
      {
        bytes += ReadingCache(*image, area);
      }
    }
    return bytes;
  }

  /** Memory of one run on a block of so many output pixels. */
  static double BytesOfRun(const Settings& settings, const ServingGrid& grid, const PairType& block)
  {
    PairType margin;
    const double inputPixels = FinestInput(settings, grid, margin);
    return static_cast<double>((block[0] + margin[0]) * (block[1] + margin[1])) * inputPixels * BytesPerInputPixel;
  }

  /** The size of the model's blocks: the user's, or what the memory allows. */
  PairType BlocksOf(const Settings& settings, const ServingGrid& grid, const WritingPlan& plan, const WritingOptions& options,
                    double room) const
  {
    if (!settings.splits)
    {
      return {{0, 0}};
    }
    PairType block = settings.block;
    for (unsigned int k = 0; k < 2; ++k)
    {
      block[k] = std::min(block[k], plan.size[k]); // of any size that a parameter may have
    }
    if (settings.mode == ServingGrid::Mode::Patches)
    {
      for (auto& side : block)
      {
        side = side > 0 ? side : BlockOfPatches;
      }
      return block;
    }
    PairType margin;
    const double inputPixels = FinestInput(settings, grid, margin);
    const double mostPixels = std::min(settings.megabytes * 1e6 / BytesPerInputPixel, LargestBlock) / inputPixels;
    // a writer that does not ask for blocks makes a row of them be kept
    const double rowBytes = static_cast<double>(plan.size[0]) * static_cast<double>(plan.bytesPerPixel);
    const bool keepsRows = options.isStreamingGiven || options.isInStrips;
    const auto mostRows = keepsRows ? std::max<IndexValue>(16, static_cast<IndexValue>(room / rowBytes)) : 0;
    auto planned = PlanBlocks(plan.size, grid.GetStep(), margin, mostPixels, mostRows);
    if (options.isInStrips && !options.isStreamingGiven)
    {
      planned[1] = EvenStrips(plan.size[1], planned[1], grid.GetStep()[1]);
    }
    for (unsigned int k = 0; k < 2; ++k)
    {
      block[k] = block[k] > 0 ? (block[k] + grid.GetStep()[k] - 1) / grid.GetStep()[k] * grid.GetStep()[k] : planned[k];
    }
    return block;
  }

  /** A block could not be computed while the product is written. */
  void Fail(const std::string& cause)
  {
    m_Monitor.reset();
    this->RemovePartial();
    if (m_Partial.empty())
    {
      RemovePlainFile(FileOfExtendedName(m_Product)); // was written in place
    }
    std::string said = cause;
    std::replace(said.begin(), said.end(), '\n', ' ');
    otbAppLogFATAL(<< FileOfExtendedName(m_Product) << ": is not written, because a block could not be computed: " << said);
  }

  void RemovePartial()
  {
    if (!m_Partial.empty())
    {
      std::remove(m_Partial.c_str());
    }
  }

  /** The writer has its name: show the user's again. When it ends, the product gets its own. */
  void WatchWriter(itk::Object*, const itk::EventObject& event)
  {
    const auto* watch = dynamic_cast<const AddProcessToWatchEvent*>(&event);
    auto* parameter = dynamic_cast<OutputImageParameter*>(this->GetParameterByKey("out"));
    if (watch == nullptr || watch->GetProcess() == nullptr || m_Partial.empty() || parameter == nullptr ||
        watch->GetProcess() == m_Filter.GetPointer())
    {
      return;
    }
    parameter->SetFileName(m_Product);
    auto command = itk::SimpleMemberCommand<Self>::New();
    command->SetCallbackFunction(this, &Self::NameProduct);
    watch->GetProcess()->AddObserver(itk::EndEvent(), command);
  }

  /** A product that is not whole keeps its hidden name, and what had the product's name before stays: AfterExecuteAndWriteOutputs tells. */
  void NameProduct()
  {
    if (m_Partial.empty() || (m_Monitor != nullptr && !m_Monitor->FindDamage(m_Partial).empty()))
    {
      return;
    }
    const std::string file = FileOfExtendedName(m_Product);
    if (std::rename(m_Partial.c_str(), file.c_str()) == 0)
    {
      std::rename((m_Partial + ".aux.xml").c_str(), (file + ".aux.xml").c_str()); // if there is one
      m_Partial.clear();
    }
  }

  void AfterExecuteAndWriteOutputs() override
  {
    if (m_FinishPrefetch)
    {
      m_FinishPrefetch();
    }
    m_Cache.reset();
    if (m_Monitor == nullptr)
    {
      return;
    }
    const auto unfinished = std::move(m_Unfinished); // until this ends
    this->Guarded(
        [this]()
        {
          m_Monitor->RequireWhole(m_Product, m_Partial);
          this->NameProduct(); // if GDAL's last buffers were not written when the writer ended
          m_Monitor.reset();
          NameBands(m_Product, m_BandNames);
          this->AfterProduct();
        });
  }

  itk::ProcessObject::Pointer m_Filter;
  std::function<size_t()> m_NumberOfRuns;
  std::function<void()> m_FinishPrefetch;
  std::unique_ptr<WriteMonitor> m_Monitor;
  std::unique_ptr<SmallGdalCache> m_Cache;
  std::unique_ptr<UnfinishedFiles> m_Unfinished;
  std::string m_Product; ///< extended file name that the user gave
  std::string m_Partial; ///< file that is being written instead; empty when there is none
  std::vector<std::string> m_BandNames;
};

} // namespace Wrapper
} // namespace otb

#endif
