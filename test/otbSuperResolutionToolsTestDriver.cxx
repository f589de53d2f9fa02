/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbModelSidecar.h"
#include "otbSamplingGrid.h"
#include "otbServedImage.h"
#include "otbTensorflowLibrary.h"
#include "otbTensorflowModel.h"
#include "otbTensorflowModelFilter.h"

#include "itkImage.h"
#include "otbVectorImage.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <string>

namespace
{
int failures = 0;

void Check(bool condition, const char* text, int line)
{
  if (!condition)
  {
    std::cerr << "line " << line << ": " << text << " does not hold\n";
    ++failures;
  }
}
#define CHECK(condition) Check((condition), #condition, __LINE__)

template <class TError, class TCall>
std::string MessageOf(TCall call)
{
  try
  {
    call();
  }
  catch (const TError& error)
  {
    return error.what();
  }
  return "";
}

bool Has(const std::string& text, const std::string& part)
{
  return text.find(part) != std::string::npos;
}

otb::SamplingGrid::RegionType Region(long column, long row, unsigned long width, unsigned long height)
{
  otb::SamplingGrid::RegionType region;
  region.SetIndex(0, column);
  region.SetIndex(1, row);
  region.SetSize(0, width);
  region.SetSize(1, height);
  return region;
}

otb::SamplingGrid::PointType Point(double x, double y)
{
  otb::SamplingGrid::PointType point;
  point[0] = x;
  point[1] = y;
  return point;
}

otb::SamplingGrid Grid(double left, double top, double spacing, const otb::SamplingGrid::RegionType& region)
{
  otb::SamplingGrid::SpacingType signedSpacing;
  signedSpacing[0] = spacing;
  signedSpacing[1] = -spacing;
  return otb::SamplingGrid(Point(left, top), signedSpacing, region);
}

void GridTest()
{
  const auto coarse = Grid(300000, 4900020, 10, Region(0, 0, 20, 12));
  CHECK(coarse.GetOrigin() == Point(300005, 4900015));
  const auto fine = coarse.Refined(4);
  CHECK(fine.GetCorner() == coarse.GetCorner());
  CHECK(fine.GetOrigin() == Point(300001.25, 4900018.75));
  CHECK(fine.GetRegion() == Region(0, 0, 80, 48));
  CHECK(coarse.Scaled(0.25f).IsSame(fine));
  CHECK(fine.Scaled(4).IsSame(coarse));
  CHECK(!coarse.IsSame(fine));
  CHECK(Has(MessageOf<otb::SamplingGridError>([&]() { coarse.RequireSame(fine, "x"); }),
            "spacing 10 x -10 size 20 x 12 and corner (300000, 4900020)"));

  // an image whose index does not start at zero
  const auto part = coarse.Cropped(Region(3, 2, 5, 4));
  CHECK(part.GetCorner() == Point(300030, 4900000));
  CHECK(part.GetOrigin() == coarse.GetOrigin());
  CHECK(part.Refined(4).GetRegion() == Region(12, 8, 20, 16));
  CHECK(part.Refined(4).GetOrigin() == fine.GetOrigin());
  auto image = otb::VectorImage<float, 2>::New();
  part.ApplyTo(image);
  CHECK(otb::SamplingGrid::FromImage(image).IsSame(part));
  CHECK(image->GetLargestPossibleRegion() == Region(3, 2, 5, 4));

  itk::ImageBase<2>::DirectionType rotated;
  rotated[0][0] = rotated[1][1] = std::sqrt(0.5);
  rotated[0][1] = -std::sqrt(0.5);
  rotated[1][0] = std::sqrt(0.5);
  image->SetDirection(rotated);
  CHECK(Has(MessageOf<otb::SamplingGridError>([&]() { otb::SamplingGrid::FromImage(image); }), "rotated"));
  const double sheared[6] = {0, 10, 1, 0, 0, -10}, straight[6] = {0, 10, 0, 0, 0, -10};
  CHECK(Has(MessageOf<otb::SamplingGridError>([&]() { otb::SamplingGrid::RequireAxisAligned(sheared, "a.tif"); }), "a.tif"));
  otb::SamplingGrid::RequireAxisAligned(straight, "a.tif");

  // float32 could not tell these: 0.1 m at 4.9e6 m
  CHECK(!Grid(300000, 4900020.1, 10, Region(0, 0, 20, 12)).IsSame(coarse));
  CHECK(Grid(300000.0005, 4900020, 10, Region(0, 0, 20, 12)).IsSame(coarse));
}

void PatchTest()
{
  const auto coarse = Grid(300000, 4900020, 10, Region(0, 0, 20, 12));
  const auto fine = coarse.Refined(4);
  for (double offset = 0; offset < 10; offset += 0.625)
  {
    const auto pair = otb::EqualFootprintPatches(coarse, fine, Point(300100 + offset, 4899960 - offset), 4, 4);
    CHECK(pair.status == otb::PatchPair::Status::Accepted);
    CHECK(pair.coarse == Region(8, 4, 4, 4));
    CHECK(pair.fine == Region(32, 16, 16, 16));
  }
  // a point on an edge belongs to the next pixel whatever the rounding errors
  CHECK(coarse.PatchAround(Point(300100 - 1e-5, 4899960 + 1e-5), 4, 4) == Region(8, 4, 4, 4));
  CHECK(coarse.PatchAround(Point(300100 - 0.1, 4899960 + 0.1), 4, 4) == Region(7, 3, 4, 4));
  CHECK(coarse.PatchAround(Point(300105, 4899955), 3, 3) == Region(9, 5, 3, 3));
  using Status = otb::PatchPair::Status;
  CHECK(otb::EqualFootprintPatches(coarse, fine, Point(300005, 4900015), 4, 4).status == Status::OutsideCoarse);
  CHECK(otb::EqualFootprintPatches(coarse, fine.Cropped(Region(40, 0, 40, 48)), Point(300105, 4899955), 4, 4).status ==
        Status::OutsideFine);
  const auto shifted = Grid(300001.25, 4900020, 2.5, Region(0, 0, 80, 48));
  const auto bad = otb::EqualFootprintPatches(coarse, shifted, Point(300105, 4899955), 4, 4);
  CHECK(bad.status == Status::NotNested && Has(bad.why, "31.5"));
  // 10 m over 6 m: nested only where the edges meet
  const auto six = Grid(300000, 4900020, 6, Region(0, 0, 33, 20));
  CHECK(otb::EqualFootprintPatches(coarse, six, Point(300075, 4899945), 3, 3).status == Status::Accepted);
  CHECK(otb::EqualFootprintPatches(coarse, six, Point(300085, 4899945), 3, 3).status == Status::NotNested);
}

std::string Field(int number, const std::string& bytes)
{
  return std::string(1, static_cast<char>(number << 3 | 2)) + static_cast<char>(bytes.size()) + bytes;
}

std::string Varint(int number, int value)
{
  return std::string(1, static_cast<char>(number << 3)) + static_cast<char>(value);
}

void WireTest()
{
  const std::string unknown = std::string(1, '\x08') + std::string(9, '\xff') + '\x01'; // size -1
  const std::string shape = Field(2, Varint(1, 1)) + Field(2, unknown) + Field(2, Varint(1, 4));
  const std::string info = Field(1, "op:1") + Varint(2, 17) + Field(3, shape);
  const std::string function = Field(1, Field(1, "lr") + Field(2, info)) +
                               Field(2, Field(1, "sr") + Field(2, Field(1, "out") + Varint(2, 1) + Field(3, Varint(3, 1))));
  const std::string graph = Field(1, "ignored") + Field(5, Field(1, "serve") + Field(2, function));
  const auto all = otb::ReadTensorflowSignatures(graph.data(), graph.size());
  CHECK(all.size() == 1 && all.count("serve") == 1);
  const auto& lr = all.at("serve").inputs.at("lr");
  CHECK(lr.tensor == "op:1" && lr.type == otb::tf::UInt16 && (lr.shape == std::vector<int64_t>{1, -1, 4}) && !lr.unknownRank);
  CHECK(all.at("serve").outputs.at("sr").unknownRank);
  for (size_t length = 0; length < graph.size(); ++length) // a cut file is an error or has less in it, and is never read beyond its end
  {
    const std::string cut = graph.substr(0, length);
    CHECK(!MessageOf<otb::TensorflowError>([&]() { otb::ReadTensorflowSignatures(cut.data(), cut.size()); }).empty() || length == 0 ||
          length == 9);
  }
  const auto none = otb::WriteTensorflowConfiguration(0), two = otb::WriteTensorflowConfiguration(2);
  CHECK(none == std::string("\x38\x01\x32\x02\x20\x01", 6));
  CHECK(two == std::string("\x10\x02\x28\x02", 4) + none);
}

void SidecarTest()
{
  char pattern[] = "/tmp/otbsrXXXXXX";
  std::string folder = mkdtemp(pattern);
  const auto read = [&](const std::string& text)
  {
    std::ofstream(folder + "/model.json") << text;
    return MessageOf<otb::ModelSidecarError>([&]() { otb::ModelSidecar::Read(folder); });
  };
  CHECK(Has(MessageOf<otb::ModelSidecarError>([&]() { otb::ModelSidecar::Read(folder); }), "cannot be read"));
  const std::string head = R"({"format": 1, "name": "n", "method": "fidelity", )";
  const std::string tail =
      R"("input": {"name": "lr", "bands": ["B4", "B3"]}, "output": {"name": "sr", "bands": ["B4"], "dtype": "int16", "nodata": -10000}})";
  CHECK(read(head + R"("factor": 4, "margin": 21, )" + tail).empty());
  const auto good = otb::ModelSidecar::Read(folder);
  CHECK(good.factor == 4 && good.margin == 21 && good.inputBands.size() == 2 && good.outputType == "int16" && good.hasNoData &&
        good.noData == -10000);
  CHECK(good.signature == "serving_default");
  CHECK(Has(read(head + R"("factor": 17, "margin": 21, )" + tail), "factor is 17"));
  CHECK(Has(read(head + R"("factor": 2.5, "margin": 21, )" + tail), "factor is 2.5"));
  CHECK(Has(read(head + R"("factor": 4, "margin": -1, )" + tail), "margin is -1"));
  CHECK(Has(read(head + R"("margin": 1, )" + tail), "factor is missing"));
  CHECK(Has(read(R"({"format": 2, "name": "n"})"), "format is 2"));
  CHECK(Has(read(R"({"format": 1, "name": "n", "method": "magic"})"), "method is \"magic\""));
  CHECK(Has(read(head + R"("factor": 4, "margin": 0, "input": {"name": "lr", "bands": []}})"), "input.bands"));
  CHECK(Has(read("{"), "JSON"));
  unlink((folder + "/model.json").c_str());
  rmdir(folder.c_str());
}

void LibraryTest()
{
  setenv("OTB_TF_LIBRARY", "/nowhere/libtensorflow_cc.so.2", 1);
  const auto missing = MessageOf<otb::TensorflowError>([]() { otb::TensorflowLibrary::Get(); });
  CHECK(Has(missing, "TensorFlow library not found: looked at OTB_TF_LIBRARY=/nowhere") &&
        Has(missing, "pip install tensorflow, or set OTB_TF_LIBRARY"));
  setenv("OTB_TF_LIBRARY", "libm.so.6", 1);
  CHECK(Has(MessageOf<otb::TensorflowError>([]() { otb::TensorflowLibrary::Get(); }), "not a TensorFlow 2 library"));
}

void ConversionTest()
{
  using otb::tensorflow_model_filter::Convert;
  using otb::tensorflow_model_filter::FloorTo;
  using otb::tensorflow_model_filter::Mirror;
  using otb::tensorflow_model_filter::NextTo;
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  CHECK(Convert<int16_t>(0.5f, int16_t(7)) == 1 && Convert<int16_t>(-0.5f, int16_t(7)) == -1 && Convert<int16_t>(0.49f, int16_t(7)) == 0);
  CHECK(Convert<int16_t>(4e4f, int16_t(7)) == 32767 && Convert<int16_t>(-infinity, int16_t(7)) == -32768 &&
        Convert<int16_t>(nan, int16_t(7)) == 7);
  CHECK(Convert<uint8_t>(-3.f, uint8_t(7)) == 0 && Convert<uint8_t>(255.5f, uint8_t(7)) == 255);
  CHECK(Convert<uint16_t>(65534.5f, uint16_t(7)) == 65535);
  CHECK(Convert<int32_t>(1e10f, 7) == std::numeric_limits<int32_t>::max() && Convert<uint32_t>(4294967295.0, 7u) == 4294967295u);
  CHECK(std::isnan(Convert<float>(nan, 7.f)) && Convert<float>(12.9f, 0.f) == 12.9f);
  CHECK(NextTo<int16_t>(-10000) == -9999 && NextTo<uint16_t>(65535) == 65534 && NextTo<float>(-10000.f) > -10000.f);
  for (int size = 1; size < 5; ++size) // NumPy's symmetric: 0 1 2 | 2 1 0 | 0 1 2
  {
    for (int index = -20; index < 20; ++index)
    {
      const auto mirrored = Mirror(index, size);
      CHECK(mirrored >= 0 && mirrored < size && mirrored == Mirror(-1 - index, size) && mirrored == Mirror(index + 2 * size, size));
      CHECK(index < 0 || index >= size || mirrored == index);
    }
  }
  CHECK(FloorTo(-1, 0, 4) == -4 && FloorTo(7, 0, 4) == 4 && FloorTo(5, 2, 4) == 2 && FloorTo(1, 2, 4) == -2);
}

void WritingTest()
{
  CHECK(otb::WithTiledWriting("a.png", 4, false, true, -1) == "a.png");
  CHECK(otb::WithTiledWriting("a.tif?&nodata=3", 4, false, true, -1) == "a.tif?&nodata=3");
  const auto name = otb::WithTiledWriting("a.TIF", 4, false, true, -10000);
  CHECK(Has(name, "sizevalue=4") && Has(name, "TILED=YES") && Has(name, "nodata=-10000") && otb::FileOfExtendedName(name) == "a.TIF");
  // blocks neither much larger than asked for, nor a thin rest: 4792 x 4680 with blocks of 2560
  for (const auto& size : {std::pair<size_t, size_t>{4792, 4680}, {8192, 8192}, {300, 90000}, {1, 1}, {43920, 43920}})
  {
    const auto number = otb::NumberOfWritingBlocks(size.first, size.second, 2560, 168);
    const auto pixels = size.first * size.second;
    const double side = std::sqrt(static_cast<double>(pixels / number));
    CHECK(number >= 1 && side <= 1.12 * 2560);
  }
}

} // namespace

// Defined in the second translation unit: linking fails if a header defines something twice.
std::string SecondUnit();

int main(int argc, char* argv[])
{
  const std::map<std::string, void (*)()> tests{{"grid", GridTest},       {"patch", PatchTest},     {"wire", WireTest},
                                                {"sidecar", SidecarTest}, {"library", LibraryTest}, {"conversion", ConversionTest},
                                                {"writing", WritingTest}};
  const auto test = tests.find(argc > 1 ? argv[1] : "");
  if (test == tests.end() || SecondUnit().empty())
  {
    std::cerr << "no such test\n";
    return 2;
  }
  test->second();
  return failures == 0 ? 0 : 1;
}
