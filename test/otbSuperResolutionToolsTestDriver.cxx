/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbKeptBlocks.h"
#include "otbLabelSampler.h"
#include "otbModelSidecar.h"
#include "otbPatchGrid.h"
#include "otbPatchImageSource.h"
#include "otbSamplingGrid.h"
#include "otbServedImage.h"
#include "otbServingGrid.h"
#include "otbSmallGdalCache.h"
#include "otbTensorflowLibrary.h"
#include "otbTensorflowModel.h"
#include "otbTensorflowModelFilter.h"
#include "otbTensorflowPlaceholder.h"
#include "otbTensorflowTensor.h"

#include "cpl_conv.h"
#include "gdal.h"
#include "itkImage.h"
#include "otbVectorImage.h"

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace
{
int failures = 0;
std::vector<std::thread::id> setters; ///< who set one of TensorFlow's environment variables

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
  // points that are nowhere
  for (const double nowhere : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -1e300})
  {
    CHECK(!coarse.Contains(coarse.PatchAround(Point(nowhere, 4899955), 3, 3)));
    CHECK(otb::EqualFootprintPatches(coarse, fine, Point(300105, nowhere), 4, 4).status == Status::OutsideCoarse);
  }
  // 10 m over 6 m: nested only where the edges meet
  const auto six = Grid(300000, 4900020, 6, Region(0, 0, 33, 20));
  CHECK(otb::EqualFootprintPatches(coarse, six, Point(300075, 4899945), 3, 3).status == Status::Accepted);
  CHECK(otb::EqualFootprintPatches(coarse, six, Point(300085, 4899945), 3, 3).status == Status::NotNested);
}

std::string Field(int number, const std::string& bytes)
{
  const auto size = bytes.size(); // below 2^14
  const std::string length =
      size < 128 ? std::string(1, static_cast<char>(size)) : std::string{static_cast<char>(size & 127 | 128), static_cast<char>(size >> 7)};
  return std::string(1, static_cast<char>(number << 3 | 2)) + length + bytes;
}

std::string Varint(int number, int value)
{
  return std::string(1, static_cast<char>(number << 3)) + static_cast<char>(value);
}

/** An image in memory that does not start at index 0: band b of pixel (x, y) is 100 y + x + b / 2. */
otb::VectorImage<float, 2>::Pointer MemoryImage(const otb::SamplingGrid::RegionType& region)
{
  auto image = otb::VectorImage<float, 2>::New();
  Grid(300000, 4900020, 10, region).ApplyTo(image);
  image->SetRegions(region);
  image->SetNumberOfComponentsPerPixel(2);
  image->Allocate();
  float* to = image->GetBufferPointer();
  for (std::size_t y = 0; y < region.GetSize(1); ++y)
  {
    for (std::size_t x = 0; x < region.GetSize(0); ++x)
    {
      *to++ = static_cast<float>(100 * y + x);
      *to++ = static_cast<float>(100 * y + x) + 0.5f;
    }
  }
  return image;
}

void ReaderTest()
{
  const auto image = MemoryImage(Region(5, -3, 40, 30));
  otb::PatchImages images;
  images.stack.Add(image, "a");
  images.stack.Add(image, "b");
  const auto reader = std::make_shared<const otb::PatchReader>(images, 3, 2, "s");
  CHECK(reader->GetBands() == 4 && reader->GetType() == GDT_Float32 && !reader->IsFromFiles());
  std::vector<otb::PatchReader::IndexType> corners;
  for (long k = 0; k < 50; ++k)
  {
    corners.push_back({{5 + k * 7 % 38, -3 + k * 11 % 29}});
  }
  auto source = otb::PatchImageSource<otb::VectorImage<unsigned char, 2>>::New();
  source->SetPatches(reader, corners, "");
  source->UpdateOutputInformation();
  CHECK(source->GetOutput()->GetLargestPossibleRegion() == Region(0, 0, 3, 100));
  // Rows that begin and end inside patches, as any consumer may ask for.
  for (const auto& rows : {Region(1, 7, 1, 4), Region(0, 11, 3, 89), Region(0, 0, 3, 100)})
  {
    source->GetOutput()->SetRequestedRegion(rows);
    source->GetOutput()->PropagateRequestedRegion();
    source->GetOutput()->UpdateOutputData();
    // exactly these rows: OTB's writer copies all others, pixel by pixel
    CHECK(source->GetOutput()->GetBufferedRegion() == Region(0, rows.GetIndex(1), 3, static_cast<long>(rows.GetSize(1))));
    for (long y = rows.GetIndex(1); y < rows.GetIndex(1) + static_cast<long>(rows.GetSize(1)); ++y)
    {
      const auto& corner = corners[static_cast<std::size_t>(y / 2)];
      const long value = 100 * (corner[1] + 3 + y % 2) + corner[0] - 5 + rows.GetIndex(0);
      const auto pixel = source->GetOutput()->GetPixel({{rows.GetIndex(0), y}});
      // GDAL rounds halves up and clamps.
      CHECK(pixel[0] == std::min(255l, value) && pixel[1] == std::min(255l, value + 1) && pixel[2] == pixel[0] && pixel[3] == pixel[1]);
    }
  }

  // two readers of files in two threads leave GDAL's cache as it was
  GDALAllRegister();
  GDALClose(GDALCreate(GDALGetDriverByName("GTiff"), "reader.tif", 40, 30, 2, GDT_Byte, nullptr));
  otb::PatchImages files;
  files.stack.Add(image, "a");
  files.files = {"reader.tif"};
  constexpr GIntBig limit = GIntBig{1} << 30;
  GDALSetCacheMax64(limit);
  const auto readOften = [&files]()
  {
    const otb::PatchReader fromFile(files, 3, 2, "s");
    CHECK(fromFile.IsFromFiles());
    const otb::PatchReader::IndexType corner{{5, -3}};
    std::vector<unsigned char> pixels(3 * 2 * 2);
    for (int k = 0; k < 200; ++k)
    {
      fromFile.Read(&corner, 1, GDT_Byte, pixels.data());
    }
  };
  for (int round = 0; round < 20 && GDALGetCacheMax64() == limit; ++round)
  {
    std::thread other(readOften);
    readOften();
    other.join();
  }
  CHECK(GDALGetCacheMax64() == limit);
  std::remove("reader.tif");

  CHECK(!MessageOf<std::runtime_error>([&]() { otb::PatchReader(images, 0, 2, "source 1"); }).empty());
  CHECK(!MessageOf<std::runtime_error>([&]() { otb::PatchReader({}, 1, 1, "source 1"); }).empty());
}

