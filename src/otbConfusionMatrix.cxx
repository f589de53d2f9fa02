/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbConfusionMatrix.h"

#include <iomanip>
#include <set>
#include <sstream>

namespace otb
{
namespace
{
double Share(size_t part, size_t whole)
{
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}
} // namespace

std::vector<int> ConfusionMatrix::GetClasses() const
{
  std::set<int> classes;
  for (const auto& count : m_Counts)
  {
    classes.insert({count.first.first, count.first.second});
  }
  return {classes.begin(), classes.end()};
}

size_t ConfusionMatrix::GetCount(int reference, int predicted) const
{
  const auto found = m_Counts.find({reference, predicted});
  return found == m_Counts.end() ? 0 : found->second;
}

size_t ConfusionMatrix::GetTotal() const
{
  size_t total = 0;
  for (const auto& count : m_Counts)
  {
    total += count.second;
  }
  return total;
}

size_t ConfusionMatrix::SumOf(int label, bool asReference) const
{
  size_t sum = 0;
  for (const auto& count : m_Counts)
  {
    sum += (asReference ? count.first.first : count.first.second) == label ? count.second : 0;
  }
  return sum;
}

double ConfusionMatrix::GetPrecision(int label) const
{
  return Share(this->GetCount(label, label), this->SumOf(label, false));
}

double ConfusionMatrix::GetRecall(int label) const
{
  return Share(this->GetCount(label, label), this->SumOf(label, true));
}

double ConfusionMatrix::GetFScore(int label) const
{
  return Share(2 * this->GetCount(label, label), this->SumOf(label, true) + this->SumOf(label, false));
}

double ConfusionMatrix::GetOverallAccuracy() const
{
  size_t right = 0;
  for (const int label : this->GetClasses())
  {
    right += this->GetCount(label, label);
  }
  return Share(right, this->GetTotal());
}

double ConfusionMatrix::GetKappa() const
{
  const double total = static_cast<double>(this->GetTotal()), observed = this->GetOverallAccuracy();
  double chance = 0;
  for (const int label : this->GetClasses())
  {
    chance += static_cast<double>(this->SumOf(label, true)) / total * static_cast<double>(this->SumOf(label, false)) / total;
  }
  return chance < 1 ? (observed - chance) / (1 - chance) : total > 0 ? 1 : 0; // one class, always right
}

std::string ConfusionMatrix::Describe() const
{
  const auto classes = this->GetClasses();
  std::ostringstream text;
  text << "confusion matrix (rows: reference, columns: predicted)\n" << std::setw(12) << "";
  for (const int label : classes)
  {
    text << std::setw(10) << label;
  }
  text << '\n';
  for (const int reference : classes)
  {
    text << std::setw(12) << reference;
    for (const int predicted : classes)
    {
      text << std::setw(10) << this->GetCount(reference, predicted);
    }
    text << '\n';
  }
  for (const int label : classes)
  {
    text << "class " << label << ": precision " << this->GetPrecision(label) << ", recall " << this->GetRecall(label) << ", F-score "
         << this->GetFScore(label) << '\n';
  }
  text << "overall accuracy " << this->GetOverallAccuracy() << ", kappa " << this->GetKappa();
  return text.str();
}

} // namespace otb
