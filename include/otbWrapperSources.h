/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWrapperSources_h
#define otbWrapperSources_h

#include "otbImageStack.h"
#include "otbNumberOfSources.h"
#include "otbServedImage.h"

#include "otbClampImageFilter.h"
#include "otbImageFileReader.h"
#include "otbMacro.h"
#include "otbWrapperInputImageListParameter.h"

#include <cstdlib>
#include <string>
#include <vector>

namespace otb
{
namespace Wrapper
{

/** \class Sources
 * \brief The groups "source1", "source2"... of an application: how many, and the images of a "sourceN.il" as one stack.
 *
 * Holds what it made to read the images; the stacks do not.
 *
 * \ingroup OTBSuperResolutionTools
 */
class Sources
{
public:
  /** Number of groups to add, from OTB_TF_NSOURCES; 1 for a value that is none (see RequireNumber). */
  unsigned int GetNumber()
  {
    if (std::getenv("OTB_TF_NBSOURCES") != nullptr && std::getenv("OTB_TF_NSOURCES") == nullptr)
    {
      // as some instructions for SR4RS have it; the application has no log yet
      otbLogMacro(
          Warning, << "OTB_TF_NBSOURCES is set, but plays no role: the number of sources is that of OTB_TF_NSOURCES, which is not set");
    }
    const unsigned int number = ReadNumberOfSources(m_Value);
    m_IsNumber = number > 0;
    return m_IsNumber ? number : 1;
  }

  /** \throws ServedImageError if OTB_TF_NSOURCES was no number from 1 to 99 when the application was made. */
  void RequireNumber() const
  {
    if (!m_IsNumber)
    {
      throw ServedImageError("OTB_TF_NSOURCES is '" + m_Value +
                             "', expected an integer from 1 to 99; set it to the number of sources, or unset it");
    }
  }

  /** The images of a list, stacked band-wise. Files whose values need it are read as double (32 bit integers and float64), the rest as
   * float32. \param name of the source in messages: "source1"
   * \throws ServedImageError, SamplingGridError */
  ImageStack Stack(InputImageListParameter& list, const std::string& name)
  {
    ImageStack stack;
    for (std::size_t k = 0; k < list.Size(); ++k)
    {
      const std::string which = "image " + std::to_string(k + 1) + " of " + name + ".il";
      try
      {
        stack.Add(this->Open(list, k), which);
      }
      catch (const itk::ExceptionObject& error)
      {
        std::string said = error.GetDescription();
        if (const auto end = said.find("): "); said.rfind("itk::ERROR: ", 0) == 0 && end != std::string::npos)
        {
          said = said.substr(end + 3); // without the object and its address
        }
        said.erase(said.find_last_not_of(" \n.") + 1);
        throw ServedImageError(which + " (" + list.GetNthFileName(k) + "): " + said + "; check the file and the options behind its name");
      }
    }
    if (stack.IsEmpty())
    {
      throw ServedImageError(name + ".il: no image is given");
    }
    return stack;
  }

private:
  using DoubleImage = VectorImage<double, 2>;

  ImageStack::ImageType* Open(InputImageListParameter& list, std::size_t k)
  {
    const std::string file = list.GetNthFileName(k);
    if (!file.empty())
    {
      RequireServableFile(file);
      if (!NeedsDouble(file))
      {
        return list.GetNthImage(k);
      }
      auto reader = ImageFileReader<DoubleImage>::New();
      reader->SetFileName(file);
      reader->UpdateOutputInformation();
      m_Readers.push_back(reader.GetPointer());
      return reader->GetOutput();
    }
    auto* image = list.GetNthElement(k)->GetImage(); // in memory, of any type
    if (dynamic_cast<DoubleImage*>(image) != nullptr)
    {
      return image;
    }
    if (auto* integers = dynamic_cast<VectorImage<int32_t, 2>*>(image))
    {
      return this->Widen(integers);
    }
    if (auto* integers = dynamic_cast<VectorImage<uint32_t, 2>*>(image))
    {
      return this->Widen(integers);
    }
    return list.GetNthImage(k);
  }

  template <class TImage>
  ImageStack::ImageType* Widen(TImage* image)
  {
    auto filter = ClampImageFilter<TImage, DoubleImage>::New();
    filter->SetInput(image);
    filter->UpdateOutputInformation();
    m_Readers.push_back(filter.GetPointer());
    return filter->GetOutput();
  }

  std::string m_Value;
  bool m_IsNumber = true;
  std::vector<itk::ProcessObject::Pointer> m_Readers;
};

} // namespace Wrapper
} // namespace otb

#endif
