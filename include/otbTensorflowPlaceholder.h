/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbTensorflowPlaceholder_h
#define otbTensorflowPlaceholder_h

#include "otbTensorflowModel.h"

#include <string>
#include <vector>

namespace otb
{

/** \class UserPlaceholder
 * \brief An input of a model that a user gives as text: "rate=1e-3", "training=true", "size=(64, 64)".
 *
 * Values are integers, reals, true or false (any case). The model's input says which type and shape they become.
 *
 * \ingroup OTBSuperResolutionTools
 */
struct UserPlaceholder
{
  std::string expression;
  std::string name;
  std::vector<std::string> values; ///< at least one
  bool isList = false;             ///< with parentheses

  /** \throws TensorflowError if it is not name=value or name=(value, value...) */
  static UserPlaceholder Parse(const std::string& expression);

  /** The shape of the tensor for an input of that declared shape: [] takes one value; unknown dimensions take what there is (the last
   * one; others are 1). \throws TensorflowError if the number of values does not fit. */
  std::vector<int64_t> ShapeFor(const TensorflowTensorInfo& input) const;

  /** The values in the declared type, into a tensor's memory. \throws TensorflowError for values that the type does not have. */
  void WriteValues(const TensorflowTensorInfo& input, void* values) const;
};

/** The feed that a user's "name=value" says, of the type and shape that the model declares. \throws TensorflowError */
TensorflowModel::Feed ReadUserPlaceholder(const TensorflowModel& model, const std::string& expression);

} // namespace otb

#endif
