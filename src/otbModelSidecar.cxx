/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbModelSidecar.h"

#include <boost/property_tree/json_parser.hpp>
#include <boost/property_tree/ptree.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>

namespace otb
{
namespace
{
using Tree = boost::property_tree::ptree;

template <class T>
std::pair<double, double> LimitsOf()
{
  return {static_cast<double>(std::numeric_limits<T>::lowest()), static_cast<double>(std::numeric_limits<T>::max())};
}

class Reader
{
public:
  Reader(const Tree& tree, std::string file) : m_Tree(tree), m_File(std::move(file))
  {
  }

  [[noreturn]] void Fail(const std::string& key, const std::string& value, const std::string& expectation) const
  {
    throw ModelSidecarError(m_File + ": " + key + " is " + value + ", but " + expectation);
  }

  std::string Text(const std::string& key, const char* fallback = nullptr) const
  {
    const auto node = m_Tree.get_child_optional(key);
    if (!node)
    {
      if (fallback != nullptr)
      {
        return fallback;
      }
      this->Fail(key, "missing", "it is mandatory");
    }
    if (node->data().empty() || !node->empty())
    {
      this->Fail(key, node->empty() ? "empty" : "a group or a list", "it must be a text that is not empty");
    }
    return node->data();
  }

  double Number(const std::string& key) const
  {
    const std::string text = this->Text(key);
    size_t end = 0;
    double value = 0;
    try
    {
      value = std::stod(text, &end);
    }
    catch (const std::exception&)
    {
      end = 0;
    }
    if (end != text.size() || !std::isfinite(value))
    {
      this->Fail(key, "\"" + text + "\"", "it must be a finite number");
    }
    return value;
  }

  double Positive(const std::string& key) const
  {
    const double value = this->Number(key);
    if (value <= 0)
    {
      this->Fail(key, this->Text(key), "it must be positive");
    }
    return value;
  }

  unsigned int Integer(const std::string& key, int low, int high) const
  {
    const double value = this->Number(key);
    if (value != std::floor(value) || value < low || value > high)
    {
      this->Fail(key, this->Text(key), "it must be an integer from " + std::to_string(low) + " to " + std::to_string(high));
    }
    return static_cast<unsigned int>(value);
  }

  std::vector<std::string> Names(const std::string& key) const
  {
    const auto node = m_Tree.get_child_optional(key);
    if (!node)
    {
      this->Fail(key, "missing", "it is mandatory");
    }
    std::vector<std::string> names;
    for (const auto& element : *node)
    {
      if (!element.first.empty() || element.second.data().empty())
      {
        this->Fail(key, "not a list of names", "it must be one, such as [\"B4\", \"B3\", \"B2\", \"B8\"]");
      }
      if (std::find(names.begin(), names.end(), element.second.data()) != names.end())
      {
        this->Fail(key, "a list with \"" + element.second.data() + "\" twice", "band names must differ");
      }
      names.push_back(element.second.data());
    }
    if (names.empty())
    {
      this->Fail(key, "empty", "it must be a list of band names");
    }
    return names;
  }

  /** A misspelt key would silently change pixels. */
  void OnlyKeys(const std::string& group, const std::vector<std::string>& known) const
  {
    const Tree node = group.empty() ? m_Tree : m_Tree.get_child(group, Tree());
    for (const auto& entry : node)
    {
      if (std::find(known.begin(), known.end(), entry.first) == known.end())
      {
        throw ModelSidecarError(m_File + ": " + (group.empty() ? "" : group + ".") + entry.first +
                                " is no key of model.json; correct its spelling or take it out");
      }
    }
  }

  void OneOf(const std::string& key, const std::string& value, const std::vector<std::string>& allowed) const
  {
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end())
    {
      std::string list;
      for (const auto& word : allowed)
      {
        list += (list.empty() ? "" : ", ") + word;
      }
      this->Fail(key, "\"" + value + "\"", "it must be one of " + list);
    }
  }

private:
  const Tree& m_Tree;
  std::string m_File;
};
} // namespace

ModelSidecar ModelSidecar::Read(const std::string& folder)
{
  const std::string file = folder + "/model.json";
  std::ifstream stream(file);
  if (!stream)
  {
    throw ModelSidecarError(std::ifstream(folder + "/saved_model.pb")
                                ? folder + ": is a SavedModel without model.json; `otbsr import-model " + folder +
                                      " --out MODELFOLDER` makes a model folder of it"
                                : folder + ": cannot be read as a model folder, which holds saved_model.pb and model.json");
  }
  Tree tree;
  try
  {
    boost::property_tree::read_json(stream, tree);
  }
  catch (const boost::property_tree::json_parser_error& error)
  {
    throw ModelSidecarError(file + ": is not valid JSON (line " + std::to_string(error.line()) + ": " + error.message() + ")");
  }
  const Reader read(tree, file);
  if (const std::string format = read.Text("format"); format != "1")
  {
    read.Fail("format", format, "this version of otbsr reads format 1");
  }
  read.OnlyKeys("", {"format", "name", "method", "factor", "margin", "input", "output", "training", "metrics", "licence", "sha256"});
  read.OnlyKeys("input", {"signature", "name", "bands", "spacing", "scale", "offset"});
  read.OnlyKeys("output", {"name", "bands", "scale", "offset", "dtype", "nodata"});
  ModelSidecar sidecar;
  sidecar.name = read.Text("name");
  sidecar.method = read.Text("method");
  read.OneOf("method", sidecar.method, {"fidelity", "perceptual", "baseline"});
  sidecar.factor = read.Integer("factor", 1, 16);
  sidecar.margin = read.Integer("margin", 0, 4096);
  sidecar.signature = read.Text("input.signature", "serving_default");
  sidecar.inputName = read.Text("input.name");
  sidecar.inputBands = read.Names("input.bands");
  sidecar.inputSpacing = read.Positive("input.spacing");
  for (const std::string key : {"input.scale", "output.scale"})
  {
    if (tree.get_child_optional(key))
    {
      read.Positive(key);
    }
  }
  sidecar.outputName = read.Text("output.name");
  sidecar.outputBands = read.Names("output.bands");
  sidecar.outputType = read.Text("output.dtype", "int16");
  static const std::map<std::string, std::pair<double, double>> types = {
      {"uint8", LimitsOf<uint8_t>()},   {"int16", LimitsOf<int16_t>()}, {"uint16", LimitsOf<uint16_t>()}, {"int32", LimitsOf<int32_t>()},
      {"uint32", LimitsOf<uint32_t>()}, {"float32", LimitsOf<float>()}, {"float64", LimitsOf<double>()}};
  std::vector<std::string> names;
  for (const auto& type : types)
  {
    names.push_back(type.first);
  }
  read.OneOf("output.dtype", sidecar.outputType, names);
  const auto noData = tree.get_child_optional("output.nodata");
  if (noData && noData->data() != "null")
  {
    sidecar.hasNoData = true;
    sidecar.noData = read.Number("output.nodata");
    const auto& limits = types.at(sidecar.outputType);
    if (sidecar.noData < limits.first || sidecar.noData > limits.second)
    {
      read.Fail("output.nodata", read.Text("output.nodata"), "it must fit output.dtype " + sidecar.outputType);
    }
  }
  return sidecar;
}

} // namespace otb
