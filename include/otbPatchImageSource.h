/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbPatchImageSource_h
#define otbPatchImageSource_h

#include "otbLegacyMacros.h"
#include "otbPatchStream.h"

#include "itkImageSource.h"

#include <algorithm>
#include <future>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace otb
{

/** \class PatchImageSource
 * \brief The image of patches, one below the other, read when its rows are asked for: memory is twice that of the rows.
 *
 * While a writer writes rows, the next ones are read. Width x (n height) pixels, signed spacing of the patches' source, origin 0, no
 * projection.
 *
 * \tparam TImage a VectorImage of real pixels
 * \ingroup OTBSuperResolutionTools
 */
template <class TImage>
class PatchImageSource : public itk::ImageSource<TImage>
{
public:
  using Self = PatchImageSource;
  using Superclass = itk::ImageSource<TImage>;
  using Pointer = itk::SmartPointer<Self>;
  using ConstPointer = itk::SmartPointer<const Self>;
  using PixelType = typename TImage::InternalPixelType;
  itkNewMacro(Self);
  itkTypeMacro(PatchImageSource, itk::ImageSource);

  /** \param corners first pixel of each patch, in the order of the output
   * \param folder for a temporary file as large as the output, if that is faster; empty: never (see PatchStream) */
  void SetPatches(std::shared_ptr<const PatchReader> reader, std::vector<PatchReader::IndexType> corners, const std::string& folder)
  {
    m_Patches = std::make_unique<PatchStream>(std::move(reader), std::move(corners), Type(), folder);
    this->Modified();
  }

  static constexpr GDALDataType Type()
  {
    if constexpr (std::is_same_v<PixelType, unsigned char>)
    {
      return GDT_Byte;
    }
    else if constexpr (std::is_integral_v<PixelType> && sizeof(PixelType) == 2)
    {
      return std::is_signed_v<PixelType> ? GDT_Int16 : GDT_UInt16;
    }
    else if constexpr (std::is_integral_v<PixelType>)
    {
      static_assert(sizeof(PixelType) == 4, "pixels of 8, 16 or 32 bits");
      return std::is_signed_v<PixelType> ? GDT_Int32 : GDT_UInt32;
    }
    else
    {
      return std::is_same_v<PixelType, float> ? GDT_Float32 : GDT_Float64;
    }
  }

protected:
  PatchImageSource() = default;
  ~PatchImageSource() override = default;

  void GenerateOutputInformation() override
  {
    const PatchReader& reader = m_Patches->GetReader();
    TImage* output = this->GetOutput();
    typename TImage::RegionType region;
    region.SetSize(0, reader.GetWidth());
    region.SetSize(1, reader.GetHeight() * m_Patches->GetSize());
    output->SetLargestPossibleRegion(region);
    output->SetNumberOfComponentsPerPixel(reader.GetBands());
    output->SetSignedSpacing(reader.GetGrid().GetSpacing());
    typename TImage::PointType origin;
    origin.Fill(0);
    output->SetOrigin(origin);
  }

  /** Rows are given whole. */
  void EnlargeOutputRequestedRegion(itk::DataObject* data) override
  {
    auto* output = static_cast<TImage*>(data);
    auto region = output->GetRequestedRegion();
    region.SetIndex(0, output->GetLargestPossibleRegion().GetIndex(0));
    region.SetSize(0, output->GetLargestPossibleRegion().GetSize(0));
    output->SetRequestedRegion(region);
  }

  void GenerateData() override
  {
    TImage* output = this->GetOutput();
    const auto& region = output->GetRequestedRegion();
    const Range range = this->RangeOf(region);
    const bool isAhead = m_Ahead.valid();
    if (isAhead)
    {
      m_Ahead.wait();
    }
    try
    {
      if (isAhead && m_AheadRange == range)
      {
        m_Ahead.get();
        std::swap(m_Buffer, m_AheadBuffer);
      }
      else
      {
        m_Ahead = {};
        this->ReadInto(m_Buffer, range);
      }
    }
    catch (const itk::ExceptionObject&)
    {
      throw;
    }
    catch (const std::exception& error)
    {
      itk::ExceptionObject failure(__FILE__, __LINE__);
      failure.SetDescription(error.what());
      throw failure;
    }
    // Exactly these rows, although patches are read whole: OTB's writer copies what is larger, pixel by pixel.
    const PatchReader& reader = m_Patches->GetReader();
    const std::size_t line = reader.GetWidth() * reader.GetBands();
    const auto top = static_cast<std::size_t>(region.GetIndex(1));
    const auto rows = RowsOfPatches::New();
    rows->Show(m_Buffer, line * (top - range.first * reader.GetHeight()), line * region.GetSize(1));
    output->SetBufferedRegion(region);
    output->SetPixelContainer(rows);
    // A writer that divides the rows evenly cuts patches: the next rows may begin inside the last patch of these.
    auto next = region;
    next.SetIndex(1, region.GetIndex(1) + static_cast<itk::IndexValueType>(region.GetSize(1)));
    if (!next.Crop(output->GetLargestPossibleRegion())) // the last rows: an application's other outputs are written after this one
    {
      m_Buffer = nullptr;
      m_AheadBuffer = nullptr;
    }
    else if (reader.IsFromFiles())
    {
      m_AheadRange = this->RangeOf(next);
      m_Ahead = std::async(std::launch::async, [this]() { this->ReadInto(m_AheadBuffer, m_AheadRange); });
    }
    this->UpdateProgress(1.f);
  }

private:
  using ContainerType = typename TImage::PixelContainer;

  /** Some of the rows of a container of patches, which it keeps alive. */
  class RowsOfPatches : public ContainerType
  {
  public:
    using Self = RowsOfPatches;
    using Pointer = itk::SmartPointer<Self>;
    itkNewMacro(Self);

    void Show(ContainerType* patches, std::size_t first, std::size_t count)
    {
      m_Patches = patches;
      this->SetImportPointer(patches->GetBufferPointer() + first, count, false);
    }

  private:
    typename ContainerType::Pointer m_Patches;
  };

  /** Patches first ... first + count - 1. */
  struct Range
  {
    std::size_t first = 0;
    std::size_t count = 0;
    bool operator==(const Range& other) const
    {
      return first == other.first && count == other.count;
    }
  };

  Range RangeOf(const typename TImage::RegionType& region) const
  {
    const std::size_t height = m_Patches->GetReader().GetHeight(), top = static_cast<std::size_t>(region.GetIndex(1));
    const std::size_t first = top / height, last = (top + region.GetSize(1) + height - 1) / height;
    return {first, last - first};
  }

  void ReadInto(typename ContainerType::Pointer& buffer, const Range& range)
  {
    const PatchReader& reader = m_Patches->GetReader();
    if (buffer.IsNull())
    {
      buffer = ContainerType::New();
    }
    buffer->Reserve(range.count * reader.GetHeight() * reader.GetWidth() * reader.GetBands());
    m_Patches->Read(range.first, range.count, buffer->GetBufferPointer());
  }

  std::unique_ptr<PatchStream> m_Patches;
  typename ContainerType::Pointer m_Buffer;
  typename ContainerType::Pointer m_AheadBuffer;
  Range m_AheadRange;
  std::future<void> m_Ahead; // last: its destructor waits for the thread that uses the others
};

} // namespace otb

#endif
