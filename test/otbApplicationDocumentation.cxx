/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
// Prints the documentation of OTB applications as one JSON object, for test/python/test_documentation.py.
// usage: otbApplicationDocumentation NAME...    The applications are looked for in OTB_APPLICATION_PATH.

#include "otbWrapperApplicationRegistry.h"

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

namespace
{

std::string Quoted(const std::string& text)
{
  std::string result = "\"";
  for (const char c : text)
  {
    char code[8];
    if (static_cast<unsigned char>(c) < 0x20)
    {
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned int>(c));
      result += code;
    }
    else
    {
      result += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
    }
  }
  return result + '"';
}

std::string Joined(const std::vector<std::string>& items, const char open, const char close)
{
  std::string result{open};
  for (const std::string& item : items)
  {
    result += (result.size() > 1 ? "," : "") + item;
  }
  return result + close;
}

std::string Member(const std::string& key, const std::string& json)
{
  return Quoted(key) + ":" + json;
}

std::string Documentation(otb::Wrapper::Application* application)
{
  std::vector<std::string> tags, example, parameters;
  for (const std::string& tag : application->GetDocTags())
  {
    tags.push_back(Quoted(tag));
  }
  otb::Wrapper::DocExampleStructure::Pointer documented = application->GetDocExample();
  for (unsigned int i = 0; i < documented->GetNumberOfParameters(); ++i)
  {
    example.push_back(Member(documented->GetParameterKey(i), Quoted(documented->GetParameterValue(i))));
  }
  for (const std::string& key : application->GetParametersKeys())
  {
    const otb::Wrapper::ParameterType type = application->GetParameterType(key);
    const bool number = type == otb::Wrapper::ParameterType_Int || type == otb::Wrapper::ParameterType_Float ||
                        type == otb::Wrapper::ParameterType_Double || type == otb::Wrapper::ParameterType_RAM;
    std::vector<std::string> choices;
    if (type == otb::Wrapper::ParameterType_Choice)
    {
      for (const std::string& name : application->GetChoiceNames(key))
      {
        choices.push_back(Quoted(name));
      }
    }
    parameters.push_back(Member(
        key, Joined({Member("name", Quoted(application->GetParameterName(key))),
                     Member("description", Quoted(application->GetParameterDescription(key))), Member("number", number ? "true" : "false"),
                     Member("mandatory", application->IsMandatory(key) ? "true" : "false"),
                     Member("hasValue", type == otb::Wrapper::ParameterType_Group || application->HasValue(key) ? "true" : "false"),
                     Member("choices", Joined(choices, '[', ']'))},
                    '{', '}')));
  }
  return Joined({Member("name", Quoted(application->GetName())), Member("description", Quoted(application->GetDescription())),
                 Member("long", Quoted(application->GetDocLongDescription())), Member("authors", Quoted(application->GetDocAuthors())),
                 Member("limitations", Quoted(application->GetDocLimitations())), Member("see", Quoted(application->GetDocSeeAlso())),
                 Member("tags", Joined(tags, '[', ']')), Member("exampleOf", Quoted(documented->GetApplicationName())),
                 Member("example", Joined(example, '{', '}')), Member("parameters", Joined(parameters, '{', '}'))},
                '{', '}');
}

} // namespace

int main(int argc, char* argv[])
{
  std::vector<std::string> all;
  for (int i = 1; i < argc; ++i)
  {
    otb::Wrapper::Application::Pointer application = otb::Wrapper::ApplicationRegistry::CreateApplication(argv[i]);
    if (application.IsNull())
    {
      std::cerr << argv[i] << ": no such application in OTB_APPLICATION_PATH" << std::endl;
      return EXIT_FAILURE;
    }
    all.push_back(Member(argv[i], Documentation(application)));
  }
  std::cout << Joined(all, '{', '}') << std::endl;
  return EXIT_SUCCESS;
}