/** A temporary file is wanted, and here cannot be written, only where groups of patches would decode most of the file again and again. */
void StreamTest()
{
  GDALAllRegister();
  char* options[] = {const_cast<char*>("TILED=YES"), const_cast<char*>("SPARSE_OK=TRUE"), nullptr};
  GDALClose(GDALCreate(GDALGetDriverByName("GTiff"), "stream.tif", 16384, 16384, 1, GDT_Byte, options));
  auto image = otb::VectorImage<float, 2>::New(); // without pixels: they come from the file
  const auto region = Region(0, 0, 16384, 16384);
  Grid(300000, 4900020, 10, region).ApplyTo(image);
  image->SetRegions(region);
  image->SetNumberOfComponentsPerPixel(1);
  otb::PatchImages images;
  images.stack.Add(image, "a");
  images.files = {"stream.tif"};
  const auto reader = std::make_shared<const otb::PatchReader>(images, 16, 16, "s");
  CHECK(reader->IsFromFiles());
  constexpr std::size_t count = 30000, group = 1000;
  const auto complaint = [&](long rows, bool isScan)
  {
    std::vector<otb::PatchReader::IndexType> corners;
    for (std::size_t k = 0; k < count; ++k)
    {
      const auto place = static_cast<long>(isScan ? k : k * 48271 % count); // of a patch among all, row by row
      const long inRow = 16368 * rows / static_cast<long>(count);
      corners.push_back({{place * inRow % 16368, place * inRow / 16368}});
    }
    otb::PatchStream stream(reader, corners, GDT_Byte, "no such folder");
    std::vector<unsigned char> pixels(16 * 16 * group);
    return MessageOf<std::runtime_error>([&]() { stream.Read(0, group, pixels.data()); });
  };
  CHECK(complaint(16368, true).empty());
  CHECK(complaint(16, true).empty());    // every group wants the same row of blocks, which the cache holds
  CHECK(complaint(2000, false).empty()); // the cache holds all that are wanted
  CHECK(complaint(16368, false).find("temporary file") != std::string::npos);
  std::remove("stream.tif");

  // with a small cache a small image will do: through the temporary file come the same pixels
  constexpr long side = 1024;
  std::vector<unsigned char> all(side * side);
  for (std::size_t k = 0; k < all.size(); ++k)
  {
    all[k] = static_cast<unsigned char>((k % side * 7 + k / side * 13) % 251);
  }
  char* tiles[] = {const_cast<char*>("TILED=YES"), const_cast<char*>("BLOCKXSIZE=64"), const_cast<char*>("BLOCKYSIZE=64"), nullptr};
  GDALDatasetH dataset = GDALCreate(GDALGetDriverByName("GTiff"), "stream.tif", side, side, 1, GDT_Byte, tiles);
  CHECK(GDALDatasetRasterIO(dataset, GF_Write, 0, 0, side, side, all.data(), side, side, GDT_Byte, 1, nullptr, 0, 0, 0) == CE_None);
  GDALClose(dataset);
  auto small = otb::VectorImage<float, 2>::New();
  Grid(300000, 4900020, 10, Region(0, 0, side, side)).ApplyTo(small);
  small->SetRegions(Region(0, 0, side, side));
  small->SetNumberOfComponentsPerPixel(1);
  otb::PatchImages one;
  one.stack.Add(small, "a");
  one.files = {"stream.tif"};
  std::vector<otb::PatchReader::IndexType> corners;
  for (long k = 0; k < 3000; ++k)
  {
    corners.push_back({{k * 48271 % (side - 15), k * k % (side - 15)}});
  }
  const GIntBig before = GDALGetCacheMax64();
  GDALSetCacheMax64(256 << 10);
  std::vector<unsigned char> pixels(16 * 16 * 300);
  const auto read = [&](const char* folder)
  {
    otb::PatchStream stream(std::make_shared<const otb::PatchReader>(one, 16, 16, "s"), corners, GDT_Byte, folder);
    for (std::size_t first = 0; first < corners.size(); first += 300)
    {
      stream.Read(first, 300, pixels.data());
      for (std::size_t k = 0; k < pixels.size(); ++k)
      {
        const auto& corner = corners[first + k / 256];
        CHECK(pixels[k] == all[static_cast<std::size_t>((corner[1] + static_cast<long>(k / 16 % 16)) * side + corner[0]) + k % 16]);
      }
    }
  };
  read(".");
  read(""); // nowhere to write: decoded again and again
  CHECK(!MessageOf<std::runtime_error>([&]() { read("no such folder"); }).empty());
  GDALSetCacheMax64(before);
  std::remove("stream.tif");
}

void SelectionTest()
{
  using otb::PatchGrid;
  // OTBTF's rule: the group with the smallest count / share, the first one of equals.
  const std::vector<PatchGrid::Group> expected = {0, 1, 2, 0, 0, 1, 0, 0, 1, 0};
  CHECK(PatchGrid::Split(10, {60, 30, 10}, false) == expected);
  CHECK(PatchGrid::Split(3, {0, 0, 1}, false) == std::vector<PatchGrid::Group>(3, 2));
  CHECK(!MessageOf<std::runtime_error>([]() { PatchGrid::Split(3, {0, 0, 0}, true); }).empty());

  // The best three of eight mixed patches, by trying all.
  const std::vector<PatchGrid::Histogram> patches = {{{0, 90}, {1, 10}}, {{0, 100}}, {{1, 100}},         {{0, 50}, {2, 50}},
                                                     {{2, 100}},         {},         {{0, 30}, {1, 70}}, {{1, 20}, {2, 5}}};
  const auto valueOf = [&](const std::vector<PatchGrid::Group>& groups)
  {
    std::array<double, 3> pixels = {0, 0, 0};
    for (std::size_t k = 0; k < patches.size(); ++k)
    {
      for (const auto& [label, count] : patches[k])
      {
        pixels[label] += groups[k] == 0 ? count : 0;
      }
    }
    return std::log1p(pixels[0]) + std::log1p(pixels[1]) + std::log1p(pixels[2]);
  };
  double best = 0;
  for (unsigned int choice = 0; choice < 256; ++choice)
  {
    std::vector<PatchGrid::Group> groups;
    for (unsigned int k = 0; k < 8; ++k)
    {
      groups.push_back(choice >> k & 1 ? 0 : 3);
    }
    best = std::count(groups.begin(), groups.end(), PatchGrid::Group(0)) == 3 ? std::max(best, valueOf(groups)) : best;
  }
  const auto chosen = PatchGrid::Balance(patches, 3, 3. / 8);
  CHECK(std::count(chosen.begin(), chosen.end(), PatchGrid::Group(0)) == 3 && valueOf(chosen) > 0.97 * best);
  CHECK(chosen == PatchGrid::Balance(patches, 3, 3. / 8));
  const auto all = PatchGrid::Balance(patches, 3, 1);
  CHECK(std::count(all.begin(), all.end(), PatchGrid::Group(0)) == 7 && all[5] == 3); // never one without a label

  const otb::LabelSampler::Counts counts = {{-5, 10}, {40000, 3}};
  const auto same = otb::LabelSampler::Same(counts, 4);
  CHECK(same.at(-5).step == 2 && same.at(-5).target == 4 && same.at(40000).step == 1);
  CHECK(otb::LabelSampler::InTotal(counts, 4).at(-5).step == 3 && otb::LabelSampler::InTotal(counts, 100).at(-5).step == 1);
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
  const std::string saver = Field(1, "save/Const:0") + Field(2, "save/Identity:0") + Field(3, "save/restore_all") + Varint(4, 5);
  const std::string saved = graph + Field(3, saver);
  const auto read = otb::ReadTensorflowSaver(saved.data(), saved.size());
  CHECK(read.fileName == "save/Const:0" && read.saveOperation == "save/Identity:0" && read.restoreOperation == "save/restore_all");
  CHECK(otb::ReadTensorflowSaver(graph.data(), graph.size()).fileName.empty());
  const auto none = otb::WriteTensorflowConfiguration(0), two = otb::WriteTensorflowConfiguration(2);
  CHECK(none == std::string("\x38\x01\x32\x02\x20\x01", 6));
  CHECK(two == std::string("\x10\x02\x28\x02", 4) + none);
}

