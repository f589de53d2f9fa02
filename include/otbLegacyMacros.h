/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbLegacyMacros_h
#define otbLegacyMacros_h

#include "itkMacro.h"

// ITK 5.4 leaves itkTypeMacro out when it is built with ITK_FUTURE_LEGACY_REMOVE; its successor takes no superclass.
#if defined(itkOverrideGetNameOfClassMacro) && !defined(itkTypeMacro)
#define itkTypeMacro(thisClass, superclass) itkOverrideGetNameOfClassMacro(thisClass)
#endif

#endif
