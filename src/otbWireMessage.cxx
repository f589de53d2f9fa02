/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbWireMessage.h"

#include "otbTensorflowLibrary.h"

namespace otb
{

bool WireMessage::Next(Field& field)
{
  if (m_Position == m_End)
  {
    return false;
  }
  field = Field();
  field.whole = m_Position;
  const uint64_t tag = this->Varint();
  field.number = static_cast<uint32_t>(tag >> 3);
  switch (tag & 7)
  {
  case 0:
    field.value = this->Varint();
    break;
  case 1:
    this->Take(8, field);
    break;
  case 2:
    this->Take(this->Varint(), field);
    break;
  case 5:
    this->Take(4, field);
    break;
  default:
    throw TensorflowError("the model's protobuf holds an unknown wire type " + std::to_string(tag & 7) + "; the file is damaged");
  }
  field.next = m_Position;
  return true;
}

std::pair<std::string, WireMessage> WireMessage::MapEntry() const
{
  std::pair<std::string, WireMessage> entry;
  for (const auto& field : *this)
  {
    if (field.number == 1)
    {
      entry.first = field.Text();
    }
    else if (field.number == 2)
    {
      entry.second = field.Message();
    }
  }
  return entry;
}

uint64_t WireMessage::Varint()
{
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && m_Position != m_End; shift += 7)
  {
    const uint8_t byte = *m_Position++;
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if ((byte & 128) == 0)
    {
      return value;
    }
  }
  throw TensorflowError("the model's protobuf ends within a number; the file is damaged");
}

void WireMessage::Take(uint64_t bytes, Field& field)
{
  if (bytes > static_cast<uint64_t>(m_End - m_Position))
  {
    throw TensorflowError("the model's protobuf ends within a field; the file is damaged");
  }
  field.begin = m_Position;
  m_Position += bytes;
  field.end = m_Position;
}

void AppendVarint(std::string& bytes, uint64_t value)
{
  for (; value > 127; value >>= 7)
  {
    bytes += static_cast<char>((value & 127) | 128);
  }
  bytes += static_cast<char>(value);
}

void AppendField(std::string& bytes, uint32_t number, uint64_t value)
{
  AppendVarint(bytes, static_cast<uint64_t>(number) << 3);
  AppendVarint(bytes, value);
}

void AppendField(std::string& bytes, uint32_t number, const std::string& value)
{
  AppendVarint(bytes, static_cast<uint64_t>(number) << 3 | 2);
  AppendVarint(bytes, value.size());
  bytes += value;
}

} // namespace otb
