/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbNumberOfThreads_h
#define otbNumberOfThreads_h

#include "itkVersion.h"

#if ITK_VERSION_MAJOR >= 5
#include "itkMultiThreaderBase.h"
#else
#include "itkMultiThreader.h"
#endif

#include <thread>

namespace otb
{

/** \brief Threads that a filter may use: ITK's global default, all cores unless ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS says less.
 * \ingroup OTBSuperResolutionTools
 */
inline unsigned int NumberOfThreads()
{
#if ITK_VERSION_MAJOR >= 5
  return static_cast<unsigned int>(itk::MultiThreaderBase::GetGlobalDefaultNumberOfThreads());
#else
  return static_cast<unsigned int>(itk::MultiThreader::GetGlobalDefaultNumberOfThreads());
#endif
}

/** \brief The same for TensorFlow: 0, its own choice, if it was not limited.
 * \ingroup OTBSuperResolutionTools
 */
inline unsigned int NumberOfTensorflowThreads()
{
  const unsigned int threads = NumberOfThreads();
  return threads < std::thread::hardware_concurrency() ? threads : 0;
}

} // namespace otb

#endif
