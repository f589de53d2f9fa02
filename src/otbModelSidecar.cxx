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

namespace otb
{
namespace
{
using Tree = boost::property_tree::ptree;

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
    throw ModelSidecarError(file + ": cannot be read; a model folder holds saved_model.pb and model.json (otbsr import-model writes one)");
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
  ModelSidecar sidecar;
  sidecar.name = read.Text("name");
  sidecar.method = read.Text("method");
  read.OneOf("method", sidecar.method, {"fidelity", "perceptual", "baseline"});
  sidecar.factor = read.Integer("factor", 1, 16);
  sidecar.margin = read.Integer("margin", 0, 4096);
  sidecar.signature = read.Text("input.signature", "serving_default");
  sidecar.inputName = read.Text("input.name");
  sidecar.inputBands = read.Names("input.bands");
  if (tree.get_child_optional("input.spacing"))
  {
    sidecar.inputSpacing = read.Number("input.spacing");
    if (sidecar.inputSpacing <= 0)
    {
      read.Fail("input.spacing", read.Text("input.spacing"), "it must be positive");
    }
  }
  sidecar.outputName = read.Text("output.name");
  sidecar.outputBands = read.Names("output.bands");
  sidecar.outputType = read.Text("output.dtype", "int16");
  read.OneOf("output.dtype", sidecar.outputType, {"uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"});
  const auto noData = tree.get_child_optional("output.nodata");
  if (noData && noData->data() != "null")
  {
    sidecar.hasNoData = true;
    sidecar.noData = read.Number("output.nodata");
  }
  return sidecar;
}

} // namespace otb
