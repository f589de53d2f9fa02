/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbFrozenGraph.h"

#include <algorithm>
#include <array>

namespace otb
{
namespace
{
// Field numbers: graph.proto, node_def.proto, function.proto, op_def.proto, attr_value.proto, tensor.proto in tensorflow/core/framework.

bool IsCall(const std::string& operation)
{
  return operation == "PartitionedCall" || operation == "StatefulPartitionedCall";
}

/** Operations that keep something from one run of a session to the next, or change variables. */
bool KeepsState(const std::string& operation)
{
  static const std::array<const char*, 12> words{{"Table", "Assign", "Iterator", "Dataset", "Queue", "Resource", "Reader", "Barrier",
                                                  "Accumulator", "Variable", "VarHandle", "BoostedTrees"}};
  return std::any_of(words.begin(), words.end(), [&](const char* word) { return operation.find(word) != std::string::npos; });
}

/** The operation or argument that an input comes from. */
std::string SourceOf(const std::string& input)
{
  const size_t begin = !input.empty() && input[0] == '^' ? 1 : 0;
  return input.substr(begin, input.find(':') == std::string::npos ? std::string::npos : input.find(':') - begin);
}

/** Names of functions in an AttrValue. */
void ReadFunctionNames(WireMessage message, std::vector<std::string>& names)
{
  const auto add = [&](WireMessage function)
  {
    for (const auto& field : function)
    {
      if (field.number == 1)
      {
        names.push_back(field.Text());
      }
    }
  };
  for (const auto& field : message)
  {
    if (field.number == 10) // func
    {
      add(field.Message());
    }
    else if (field.number == 1) // list
    {
      for (const auto& inner : field.Message())
      {
        if (inner.number == 9)
        {
          add(inner.Message());
        }
      }
    }
  }
}

std::string MapEntryOf(const std::string& key, const std::string& value)
{
  std::string bytes;
  AppendField(bytes, 1, key);
  AppendField(bytes, 2, value);
  return bytes;
}

/** A NodeDef "Const". */
std::string ConstantOf(const std::string& name, const FrozenGraph::Value& value)
{
  std::string shape;
  for (const int64_t size : value.shape)
  {
    std::string dimension;
    AppendField(dimension, 1, static_cast<uint64_t>(size));
    AppendField(shape, 2, dimension);
  }
  std::string tensor;
  AppendField(tensor, 1, static_cast<uint64_t>(value.type));
  AppendField(tensor, 2, shape);
  AppendField(tensor, 4, std::string(static_cast<const char*>(value.data), value.bytes));
  std::string type, content;
  AppendField(type, 6, static_cast<uint64_t>(value.type));
  AppendField(content, 8, tensor);
  std::string bytes;
  AppendField(bytes, 1, name);
  AppendField(bytes, 2, std::string("Const"));
  AppendField(bytes, 5, MapEntryOf("dtype", type));
  AppendField(bytes, 5, MapEntryOf("value", content));
  return bytes;
}
} // namespace

FrozenGraph::Node FrozenGraph::ReadNode(const WireMessage::Field& field)
{
  Node node;
  node.field = field;
  for (const auto& part : field.Message())
  {
    if (part.number == 1)
    {
      node.name = part.Text();
    }
    else if (part.number == 2)
    {
      node.operation = part.Text();
    }
    else if (part.number == 3)
    {
      node.inputs.push_back(part.Text());
    }
    else if (part.number == 5)
    {
      const auto attribute = part.Message().MapEntry();
      ReadFunctionNames(attribute.second, node.functions);
      if (attribute.first == "dtype")
      {
        for (const auto& inner : attribute.second)
        {
          node.type = inner.number == 6 ? static_cast<tf::DataType>(inner.value) : node.type;
        }
      }
    }
  }
  return node;
}

FrozenGraph::Function FrozenGraph::ReadFunction(const WireMessage::Field& field, std::string& name)
{
  Function function;
  function.field = field;
  for (const auto& part : field.Message())
  {
    if (part.number == 3)
    {
      auto node = ReadNode(part);
      const auto key = node.name;
      function.nodes.emplace(key, std::move(node));
    }
    else if (part.number == 1) // signature
    {
      for (const auto& inner : part.Message())
      {
        if (inner.number == 1)
        {
          name = inner.Text();
        }
        else if (inner.number == 2)
        {
          std::string called;
          for (const auto& piece : inner.Message())
          {
            if (piece.number == 1)
            {
              called = piece.Text();
            }
            function.takesLists = function.takesLists || piece.number == 5 || piece.number == 6;
          }
          function.arguments.push_back(called);
        }
      }
    }
  }
  return function;
}

FrozenGraph::FrozenGraph(const uint8_t* data, size_t length, const std::vector<std::string>& kept) : m_Graph(data, data + length)
{
  for (const auto& field : m_Graph)
  {
    if (field.number == 1)
    {
      auto node = ReadNode(field);
      const auto name = node.name;
      m_Nodes.emplace(name, std::move(node));
    }
    else if (field.number == 2)
    {
      for (const auto& part : field.Message())
      {
        if (part.number == 1)
        {
          std::string name;
          auto function = ReadFunction(part, name);
          m_Functions.emplace(name, std::move(function));
        }
      }
    }
  }

  std::unordered_set<std::string> seen(kept.begin(), kept.end());
  std::deque<std::string> needed(seen.begin(), seen.end()); // each once: an operation may have several outputs
  for (; !needed.empty() && m_Obstacle.empty(); needed.pop_front())
  {
    const auto found = m_Nodes.find(needed.front());
    if (found == m_Nodes.end())
    {
      m_Obstacle = "the graph has no operation " + needed.front();
      break;
    }
    Node& node = found->second;
    m_Order.push_back(node.name);
    this->Examine(node, m_Nodes, nullptr);
    for (const auto& input : node.variable.empty() ? node.inputs : std::vector<std::string>())
    {
      if (const auto source = SourceOf(input); seen.insert(source).second)
      {
        needed.push_back(source);
      }
    }
  }
  for (; !m_Called.empty() && m_Obstacle.empty(); m_Called.pop_front())
  {
    auto& function = m_Functions.at(m_Called.front());
    for (auto& node : function.nodes)
    {
      this->Examine(node.second, function.nodes, &function);
    }
  }
}

// The variable whose resource an input is; empty if it is none.
std::string FrozenGraph::VariableOf(std::string input, const Nodes& nodes, const Function* function) const
{
  for (size_t steps = 0; steps <= nodes.size() && !input.empty() && input[0] != '^'; ++steps)
  {
    const auto source = SourceOf(input);
    const auto found = nodes.find(source);
    if (found == nodes.end())
    {
      const auto* const arguments = function == nullptr ? nullptr : &function->arguments;
      const auto argument =
          arguments == nullptr ? std::vector<std::string>::const_iterator() : std::find(arguments->begin(), arguments->end(), source);
      return arguments == nullptr || argument == arguments->end() ? std::string()
                                                                  : function->variables[static_cast<size_t>(argument - arguments->begin())];
    }
    const Node& node = found->second;
    if (node.operation == "VarHandleOp")
    {
      return node.name;
    }
    if (node.operation != "Identity" || node.inputs.empty())
    {
      return {};
    }
    input = node.inputs.front();
  }
  return {};
}

// What a node is to the variables: it becomes a constant, hands them on, has nothing to do with them, or is an obstacle.
void FrozenGraph::Examine(Node& node, const Nodes& nodes, Function* function)
{
  const auto& operation = node.operation;
  const bool isOutside = function == nullptr;
  if (operation == "VarHandleOp" && isOutside)
  {
    return;
  }
  if ((operation == "VariableV2" || operation == "Variable") && isOutside)
  {
    node.variable = node.name;
    m_Variables[node.name] = {node.type, false};
    return;
  }
  if (operation == "ReadVariableOp")
  {
    node.variable = node.inputs.empty() ? std::string() : this->VariableOf(node.inputs.front(), nodes, function);
    if (node.variable.empty())
    {
      m_Obstacle = "operation " + node.name + " reads a variable that is found at run time only";
    }
    else
    {
      m_Variables[node.variable] = {m_Nodes.at(node.variable).type, true};
    }
    if (function != nullptr)
    {
      function->changes = true;
    }
    return;
  }
  if (KeepsState(operation))
  {
    m_Obstacle = "operation " + node.name + " (" + operation + ") keeps what it holds from run to run";
    return;
  }
  std::vector<std::string> variables;
  for (const auto& input : node.inputs)
  {
    if (input.empty() || input[0] != '^')
    {
      variables.push_back(this->VariableOf(input, nodes, function));
    }
  }
  const bool takesVariable = std::any_of(variables.begin(), variables.end(), [](const auto& name) { return !name.empty(); });
  if (takesVariable && !IsCall(operation) && operation != "Identity")
  {
    m_Obstacle = "operation " + node.name + " (" + operation + ") does more with a variable than read it";
    return;
  }
  for (const auto& name : node.functions)
  {
    this->Bind(name, IsCall(operation) ? variables : std::vector<std::string>());
  }
}

void FrozenGraph::Bind(const std::string& name, std::vector<std::string> variables)
{
  const auto found = m_Functions.find(name);
  if (found == m_Functions.end())
  {
    return; // TensorFlow's own, or none: its message will be better
  }
  Function& function = found->second;
  if (variables.empty() || function.takesLists)
  {
    if (std::any_of(variables.begin(), variables.end(), [](const auto& variable) { return !variable.empty(); }))
    {
      m_Obstacle = "function " + name + " takes variables in a list";
      return;
    }
    variables.assign(function.arguments.size(), std::string());
  }
  if (variables.size() != function.arguments.size() || (function.isBound && function.variables != variables))
  {
    m_Obstacle = "function " + name + " is called with different variables";
    return;
  }
  if (!function.isBound)
  {
    function.isBound = true;
    function.variables = std::move(variables);
    m_Called.push_back(name);
  }
}

std::string FrozenGraph::WriteFunction(const Function& function, const std::function<Value(const std::string&)>& valueOf) const
{
  // a read's output is called "value", a constant's "output"
  const auto renamed = [&](const std::string& reference)
  {
    const auto source = SourceOf(reference);
    const auto node = function.nodes.find(source);
    return reference[0] != '^' && node != function.nodes.end() && !node->second.variable.empty() ? source + ":output:0" : reference;
  };
  std::string bytes;
  for (const auto& part : function.field.Message())
  {
    if (part.number == 4) // ret
    {
      std::pair<std::string, std::string> result;
      for (const auto& inner : part.Message())
      {
        (inner.number == 1 ? result.first : result.second) = inner.Text();
      }
      AppendField(bytes, 4, MapEntryOf(result.first, result.second.empty() ? result.second : renamed(result.second)));
      continue;
    }
    if (part.number != 3)
    {
      bytes += part.Copy();
      continue;
    }
    const auto name = ReadNode(part).name;
    const Node& node = function.nodes.at(name);
    if (!node.variable.empty())
    {
      AppendField(bytes, 3, ConstantOf(name, valueOf(node.variable)));
      continue;
    }
    std::string written;
    for (const auto& piece : part.Message())
    {
      if (piece.number == 3 && piece.begin != piece.end)
      {
        AppendField(written, 3, renamed(piece.Text()));
      }
      else
      {
        written += piece.Copy();
      }
    }
    AppendField(bytes, 3, written);
  }
  return bytes;
}

std::string FrozenGraph::Write(const std::function<Value(const std::string&)>& valueOf) const
{
  std::string bytes;
  for (const auto& name : m_Order)
  {
    const Node& node = m_Nodes.at(name);
    if (!node.variable.empty())
    {
      AppendField(bytes, 1, ConstantOf(name, valueOf(node.variable)));
      continue;
    }
    std::string written;
    for (const auto& part : node.field.Message())
    {
      if (part.number != 5 || part.Message().MapEntry().first != "_class") // "beside operation X", which may be gone
      {
        written += part.Copy();
      }
    }
    AppendField(bytes, 1, written);
  }
  for (const auto& field : m_Graph)
  {
    if (field.number == 2)
    {
      std::string library;
      for (const auto& part : field.Message())
      {
        library += part.number != 1 ? part.Copy() : std::string(); // gradients
      }
      for (const auto& function : m_Functions)
      {
        if (function.second.changes)
        {
          AppendField(library, 1, this->WriteFunction(function.second, valueOf));
        }
        else
        {
          library += function.second.field.Copy();
        }
      }
      AppendField(bytes, 2, library);
    }
    else if (field.number != 1 && field.number != 5) // no nodes, nor where they were written in Python
    {
      bytes += field.Copy();
    }
  }
  return bytes;
}

} // namespace otb