void FrozenGraphTest()
{
  const auto node =
      [](const std::string& name, const std::string& operation, const std::vector<std::string>& inputs, const std::string& attributes = "")
  {
    std::string bytes = Field(1, name) + Field(2, operation);
    for (const auto& input : inputs)
    {
      bytes += Field(3, input);
    }
    return bytes + attributes;
  };
  const auto attribute = [](const std::string& key, const std::string& value)
  {
    return Field(5, Field(1, key) + Field(2, value));
  };
  const auto function = attribute("f", Field(10, Field(1, "body")));
  const auto beside = attribute("_class", Field(1, Field(2, "loc:@gone")));
  const std::string body =
      Field(1, Field(1, "body") + Field(2, Field(1, "z") + Varint(3, 1)) + Field(2, Field(1, "handle") + Varint(3, 20))) +
      Field(3, node("read", "ReadVariableOp", {"handle"}, attribute("dtype", Varint(6, 1)))) +
      Field(3, node("product", "Mul", {"z", "read:value:0", "^read"})) + Field(4, Field(1, "product") + Field(2, "product:z:0")) +
      Field(4, Field(1, "w") + Field(2, "read:value:0"));
  const std::string library = Field(2, Field(1, body));
  const std::string before = Field(1, node("x", "Placeholder", {}, beside)) +
                             Field(1, node("v", "VarHandleOp", {}, attribute("dtype", Varint(6, 1)))) +
                             Field(1, node("old", "VariableV2", {}, attribute("dtype", Varint(6, 2)))) +
                             Field(1, node("gone", "AssignVariableOp", {"v", "x"})) + Field(1, node("r", "ReadVariableOp", {"v"}));
  const std::string graph = before + Field(1, node("call", "StatefulPartitionedCall", {"x", "v"}, function)) +
                            Field(1, node("y", "AddN", {"call", "call:1", "r:0", "old", "^x"})) + library;
  const auto freeze = [](const std::string& bytes, const std::vector<std::string>& kept)
  {
    return otb::FrozenGraph(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), kept);
  };
  const auto frozen = freeze(graph, {"y", "x", "y"});
  const auto& variables = frozen.GetVariables();
  CHECK(frozen.GetObstacle().empty() && variables.size() == 2 && variables.at("v").isResource && !variables.at("old").isResource);
  CHECK(variables.at("v").type == otb::tf::Float && variables.at("old").type == otb::tf::Double);
  const float one = 1;
  const double two = 2;
  const std::string written = frozen.Write(
      [&](const std::string& name)
      {
        return name == "v" ? otb::FrozenGraph::Value{otb::tf::Float, {1}, &one, sizeof(one)}
                           : otb::FrozenGraph::Value{otb::tf::Double, {}, &two, sizeof(two)};
      });
  const std::string tensor = Varint(1, 1) + Field(2, Field(2, Varint(1, 1))) + Field(4, std::string("\x00\x00\x80\x3f", 4));
  const std::string constant = attribute("dtype", Varint(6, 1)) + attribute("value", Field(8, tensor));
  CHECK(Has(written, node("read", "Const", {}, constant)) && Has(written, node("r", "Const", {}, constant)));
  CHECK(Has(written, node("product", "Mul", {"z", "read:output:0", "^read"})) && Has(written, Field(2, "read:output:0")));
  CHECK(Has(written, Field(1, node("x", "Placeholder", {}))) && Has(written, node("old", "Const", {})));
  CHECK(!Has(written, "gone") && !Has(written, "ReadVariableOp") && !Has(written, "VariableV2"));
  const auto again = freeze(written, {"y"});
  CHECK(again.GetObstacle().empty() && again.GetVariables().empty());
  for (size_t length = 0; length < graph.size(); ++length) // cut: an error, an obstacle, or less; never read beyond its end
  {
    const std::string cut = graph.substr(0, length);
    CHECK(!MessageOf<otb::TensorflowError>([&]() { freeze(cut, {"y"}); }).empty() || !freeze(cut, {"y"}).GetObstacle().empty() ||
          length >= graph.size() - library.size());
  }

  CHECK(Has(freeze(graph, {"z"}).GetObstacle(), "no operation z"));
  CHECK(Has(freeze(graph, {"gone"}).GetObstacle(), "AssignVariableOp"));
  const auto with = [&](const std::string& more)
  {
    return freeze(before + more + library, {"y"}).GetObstacle();
  };
  CHECK(Has(with(Field(1, node("y", "ResourceGather", {"v", "x"}))), "ResourceGather"));
  CHECK(Has(with(Field(1, node("y", "While", {"v", "x"}, attribute("body", Field(10, Field(1, "body")))))), "does more"));
  CHECK(Has(with(Field(1, node("y", "ReadVariableOp", {"x"}))), "at run time"));
  const std::string other = Field(1, node("v2", "VarHandleOp", {}, attribute("dtype", Varint(6, 1))));
  const std::string calls = Field(1, node("a", "PartitionedCall", {"x", "v"}, function)) +
                            Field(1, node("b", "PartitionedCall", {"x", "v2"}, function)) + Field(1, node("y", "Add", {"a", "b"}));
  CHECK(Has(with(other + calls), "different variables"));
  const std::string circle = Field(1, node("y", "ReadVariableOp", {"i"})) + Field(1, node("i", "Identity", {"i"}));
  CHECK(Has(with(circle), "at run time"));
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
      R"("input": {"name": "lr", "bands": ["B4", "B3"], "spacing": 10}, "output": {"name": "sr", "bands": ["B4"], "dtype": "int16", "nodata": -10000}})";
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

  // not made by us: any bytes are a sidecar or a ModelSidecarError of one line
  const auto parse = [](const std::string& content)
  {
    return MessageOf<otb::ModelSidecarError>([&]() { otb::ModelSidecar::Parse(content, "model.json"); });
  };
  const auto with = [&](const std::string& numbers)
  {
    return parse(head + numbers + tail);
  };
  const std::string numbers = R"("factor": 4, "margin": 0, )";
  CHECK(with(numbers).empty());
  for (const char* deep : {"[", "{\"a\":", "[{\"a\":"})
  {
    std::string nested;
    for (int k = 0; k < 30000; ++k)
    {
      nested += deep;
    }
    CHECK(Has(parse(nested), "nested more than 32"));
  }
  CHECK(with(numbers + R"("licence": "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[ \" [ \\", )").empty());
  CHECK(Has(parse(std::string(2000000, ' ')), "more than 1048576 bytes"));
  CHECK(Has(with(R"("factor": 4, "factor": 8, "margin": 0, )"), "factor twice"));
  CHECK(Has(with(numbers + R"("training": {"a": [{"b": 1, "b": 2}]}, )"), "training.a..b twice"));
  for (const char* wrong : {"\x80", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xc3"})
  {
    CHECK(Has(with(numbers + "\"licence\": \"" + wrong + "\", "), "is not UTF-8"));
  }
  CHECK(with(numbers + "\"licence\": \"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x9b\xb0\", ").empty());
  for (const char* wrong :
       {"1e999", "\"0x4\"", "\" 4\"", "\"4 \"", "\"inf\"", "\"nan\"", "\"4,0\"", "4294967300", "-1", "1e-400", "\"1e\"", "true", "[4]"})
  {
    CHECK(Has(with(std::string("\"margin\": 0, \"factor\": ") + wrong + ", "), "factor is "));
  }
  CHECK(Has(with(R"("factor": NaN, "margin": 0, )"), "JSON") && Has(with(R"("factor": Infinity, "margin": 0, )"), "JSON"));
  const auto named = [&](const std::string& name)
  {
    return parse(R"({"format": 1, "name": ")" + name + R"(", "method": "fidelity", )" + numbers + tail);
  };
  CHECK(named("../../etc/passwd").empty()); // a text for people, not a path
  CHECK(Has(named("a\\nERROR: b"), "control characters") && Has(named("a\\u0000b"), "control characters"));
  const auto longName = parse(R"({"format": 1, "name": "n", "method": ")" + std::string(5000, 'm') + "\"}");
  const auto badKey = with(numbers + R"("a\tERROR: b": 1, )");
  CHECK(Has(badKey, "a?ERROR: b is no key"));
  CHECK(Has(longName, "mmm...") && longName.size() < 300);
}

void LibraryTest()
{
  setenv("OTB_TF_LIBRARY", "/nowhere/libtensorflow_cc.so.2", 1);
  const auto missing = MessageOf<otb::TensorflowError>([]() { otb::TensorflowLibrary::Get(); });
  CHECK(Has(missing, "TensorFlow library not found: looked at OTB_TF_LIBRARY=/nowhere") &&
        Has(missing, "pip install tensorflow, or set OTB_TF_LIBRARY"));
  setenv("OTB_TF_LIBRARY", "libm.so.6", 1);
  CHECK(Has(MessageOf<otb::TensorflowError>([]() { otb::TensorflowLibrary::Get(); }), "not a TensorFlow 2 library"));

  // the environment is changed before the thread that loads, not in it: others may be reading it
  unsetenv("TF_CPP_MIN_LOG_LEVEL");
  setters.clear();
  CHECK(Has(MessageOf<otb::TensorflowError>([]() { otb::TensorflowModel::LoadAside("/nowhere", "", 0).get(); }), "not a TensorFlow 2"));
  CHECK(setters == std::vector<std::thread::id>{std::this_thread::get_id()});
}

void ConversionTest()
{
  const auto FloorTo = otb::ServingGrid::FloorTo;
  const auto Mirror = otb::ServingGrid::Mirror;
  using otb::tensorflow_model_filter::NextTo;
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

/** The value of a half or bfloat16 by its definition. */
double ValueOf(uint16_t bits, int fractionBits, int bias)
{
  const int exponentBits = 15 - fractionBits, exponent = bits >> fractionBits & ((1 << exponentBits) - 1);
  const double fraction = std::ldexp(bits & ((1 << fractionBits) - 1), -fractionBits), sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponentBits) - 1)
  {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  return sign * (exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias));
}

/** All values of a type of 16 bits: read right, written back, and the middle between neighbours rounded to even. */
template <class TReal>
void SixteenBitTest(int fractionBits, int bias)
{
  using otb::tensorflow_tensor::Convert;
  for (int bits = 0; bits < 0x10000; ++bits)
  {
    const TReal real{static_cast<uint16_t>(bits)};
    const double value = ValueOf(real.bits, fractionBits, bias), read = Convert<double>(real);
    CHECK(std::isnan(value) ? std::isnan(read) : value == read && std::signbit(value) == std::signbit(read));
    const auto written = Convert<TReal>(static_cast<float>(read));
    CHECK(std::isnan(value) ? std::isnan(Convert<float>(written)) : written.bits == real.bits);
    const double next = ValueOf(static_cast<uint16_t>(bits + 1), fractionBits, bias);
    if (std::isnan(value) || std::isinf(value) || std::isnan(next) || std::isinf(next))
    {
      continue;
    }
    const double middle = (value + next) / 2; // exact, and a float
    const int even = bits % 2 == 0 ? bits : bits + 1;
    CHECK(Convert<TReal>(static_cast<float>(middle)).bits == even && Convert<TReal>(middle).bits == even);
    // a double that float would round to the middle
    CHECK(Convert<TReal>(std::nextafter(middle, value)).bits == bits && Convert<TReal>(std::nextafter(middle, next)).bits == bits + 1);
  }
}

/** Rows, of which processors convert several values at once, against Convert one by one, which ConversionTest tests. */
template <class TPixel>
void RowsTest()
{
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> values = {nan,      infinity, -infinity, -nan,     0.f,      -0.f,   0.49999997f, -0.49999997f, 1e10f, -1e10f,
                               32767.5f, 32768.5f, -32768.5f, 65535.5f, 65534.5f, 1e-40f, 16777217.f,  254.5f,       255.5f};
  for (int k = -140000; k < 140000; k += 3)
  {
    values.push_back(static_cast<float>(k) / 2);
    values.push_back(std::nextafter(static_cast<float>(k) / 2, k % 2 == 0 ? infinity : -infinity));
  }
  const TPixel instead = TPixel(7);
  for (size_t first = 0; first < 9; ++first) // whatever the address and the length
  {
    const size_t count = values.size() - 2 * first;
    std::vector<TPixel> row(count + 2, TPixel(99));
    otb::tensorflow_tensor::ToPixels(otb::tf::Float, values.data() + first, row.data() + 1, count, instead);
    bool same = row.front() == TPixel(99) && row.back() == TPixel(99);
    for (size_t k = 0; k < count; ++k)
    {
      const auto one = otb::tensorflow_tensor::Convert<TPixel>(values[first + k], instead);
      same = same && (row[k + 1] == one || (one != one && row[k + 1] != row[k + 1]));
    }
    CHECK(same);
  }

  // all phases of a line of coarse pixels, and some of them from the middle of a coarse pixel to that of another
  for (const size_t factor : {2u, 3u, 4u})
  {
    const size_t bands = factor == 3 ? 3 : 4, coarse = 7, whole = factor * coarse, stride = whole * bands + 5;
    for (const auto columns : {otb::tensorflow_tensor::Span{0, whole}, otb::tensorflow_tensor::Span{1, whole - 3}})
    {
      for (const auto phases : {otb::tensorflow_tensor::Span{0, factor}, otb::tensorflow_tensor::Span{1, factor - 1}})
      {
        std::vector<TPixel> rows(phases.count * stride, TPixel(99));
        otb::tensorflow_tensor::ToPixelsOfPhases(otb::tf::Float, values.data(), rows.data(), stride, phases, columns, factor, bands,
                                                 instead);
        bool same = true;
        for (size_t y = 0; y < phases.count; ++y)
        {
          for (size_t k = 0; k < stride; ++k)
          {
            const size_t x = columns.first + k / bands, channel = ((phases.first + y) * factor + x % factor) * bands + k % bands;
            const bool outside = k >= columns.count * bands;
            const float value = outside ? 0 : values[x / factor * factor * factor * bands + channel];
            const auto one = outside ? TPixel(99) : otb::tensorflow_tensor::Convert<TPixel>(value, instead);
            same = same && (rows[y * stride + k] == one || one != one);
          }
        }
        CHECK(same);
      }
    }
  }
}

void TensorTest()
{
  using otb::tensorflow_tensor::BFloat16;
  using otb::tensorflow_tensor::Boolean;
  using otb::tensorflow_tensor::Convert;
  using otb::tensorflow_tensor::Half;
  SixteenBitTest<Half>(10, 15);
  SixteenBitTest<BFloat16>(7, 127);
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  CHECK(Convert<Half>(65519.f).bits == 0x7bff && Convert<Half>(65520.f).bits == 0x7c00 && Convert<Half>(-1e30).bits == 0xfc00);
  CHECK(Convert<Half>(int32_t(2049)).bits == Convert<Half>(2048.f).bits && Convert<uint8_t>(Half{0x3e00}) == 2); // 1.5
  CHECK(Convert<BFloat16>(3.4e38f).bits == 0x7f80 &&
        std::isnan(Convert<float>(Convert<BFloat16>(otb::tensorflow_tensor::FloatOfBits(0x7f800001u)))));

  CHECK(Convert<int16_t>(0.5f, int16_t(7)) == 1 && Convert<int16_t>(-0.5f, int16_t(7)) == -1 && Convert<int16_t>(0.49f, int16_t(7)) == 0);
  CHECK(Convert<int16_t>(0.49999997f) == 0 && Convert<int32_t>(0.49999999999999994) == 0 && Convert<int64_t>(-0.49999999999999994) == 0);
  CHECK(Convert<int16_t>(4e4f, int16_t(7)) == 32767 && Convert<int16_t>(-infinity, int16_t(7)) == -32768 &&
        Convert<int16_t>(nan, int16_t(7)) == 7);
  CHECK(Convert<uint8_t>(-3.f, uint8_t(7)) == 0 && Convert<uint8_t>(255.5f, uint8_t(7)) == 255 && Convert<uint8_t>(nan) == 0);
  CHECK(Convert<uint16_t>(65534.5f, uint16_t(7)) == 65535 && Convert<int8_t>(-128.6f) == -128);
  CHECK(Convert<int32_t>(1e10f, 7) == std::numeric_limits<int32_t>::max() && Convert<uint32_t>(4294967295.0, 7u) == 4294967295u);
  CHECK(std::isnan(Convert<float>(nan, 7.f)) && Convert<float>(12.9f, 0.f) == 12.9f);
  const int64_t exact = (int64_t(1) << 53) - 1, most = std::numeric_limits<int64_t>::max();
  CHECK(Convert<int64_t>(Convert<double>(exact)) == exact && Convert<int64_t>(Convert<double>(-exact)) == -exact);
  CHECK(Convert<uint64_t>(Convert<double>(uint64_t(exact))) == uint64_t(exact));
  CHECK(Convert<int64_t>(1e30) == most && Convert<int64_t>(-1e30) == -most - 1 && Convert<int64_t>(9223372036854775808.0) == most);
  CHECK(Convert<uint64_t>(1e30f) == std::numeric_limits<uint64_t>::max() && Convert<uint64_t>(-1.f) == 0 &&
        Convert<uint64_t>(9223372036854775808.0) == uint64_t(most) + 1);
  CHECK(Convert<int32_t>(most) == std::numeric_limits<int32_t>::max() && Convert<uint8_t>(int64_t(-5)) == 0 &&
        Convert<int16_t>(std::numeric_limits<uint64_t>::max()) == 32767 && Convert<uint32_t>(int64_t(4294967295)) == 4294967295u &&
        Convert<int8_t>(uint8_t(200)) == 127);
  CHECK(Convert<Boolean>(nan).byte == 0 && Convert<Boolean>(0.25f).byte == 1 && Convert<Boolean>(-0.f).byte == 0 &&
        Convert<float>(Boolean{2}) == 1);

  // every type there and back, and its size
  const float pixels[] = {0, 1, 2, 17, 100, 127};
  for (int number = -1; number < 40; ++number)
  {
    const auto type = static_cast<otb::tf::DataType>(number);
    double memory[6] = {}, back[6] = {};
    const auto error = MessageOf<otb::TensorflowError>(
        [&]()
        {
          otb::tensorflow_tensor::FromPixels(type, pixels, memory, 6);
          otb::tensorflow_tensor::ToPixels(type, memory, back, 6);
        });
    CHECK(error.empty() == (otb::tf::SizeOf(type) != 0));
    for (int k = 0; error.empty() && k < 6; ++k)
    {
      CHECK(back[k] == (type == otb::tf::Bool ? std::min(pixels[k], 1.f) : pixels[k]));
    }
    CHECK(error.empty() || Has(error, "tensors of " + otb::tf::NameOf(type) + " hold no pixels"));
    const auto* bytes = reinterpret_cast<const char*>(memory);
    CHECK(std::count(bytes + 6 * otb::tf::SizeOf(type), bytes + sizeof(memory), 0) == long(sizeof(memory) - 6 * otb::tf::SizeOf(type)));
  }
  CHECK(otb::tf::NameOf(otb::tf::Half) == "float16" && otb::tf::NameOf(otb::tf::Complex64) == "complex64" &&
        otb::tf::NameOf(static_cast<otb::tf::DataType>(99)) == "type 99");
  // one band of two
  int16_t stacked[6] = {-1, -1, -1, -1, -1, -1};
  const float one[] = {1.4f, nan, 3};
  otb::tensorflow_tensor::ToPixels(otb::tf::Float, one, stacked + 1, 3, 1, 2, int16_t(9));
  CHECK((std::vector<int16_t>(stacked, stacked + 6) == std::vector<int16_t>{-1, 1, -1, 9, -1, 3}));
  RowsTest<int16_t>();
  RowsTest<uint16_t>();
  RowsTest<uint8_t>();
  RowsTest<int32_t>();
  RowsTest<float>();
}

void PlaceholderTest()
{
  using otb::UserPlaceholder;
  const auto input = [](otb::tf::DataType type, std::vector<int64_t> shape)
  {
    otb::TensorflowTensorInfo info;
    info.key = "x";
    info.type = type;
    info.shape = shape;
    return info;
  };
  const auto value = [&](const std::string& text, otb::tf::DataType type) // the first value, as a double
  {
    double memory[4] = {}, read = 0;
    UserPlaceholder::Parse("x=" + text).WriteValues(input(type, {-1}), memory);
    otb::tensorflow_tensor::ToPixels(type, memory, &read, 1);
    return read;
  };
  const auto error = [&](const std::string& text, otb::tf::DataType type)
  {
    return MessageOf<otb::TensorflowError>([&]() { value(text, type); });
  };
  CHECK(value("12", otb::tf::Int32) == 12 && value("-12", otb::tf::Float) == -12 && value("1e-3", otb::tf::Double) == 1e-3 &&
        value(".5", otb::tf::Half) == 0.5 && value("+2.", otb::tf::Float) == 2 && value("1e3", otb::tf::Int64) == 1000 &&
        value("( 7 , 8)", otb::tf::UInt8) == 7);
  CHECK(value("true", otb::tf::Bool) == 1 && value("FALSE", otb::tf::Bool) == 0 && value("True", otb::tf::Bool) == 1 &&
        value("1", otb::tf::Bool) == 1 && value("0", otb::tf::Bool) == 0);
  for (const char* text : {"1.5", "abc", "true", "12x", "4e9", "-2147483649", "0x10", "1 2", "nan"})
  {
    CHECK(Has(error(text, otb::tf::Int32), "\"" + std::string(text) + "\" is no value of int32, the type of the model's input \"x\""));
  }
  CHECK(!error("2", otb::tf::Bool).empty() && !error("256", otb::tf::UInt8).empty() && !error("-1", otb::tf::UInt64).empty() &&
        !error("9223372036854775808", otb::tf::Int64).empty() && Has(error("a", otb::tf::String), "is string, but only numbers"));
  int64_t large = 0;
  UserPlaceholder::Parse("x=9007199254740993").WriteValues(input(otb::tf::Int64, {}), &large);
  CHECK(large == 9007199254740993); // no double has it

  for (const char* text : {"x", "=3", "x=", "x=(1,2", "x=1)", "x=(", "x=()", "x=(1,,2)", "x=1,2", "x=(1,)"})
  {
    CHECK(Has(MessageOf<otb::TensorflowError>([&]() { UserPlaceholder::Parse(text); }), "user placeholder \"" + std::string(text) + "\" "));
  }
  const auto list = UserPlaceholder::Parse(" a b = (1, 2 ,3,4) "), one = UserPlaceholder::Parse("x=1");
  CHECK(list.name == "a b" && list.isList && !one.isList && (list.values == std::vector<std::string>{"1", "2", "3", "4"}));
  using Shape = std::vector<int64_t>;
  const auto shape = [&](const UserPlaceholder& placeholder, const Shape& declared)
  {
    return placeholder.ShapeFor(input(otb::tf::Float, declared));
  };
  CHECK(shape(one, {}) == Shape{} && shape(UserPlaceholder::Parse("x=(1)"), {}) == Shape{} && shape(one, {-1}) == Shape{1} &&
        shape(one, {1}) == Shape{1} && (shape(one, {-1, -1}) == Shape{1, 1}));
  CHECK(shape(list, {-1}) == Shape{4} && shape(list, {4}) == Shape{4} && (shape(list, {-1, 2}) == Shape{2, 2}) &&
        (shape(list, {-1, -1}) == Shape{1, 4}) && (shape(list, {2, -1, 1}) == Shape{2, 2, 1}));
  otb::TensorflowTensorInfo unknown;
  unknown.unknownRank = true;
  CHECK(list.ShapeFor(unknown) == Shape{4} && one.ShapeFor(unknown) == Shape{1});
  for (const auto& declared : {Shape{}, Shape{3}, Shape{3, -1}, Shape{0}})
  {
    CHECK(Has(MessageOf<otb::TensorflowError>([&]() { shape(list, declared); }),
              "has 4 values, but the model's input \"x\" has the shape ["));
  }
}

void WritingTest()
{
  using Pair = std::array<otb::SamplingGrid::IndexValue, 2>;
  otb::WritingPlan plan;
  plan.block = plan.hint = {{1024, 1536}};
  plan.bytesPerPixel = 8;
  plan.size = {{4792, 4680}};
  CHECK(otb::WithFastWriting("a.png", plan, false, true, -1) == "a.png");
  CHECK(otb::WithFastWriting("a.tif?&streaming:type=tiled&gdal:co:TILED=YES", plan, false, true, -1) ==
        "a.tif?&streaming:type=tiled&gdal:co:TILED=YES");
  const auto name = otb::WithFastWriting("a.TIF", plan, false, true, -10000);
  CHECK(Has(name, "streaming:type=auto") && Has(name, "TILED=YES") && Has(name, "BLOCKXSIZE=512&gdal:co:BLOCKYSIZE=512") &&
        Has(name, "nodata=-10000") && otb::FileOfExtendedName(name) == "a.TIF");
  CHECK(Has(otb::WithFastWriting("a.tif?&nodata=3", plan, false, true, -1), "a.tif?&nodata=3&streaming:type=stripped"));
  CHECK(Has(otb::WithFastWriting("a.tif?&gdal:co:TILED=YES", plan, false, true, -1), "TILED=YES&streaming:type=auto"));
  plan.hint = {{48, 960}};
  CHECK(Has(otb::WithFastWriting("a.tif", plan, true, false, 0), "BLOCKXSIZE=512&gdal:co:BLOCKYSIZE=480"));

  const auto options = otb::ReadWritingOptions("a.tif?&box=10:20:30:40&streaming:type=stripped");
  CHECK(options.hasBox && options.box == Region(10, 20, 30, 40) && options.isInStrips && options.isStreamingGiven);
  // GDAL's cache: nothing when whole tiles or rows are asked for, else a row of tiles
  const auto cache = [&plan](const std::string& extended)
  {
    return otb::WritingCache(plan, otb::ReadWritingOptions(extended));
  };
  plan.hint = {{1024, 1536}};
  CHECK(cache("a.tif") == 0 && cache("a.tif?&gdal:co:TILED=YES") == 0 && cache("a.tif?&gdal:co:COMPRESS=LZW") == 0);
  CHECK(cache("a.tif?&gdal:co:TILED=YES&gdal:co:BLOCKYSIZE=640") == 640.0 * 4792 * 8);
  CHECK(cache("a.tif?&gdal:co:TILED=YES&streaming:type=stripped") == 256.0 * 4792 * 8);
  CHECK(!otb::ReadWritingOptions("a.tif?&gdal:co:tiled=yes").isInStrips &&
        otb::ReadWritingOptions("a.tif?&gdal:co:COMPRESS=LZW").isInStrips);

  CHECK(otb::PartialNameOf("/nowhere/a.tif?&box=1") == "/nowhere/.a.partial-" + std::to_string(getpid()) + ".tif");
  CHECK(otb::PartialNameOf("a.tiff") == ".a.partial-" + std::to_string(getpid()) + ".tiff");
  CHECK(otb::PartialNameOf("a.png").empty() && otb::PartialNameOf("/vsimem/a.tif").empty());

  for (const auto& size : {Pair{{4792, 4680}}, Pair{{8192, 8192}}, Pair{{300, 90000}}, Pair{{1, 1}}, Pair{{43920, 43920}}, Pair{{20, 7}}})
  {
    for (const double most : {3e4, 1e6, 2e7})
    {
      for (const auto step : {1, 4, 12, 512})
      {
        const auto block = otb::PlanBlocks(size, {{step, step}}, {{168, 168}}, most, 0);
        CHECK(block[0] > 0 && block[1] > 0 && block[0] % step == 0 && block[1] % step == 0);
        const double cost = static_cast<double>(block[0] + 168) * static_cast<double>(block[1] + 168);
        CHECK(cost <= most || block[0] < 64 + step || block[1] < 16 + step);
        const auto flat = otb::PlanBlocks(size, {{step, step}}, {{168, 168}}, most, 64);
        CHECK(flat[1] < 64 + step);
      }
    }
  }
  CHECK(otb::EvenStrips(16384, 768, 4) == 656 && otb::EvenStrips(100, 200, 4) == 100 && otb::EvenStrips(7, 4, 4) == 4);
  // with enough memory the margins cost less than 5 %
  const auto large = otb::PlanBlocks({{43920, 43920}}, {{4, 4}}, {{168, 168}}, 6e7, 0);
  CHECK((1 + 168.0 / static_cast<double>(large[0])) * (1 + 168.0 / static_cast<double>(large[1])) < 1.05);
}

// Those that live at once share the sum of what they ask for, below the user's limit, which the last one puts back, in whatever order they
// end; a GDAL_CACHEMAX of the user's is left alone.
void CacheTest()
{
  using Cache = otb::SmallGdalCache;
  constexpr long long mebibyte = 1 << 20, user = 100 * mebibyte;
  const auto limit = []
  {
    return GDALGetCacheMax64() / mebibyte;
  };
  CPLSetConfigOption("GDAL_CACHEMAX", nullptr);
  GDALSetCacheMax64(user);
  for (const bool isFirstGoneFirst : {true, false})
  {
    auto first = std::make_unique<Cache>(30 * mebibyte);
    CHECK(limit() == 30);
    auto second = std::make_unique<Cache>(50 * mebibyte);
    CHECK(limit() == 80);
    {
      const Cache third(40 * mebibyte);
      CHECK(limit() == 100); // not the sum, 120
    }
    CHECK(limit() == 80);
    (isFirstGoneFirst ? first : second).reset();
    CHECK(limit() == (isFirstGoneFirst ? 50 : 30));
    (isFirstGoneFirst ? second : first).reset();
    CHECK(limit() == 100);
  }
  {
    const Cache large(200 * mebibyte);
    CHECK(limit() == 100);
  }
  CHECK(limit() == 100);

  GDALSetCacheMax64(70 * mebibyte); // each time the limit of that moment comes back
  {
    const Cache cache(mebibyte);
    CHECK(limit() == 1);
  }
  CHECK(limit() == 70);

  const auto many = [mebibyte]
  {
    for (int i = 0; i < 2000; ++i)
    {
      const Cache cache((1 + i % 7) * mebibyte);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
  {
    threads.emplace_back(many);
  }
  for (auto& thread : threads)
  {
    thread.join();
  }
  CHECK(limit() == 70);
  {
    const Cache cache(8 * mebibyte);
    CHECK(limit() == 8); // nothing is left of what the threads asked for
  }

  {
    const Cache before(20 * mebibyte);
    CPLSetConfigOption("GDAL_CACHEMAX", "33");
    const Cache cache(mebibyte);
    CHECK(limit() == 20);
    CPLSetConfigOption("GDAL_CACHEMAX", nullptr); // it ends as it began: uncounted
  }
  CHECK(limit() == 70);
  CPLSetConfigOption("GDAL_CACHEMAX", "70");
  {
    const Cache cache(mebibyte);
    CHECK(limit() == 70);
  }
  CHECK(limit() == 70);
  CPLSetConfigOption("GDAL_CACHEMAX", nullptr);
}

// Blocks come back as they were kept, whether in memory or in the scratch file, in parts of any order; what was given out whole is
// forgotten.
void KeptTest()
{
  const auto fill = [](const otb::KeptBlocks::RegionType& block)
  {
    std::vector<char> pixels(block.GetNumberOfPixels() * 3);
    for (std::size_t k = 0; k < pixels.size(); ++k)
    {
      pixels[k] = static_cast<char>((k + static_cast<std::size_t>(block.GetIndex(0) * 7 + block.GetIndex(1) * 13)) % 251);
    }
    return pixels;
  };
  char folder[] = "/tmp/otbsr-kept-XXXXXX";
  CHECK(mkdtemp(folder) != nullptr);
  for (const std::size_t memory : {std::size_t{0}, std::size_t{40 * 30 * 3}, std::size_t{1} << 20})
  {
    otb::KeptBlocks kept;
    kept.SetRoom(memory, folder);
    for (int row = 0; row < 3; ++row)
    {
      for (int column = 0; column < 4; ++column)
      {
        const auto block = Region(column * 40, row * 30, 40, column == 3 ? 17 : 30);
        auto pixels = fill(block);
        CHECK(kept.Keep(block, row * 30, pixels) && kept.Has(block) && !kept.Has(Region(column * 40, row * 30, 40, 29)));
      }
      CHECK(row == 0 || !kept.Has(Region(120, 0, 40, 17))); // above the row that is asked for
      for (int column = 0; column < 3; ++column)
      {
        const auto block = Region(column * 40, row * 30, 40, 30);
        const auto expected = fill(block);
        for (const auto& part :
             {Region(column * 40, row * 30 + 11, 40, 19), Region(column * 40 + 5, row * 30, 35, 11), Region(column * 40, row * 30, 5, 11)})
        {
          const std::size_t width = part.GetSize(0) * 3, stride = width + 8;
          std::vector<char> given(stride * part.GetSize(1), 'x');
          kept.Give(block, part, given.data(), stride);
          for (std::size_t y = 0; y < part.GetSize(1); ++y)
          {
            const auto from =
                expected.begin() +
                ((part.GetIndex(1) - block.GetIndex(1) + static_cast<long>(y)) * 40 + part.GetIndex(0) - block.GetIndex(0)) * 3;
            CHECK(std::equal(from, from + static_cast<long>(width), given.begin() + static_cast<long>(y * stride)));
            CHECK(given[y * stride + width] == 'x');
          }
        }
        CHECK(!kept.Has(block));
      }
    }
    CHECK(rmdir(folder) == 0 && mkdir(folder, 0700) == 0); // the scratch file has no name
  }
  auto pixels = fill(Region(0, 0, 40, 30));
  otb::KeptBlocks nowhere;
  for (const char* place : {"", "/nowhere"})
  {
    nowhere.SetRoom(40 * 30 * 3 - 1, place);
    CHECK(!nowhere.Keep(Region(0, 0, 40, 30), 0, pixels) && pixels.size() == 40 * 30 * 3);
  }
  rmdir(folder);
}

otb::SamplingGrid SignedGrid(double left, double top, double dx, double dy, unsigned long width, unsigned long height)
{
  otb::SamplingGrid::SpacingType spacing;
  spacing[0] = dx;
  spacing[1] = dy;
  return otb::SamplingGrid(Point(left, top), spacing, Region(0, 0, width, height));
}

void ServingTest()
{
  using otb::ServingGrid;
  using Error = otb::SamplingGridError;
  constexpr auto Convolution = ServingGrid::Mode::FullyConvolutional;
  constexpr auto Patches = ServingGrid::Mode::Patches;
  const auto coarse = SignedGrid(300000, 4900020, 10, -10, 30, 20);

  otb::SamplingGrid::IndexValue p = 0, q = 0;
  for (const auto& fraction :
       {std::array<double, 3>{{0.25, 1, 4}}, {{0.15f, 3, 20}}, {{2.0f / 3, 2, 3}}, {{0.66667, 2, 3}}, {{4, 4, 1}}, {{1.5, 3, 2}}})
  {
    CHECK(ServingGrid::AsFraction(fraction[0], p, q) && p == static_cast<long>(fraction[1]) && q == static_cast<long>(fraction[2]));
  }
  CHECK(!ServingGrid::AsFraction(0.0001, p, q) && !ServingGrid::AsFraction(std::sqrt(2.0), p, q));

  // the output: corner, spacing, whole footprint
  for (const double scale : {1.0, 0.25, 0.15, 2.0 / 3, 1.5, 4.0})
  {
    const ServingGrid grid({{coarse, {{1, 1}}}}, scale, {{1, 1}}, scale > 1 ? Patches : Convolution);
    const auto& output = grid.GetOutput();
    CHECK(output.GetCorner() == coarse.GetCorner() && std::abs(output.GetSpacing()[1] + 10 * scale) < 1e-9);
    CHECK(output.GetRegion() == Region(0, 0, static_cast<unsigned long>(30 / scale + 1e-6), static_cast<unsigned long>(20 / scale + 1e-6)));
  }

  // margins as OTBTF's: the receptive field of one evaluation around its expression field
  struct Case
  {
    double scale;
    long field, expression, before, size;
  };
  for (const auto& c : {Case{0.25, 43, 4, 21, 43}, Case{0.25, 43, 1, 21, 43}, Case{0.25, 160, 512, 16, 160}, Case{1, 33, 1, 16, 33},
                        Case{1, 32, 1, 16, 32}, Case{1, 47, 16, 16, 47}, Case{4, 4, 1, 0, 4}, Case{4, 1, 1, -2, 1}, Case{2, 5, 1, 1, 5},
                        Case{2.0 / 3, 9, 3, 3, 9}, Case{0.25, 1, 4, 0, 1}})
  {
    const ServingGrid grid({{coarse, {{c.field, c.field}}}}, c.scale, {{c.expression, c.expression}}, Convolution);
    const auto aligned = grid.Aligned(Region(0, 0, 1, 1));
    CHECK(static_cast<long>(aligned.GetSize(0)) % c.expression == 0);
    const auto fed = grid.Fed(0, aligned);
    CHECK(fed.GetIndex(0) == -c.before && fed.GetIndex(1) == -c.before && fed.GetSize(0) == static_cast<unsigned long>(c.size));
    const auto twice = grid.Fed(0, grid.Aligned(Region(0, 0, aligned.GetSize(0) + 1, 1)));
    CHECK(twice.GetSize(0) == fed.GetSize(0) + static_cast<unsigned long>(std::lround(static_cast<double>(aligned.GetSize(0)) * c.scale)));
    CHECK(grid.AlignedSizeFor(0, 0, c.size) == static_cast<long>(aligned.GetSize(0)));
  }

  // two sources: blocks start and end on edges of both; only what both cover
  const auto shifted = SignedGrid(300010, 4900000, 20, -20, 14, 9); // 10 m east and 20 m south
  const ServingGrid two({{coarse, {{3, 3}}}, {shifted, {{1, 1}}}}, 1, {{1, 1}}, Convolution);
  CHECK(two.GetStep()[0] == 2 && two.GetStep()[1] == 2 && two.GetAnchor()[0] == 0 && two.GetAnchor()[1] == 0);
  CHECK(two.GetOutput().GetRegion() == Region(0, 0, 28, 18) && two.GetOutput().GetCorner() == shifted.GetCorner());
  CHECK(two.Fed(0, two.Aligned(Region(5, 5, 1, 1))) == Region(4, 5, 4, 4) &&
        two.Fed(1, two.Aligned(Region(5, 5, 1, 1))) == Region(2, 2, 1, 1));
  CHECK(two.Under(1, 0, Region(5, 0, 2, 1)) ==
        (std::vector<std::pair<otb::SamplingGrid::IndexValue, otb::SamplingGrid::IndexValue>>{{2, 3}, {3, 4}}));
  const auto finer = SignedGrid(300000, 4900020, 2.5, -2.5, 120, 80);
  const ServingGrid fine({{coarse, {{1, 1}}}, {finer, {{4, 4}}}}, 1, {{1, 1}}, Convolution);
  CHECK(fine.GetStep()[0] == 1 && fine.Fed(1, Region(3, 2, 2, 1)) == Region(12, 8, 8, 4));

  // patches: around the pixel that holds the output pixel's centre
  const ServingGrid patches({{coarse, {{5, 4}}}, {SignedGrid(300003, 4900019, 2.5, -2.5, 120, 80), {{1, 1}}}}, 0.5, {{1, 1}}, Patches);
  CHECK(patches.PatchStarts(0, 0, Region(0, 0, 4, 1)) == (std::vector<otb::SamplingGrid::IndexValue>{-2, -1, -1, 0}));
  CHECK(patches.PatchStarts(0, 1, Region(0, 1, 1, 2)) == (std::vector<otb::SamplingGrid::IndexValue>{-1, -1}));
  CHECK(patches.GetOutput().GetCorner()[0] == 300005); // the first pixel that both cover
  CHECK(patches.PatchStarts(1, 0, Region(0, 0, 2, 1)) == (std::vector<otb::SamplingGrid::IndexValue>{1, 3}));
  const ServingGrid odd({{coarse, {{1, 1}}}}, std::sqrt(2.0), {{1, 1}}, Patches);
  CHECK(odd.GetOutput().GetRegion() == Region(0, 0, 21, 14));

  const auto make = [&](std::vector<ServingGrid::Source> sources, double scale, ServingGrid::PairType expression, ServingGrid::Mode mode)
  {
    return MessageOf<Error>([&]() { ServingGrid(sources, scale, expression, mode); });
  };
  CHECK(Has(make({{coarse, {{1, 1}}}}, 0, {{1, 1}}, Patches), "must be positive"));
  CHECK(Has(make({{coarse, {{1, 1}}}}, std::sqrt(2.0), {{1, 1}}, Convolution), "no fraction"));
  CHECK(Has(make({{coarse, {{1, 1}}}}, 1, {{2, 1}}, Patches), "model.fullyconv on"));
  CHECK(Has(make({{coarse, {{3, 3}}}}, 1, {{8, 1}}, Convolution), "receptive field 3 in x is smaller than the 8"));
  CHECK(Has(make({{coarse, {{1, 1}}}, {SignedGrid(0, 0, 10, -10, 5, 5), {{1, 1}}}}, 1, {{1, 1}}, Convolution), "sources cover"));
  CHECK(Has(make({{coarse, {{1, 1}}}, {SignedGrid(300000, 4900020, 10, 10, 5, 5), {{1, 1}}}}, 1, {{1, 1}}, Convolution), "mirrored"));
  const auto off = make({{coarse, {{1, 1}}}, {SignedGrid(300003, 4900020, 10, -10, 30, 20), {{1, 1}}}}, 1, {{1, 1}}, Convolution);
  CHECK(Has(off, "source 2 does not nest") && Has(off, "300003") && Has(off, "300010"));
  const auto drifting =
      make({{coarse, {{1, 1}}}, {SignedGrid(300000, 4900020, 10.00005, -10, 30, 20), {{1, 1}}}}, 1, {{1, 1}}, Convolution);
  CHECK(Has(drifting, "does not nest"));
}

} // namespace

/** In place of the C library's, whose setenv it calls. */
extern "C" int setenv(const char* name, const char* value, int overwrite) noexcept
{
  if (std::string(name).rfind("TF_", 0) == 0)
  {
    setters.push_back(std::this_thread::get_id());
  }
  const auto real = reinterpret_cast<int (*)(const char*, const char*, int)>(dlsym(RTLD_NEXT, "setenv"));
  return real(name, value, overwrite);
}

int main(int argc, char* argv[])
{
  const std::map<std::string, void (*)()> tests{{"grid", GridTest},           {"patch", PatchTest},
                                                {"reader", ReaderTest},       {"stream", StreamTest},
                                                {"selection", SelectionTest}, {"wire", WireTest},
                                                {"frozen", FrozenGraphTest},  {"sidecar", SidecarTest},
                                                {"library", LibraryTest},     {"conversion", ConversionTest},
                                                {"tensor", TensorTest},       {"placeholder", PlaceholderTest},
                                                {"writing", WritingTest},     {"serving", ServingTest},
                                                {"kept", KeptTest},           {"cache", CacheTest}};
  const auto test = tests.find(argc > 1 ? argv[1] : "");
  if (test == tests.end())
  {
    std::cerr << "no such test\n";
    return 2;
  }
  test->second();
  return failures == 0 ? 0 : 1;
}
