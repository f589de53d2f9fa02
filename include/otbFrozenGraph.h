/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbFrozenGraph_h
#define otbFrozenGraph_h

#include "otbTensorflowLibrary.h"
#include "otbWireMessage.h"

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace otb
{

/** \class FrozenGraph
 * \brief A graph of TensorFlow whose variables become constants ("frozen"), in the graph itself and in the functions that it calls.
 *
 * TensorFlow lays out the weights of a convolution once if they are constants; those of a variable could change, and stay as they are,
 * for which it has slower kernels only.
 *
 * Variables whose values other operations than reading may see (tables of embeddings, loops, updates), and functions that are called with
 * different variables, are an obstacle: such a graph stays as it is.
 *
 * \ingroup OTBSuperResolutionTools
 */
class FrozenGraph
{
public:
  /** An operation that holds a variable. */
  struct Variable
  {
    tf::DataType type = tf::Float;
    bool isResource = true; ///< TensorFlow 2's; else its output is the value
  };

  struct Value
  {
    tf::DataType type = tf::Float;
    std::vector<int64_t> shape;
    const void* data = nullptr;
    size_t bytes = 0;
  };

  /** \param data a serialized GraphDef, which must stay as long as this
   * \param kept operations that are fed or asked for: what they do not need is left out
   * \throws TensorflowError if it is malformed */
  FrozenGraph(const uint8_t* data, size_t length, const std::vector<std::string>& kept);

  /** Why the graph cannot be frozen; empty if it can. */
  const std::string& GetObstacle() const
  {
    return m_Obstacle;
  }

  /** The variables that are needed, by the names of their operations. */
  const std::map<std::string, Variable>& GetVariables() const
  {
    return m_Variables;
  }

  /** The frozen GraphDef. */
  std::string Write(const std::function<Value(const std::string& variable)>& valueOf) const;

private:
  struct Node
  {
    std::string name, operation;
    std::vector<std::string> inputs;
    tf::DataType type = tf::Float;
    std::vector<std::string> functions; ///< that its attributes name
    std::string variable;               ///< of which it becomes the value; empty: it stays
    WireMessage::Field field;
  };
  using Nodes = std::unordered_map<std::string, Node>;

  struct Function
  {
    std::vector<std::string> arguments;
    bool takesLists = false;
    Nodes nodes;
    WireMessage::Field field;
    bool isBound = false;
    std::vector<std::string> variables; ///< of the arguments; empty: something else
    bool changes = false;
  };

  static Node ReadNode(const WireMessage::Field& field);
  static Function ReadFunction(const WireMessage::Field& field, std::string& name);
  std::string VariableOf(std::string input, const Nodes& nodes, const Function* function) const;
  void Examine(Node& node, const Nodes& nodes, Function* function);
  void Bind(const std::string& name, std::vector<std::string> variables);
  std::string WriteFunction(const Function& function, const std::function<Value(const std::string&)>& valueOf) const;

  WireMessage m_Graph;
  Nodes m_Nodes;
  std::vector<std::string> m_Order; ///< of the nodes that are needed
  std::unordered_map<std::string, Function> m_Functions;
  std::deque<std::string> m_Called; ///< functions that are to be examined
  std::map<std::string, Variable> m_Variables;
  std::string m_Obstacle;
};

} // namespace otb

#endif
