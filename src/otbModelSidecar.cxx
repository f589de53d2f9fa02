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
#include <set>
#include <sstream>

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

/** A sidecar has a few hundred bytes, and lists of numbers in "training" and "metrics" perhaps. */
constexpr size_t MaximumBytes = size_t{1} << 20;
/** The parser is recursive. */
constexpr unsigned int MaximumDepth = 32;

/** Bytes of the UTF-8 character at `position`; 0 if it is not one. */
size_t CharacterLength(const std::string& text, size_t position)
{
  const auto byte = [&](size_t k) -> unsigned int
  {
    return position + k < text.size() ? static_cast<unsigned char>(text[position + k]) : 0u;
  };
  const unsigned int first = byte(0);
  if (first < 0x80)
  {
    return 1;
  }
  const size_t length = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : first >= 0xF0 && first < 0xF5 ? 4 : 0;
  for (size_t k = 1; k < length; ++k)
  {
    if ((byte(k) & 0xC0) != 0x80)
    {
      return 0;
    }
  }
  // longer than needed, a surrogate, beyond the last character
  const bool isWrong = (first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F) || (first == 0xF0 && byte(1) < 0x90) ||
                       (first == 0xF4 && byte(1) > 0x8F);
  return isWrong ? 0 : length;
}

/** Fit for a message of one line: printable and not long. */
std::string Shown(const std::string& text)
{
  constexpr size_t limit = 80;
  std::string shown;
  for (size_t position = 0, length = 0; position < text.size(); position += std::max<size_t>(length, 1))
  {
    length = CharacterLength(text, position);
    if (position + length > limit)
    {
      return shown + "...";
    }
    const auto first = static_cast<unsigned char>(text[position]);
    shown += length == 0 || first < 0x20 || first == 0x7F ? "?" : text.substr(position, length);
  }
  return shown;
}

/** What the recursive parser must not see: too much, too deep, no UTF-8. Empty if there is nothing wrong. */
std::string WhatIsWrong(const std::string& content)
{
  if (content.size() > MaximumBytes)
  {
    return "it has more than " + std::to_string(MaximumBytes) + " bytes";
  }
  unsigned int depth = 0;
  bool inText = false;
  for (size_t position = 0, length = 0; position < content.size(); position += length)
  {
    length = CharacterLength(content, position);
    if (length == 0)
    {
      return "byte " + std::to_string(position) + " is not UTF-8";
    }
    const char c = content[position];
    if (inText)
    {
      length += c == '\\' && position + 1 < content.size() && static_cast<unsigned char>(content[position + 1]) < 0x80 ? 1 : 0;
      inText = c != '"';
    }
    else if (c == '"')
    {
      inText = true;
    }
    else if (c == '{' || c == '[')
    {
      if (++depth > MaximumDepth)
      {
        return "it is nested more than " + std::to_string(MaximumDepth) + " deep";
      }
    }
    else if ((c == '}' || c == ']') && depth > 0)
    {
      --depth;
    }
  }
  return "";
}

/** The first key that a group has twice, whose value would depend on the reader; empty if there is none. */
std::string FindRepeatedKey(const Tree& tree, const std::string& path = "")
{
  std::set<std::string> keys;
  for (const auto& child : tree)
  {
    const std::string name = path.empty() ? child.first : path + "." + child.first;
    if (!child.first.empty() && !keys.insert(child.first).second)
    {
      return name;
    }
    if (std::string repeated = FindRepeatedKey(child.second, name); !repeated.empty())
    {
      return repeated;
    }
  }
  return "";
}

bool HasControlCharacter(const std::string& text)
{
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; });
}

class Reader
{
public:
  Reader(const Tree& tree, std::string file) : m_Tree(tree), m_File(std::move(file))
  {
  }

  [[noreturn]] void Fail(const std::string& key, const std::string& value, const std::string& expectation) const
  {
    throw ModelSidecarError(m_File + ": " + key + " is " + Shown(value) + ", but " + expectation);
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
    if (HasControlCharacter(node->data()))
    {
      this->Fail(key, "\"" + node->data() + "\"", "it must not have control characters");
    }
    return node->data();
  }

  double Number(const std::string& key) const
  {
    const std::string text = this->Text(key);
    double value = 0;
    std::istringstream stream(text);
    stream.imbue(std::locale::classic()); // whatever the program's decimal sign
    // a number too large for a double fails, one too small is 0
    const bool isNumber = text.find_first_not_of("+-.0123456789eE") == std::string::npos && stream >> value && stream.peek() == EOF;
    if (!isNumber || !std::isfinite(value))
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
      if (!element.first.empty() || element.second.data().empty() || HasControlCharacter(element.second.data()))
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
        throw ModelSidecarError(m_File + ": " + (group.empty() ? "" : group + ".") + Shown(entry.first) +
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
  std::string content(MaximumBytes + 1, '\0');
  stream.read(&content[0], static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<size_t>(stream.gcount()));
  return Parse(content, file);
}

ModelSidecar ModelSidecar::Parse(const std::string& content, const std::string& file)
{
  if (const std::string wrong = WhatIsWrong(content); !wrong.empty())
  {
    throw ModelSidecarError(file + ": is no sidecar: " + wrong + "; export the model again");
  }
  Tree tree;
  try
  {
    std::istringstream stream(content);
    boost::property_tree::read_json(stream, tree);
  }
  catch (const boost::property_tree::json_parser_error& error)
  {
    throw ModelSidecarError(file + ": is not valid JSON (line " + std::to_string(error.line()) + ": " + error.message() + ")");
  }
  if (const std::string repeated = FindRepeatedKey(tree); !repeated.empty())
  {
    throw ModelSidecarError(file + ": has the key " + Shown(repeated) + " twice; delete one");
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
