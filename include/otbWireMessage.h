/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef otbWireMessage_h
#define otbWireMessage_h

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace otb
{

/** \class WireMessage
 * \brief A message in protobuf's wire format, read field by field: `for (const auto& field : message)`. It points into bytes that must
 * stay. \ingroup OTBSuperResolutionTools
 */
class WireMessage
{
public:
  WireMessage() = default;
  WireMessage(const uint8_t* begin, const uint8_t* end) : m_Position(begin), m_End(end)
  {
  }

  struct Field
  {
    uint32_t number = 0;
    uint64_t value = 0; ///< of a varint
    const uint8_t* begin = nullptr;
    const uint8_t* end = nullptr;   ///< bytes of a string or a nested message
    const uint8_t* whole = nullptr; ///< where the field begins, with its number
    const uint8_t* next = nullptr;  ///< where the next one does

    WireMessage Message() const
    {
      return WireMessage(begin, end);
    }
    std::string Text() const
    {
      return std::string(reinterpret_cast<const char*>(begin), static_cast<size_t>(end - begin));
    }
    /** The field as it is. */
    std::string Copy() const
    {
      return std::string(reinterpret_cast<const char*>(whole), static_cast<size_t>(next - whole));
    }
  };

  /** Over the fields; each step may throw a TensorflowError if the bytes are no protobuf. */
  class Iterator;
  Iterator begin() const;
  Iterator end() const;

  /** Key and value of an entry of a map. */
  std::pair<std::string, WireMessage> MapEntry() const;

private:
  bool Next(Field& field); ///< false at the end
  uint64_t Varint();
  void Take(uint64_t bytes, Field& field);

  const uint8_t* m_Position = nullptr;
  const uint8_t* m_End = nullptr;
};

class WireMessage::Iterator
{
public:
  Iterator() = default;
  explicit Iterator(const WireMessage& message) : m_Rest(message)
  {
    ++*this;
  }
  const Field& operator*() const
  {
    return m_Field;
  }
  Iterator& operator++()
  {
    m_IsEnd = !m_Rest.Next(m_Field);
    return *this;
  }
  /** Whether one is at the end and the other is not: all that a loop asks. */
  bool operator!=(const Iterator& other) const
  {
    return m_IsEnd != other.m_IsEnd;
  }

private:
  WireMessage m_Rest;
  Field m_Field;
  bool m_IsEnd = true;
};

inline WireMessage::Iterator WireMessage::begin() const
{
  return Iterator(*this);
}

inline WireMessage::Iterator WireMessage::end() const
{
  return {};
}

void AppendVarint(std::string& bytes, uint64_t value);
/** A number. */
void AppendField(std::string& bytes, uint32_t number, uint64_t value);
/** A string or a nested message. */
void AppendField(std::string& bytes, uint32_t number, const std::string& value);

} // namespace otb

#endif
