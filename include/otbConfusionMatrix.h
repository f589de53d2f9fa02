/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbConfusionMatrix_h
#define otbConfusionMatrix_h

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace otb
{

/** \class ConfusionMatrix
 * \brief How often each class of the reference was predicted as each class, and the usual figures. Classes are any integers.
 *
 * A share of nothing (the precision of a class that is never predicted) is 0.
 *
 * \ingroup OTBSuperResolutionTools
 */
class ConfusionMatrix
{
public:
  void Add(int reference, int predicted)
  {
    ++m_Counts[{reference, predicted}];
  }

  /** In ascending order; those that are only predicted, too. */
  std::vector<int> GetClasses() const;

  size_t GetCount(int reference, int predicted) const;
  size_t GetTotal() const;
  double GetPrecision(int label) const;
  double GetRecall(int label) const;
  double GetFScore(int label) const;
  double GetOverallAccuracy() const;

  /** Cohen's kappa. */
  double GetKappa() const;

  /** Several lines: the matrix (rows are the reference), figures by class, overall accuracy and kappa. */
  std::string Describe() const;

private:
  size_t SumOf(int label, bool asReference) const;

  std::map<std::pair<int, int>, size_t> m_Counts;
};

} // namespace otb

#endif
