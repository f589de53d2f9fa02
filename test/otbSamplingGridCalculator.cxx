/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
// SamplingGrid at the command line, for tests in Python (test/python/test_sampling_grid.py): a request a line on standard input, an answer
// a line on standard output. A grid is "corner x y, spacing x y, index x y, size x y", a region "index x y, size x y", all without commas.
#include "otbSamplingGrid.h"

#include "itkImage.h"

#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <map>
#include <sstream>

namespace
{
using otb::SamplingGrid;

template <class T>
T Read(std::istream& from)
{
  T value{};
  from >> value;
  return value;
}

// "inf" and "nan" too, which operator>> does not read
template <>
double Read<double>(std::istream& from)
{
  return std::strtod(Read<std::string>(from).c_str(), nullptr);
}

template <>
SamplingGrid::PointType Read(std::istream& from)
{
  SamplingGrid::PointType point;
  point[0] = Read<double>(from);
  point[1] = Read<double>(from);
  return point;
}

template <>
SamplingGrid::RegionType Read(std::istream& from)
{
  SamplingGrid::RegionType region;
  region.SetIndex(0, Read<SamplingGrid::IndexValue>(from));
  region.SetIndex(1, Read<SamplingGrid::IndexValue>(from));
  region.SetSize(0, Read<SamplingGrid::SizeValue>(from));
  region.SetSize(1, Read<SamplingGrid::SizeValue>(from));
  return region;
}

template <>
SamplingGrid Read(std::istream& from)
{
  const auto corner = Read<SamplingGrid::PointType>(from);
  SamplingGrid::SpacingType spacing;
  spacing[0] = Read<double>(from);
  spacing[1] = Read<double>(from);
  return SamplingGrid(corner, spacing, Read<SamplingGrid::RegionType>(from));
}

std::ostream& operator<<(std::ostream& to, const SamplingGrid::RegionType& region)
{
  return to << region.GetIndex(0) << ' ' << region.GetIndex(1) << ' ' << region.GetSize(0) << ' ' << region.GetSize(1);
}

std::ostream& operator<<(std::ostream& to, const SamplingGrid& grid)
{
  const auto &corner = grid.GetCorner(), spacing = SamplingGrid::PointType(grid.GetSpacing());
  to << corner[0] << ' ' << corner[1] << ' ' << spacing[0] << ' ' << spacing[1] << ' ';
  return to << grid.GetRegion();
}

void Answer(const std::string& operation, std::istream& from, std::ostream& to)
{
  const auto grid = Read<SamplingGrid>(from);
  if (operation == "refined")
  {
    to << grid.Refined(Read<unsigned int>(from));
  }
  else if (operation == "scaled")
  {
    to << grid.Scaled(Read<double>(from));
  }
  else if (operation == "cropped")
  {
    to << grid.Cropped(Read<SamplingGrid::RegionType>(from));
  }
  else if (operation == "image") // there and back
  {
    auto image = itk::Image<float, 2>::New();
    grid.ApplyTo(image);
    to << SamplingGrid::FromImage(image);
  }
  else if (operation == "position")
  {
    const auto position = grid.PositionOf(Read<SamplingGrid::PointType>(from));
    to << position[0] << ' ' << position[1];
  }
  else if (operation == "footprint")
  {
    const auto footprint = grid.FootprintOf(Read<SamplingGrid::RegionType>(from));
    to << footprint.first[0] << ' ' << footprint.first[1] << ' ' << footprint.last[0] << ' ' << footprint.last[1];
  }
  else if (operation == "region")
  {
    SamplingGrid::Footprint footprint;
    footprint.first = Read<SamplingGrid::PointType>(from);
    footprint.last = Read<SamplingGrid::PointType>(from);
    SamplingGrid::RegionType region;
    std::string why;
    if (grid.RegionOf(footprint, region, why))
    {
      to << region;
    }
    else
    {
      to << "none " << why;
    }
  }
  else if (operation == "patch")
  {
    const auto point = Read<SamplingGrid::PointType>(from);
    const auto width = Read<SamplingGrid::SizeValue>(from), height = Read<SamplingGrid::SizeValue>(from);
    to << grid.PatchAround(point, width, height);
  }
  else if (operation == "same")
  {
    to << grid.IsSame(Read<SamplingGrid>(from));
  }
  else if (operation == "pair")
  {
    using Status = otb::PatchPair::Status;
    const std::map<Status, std::string> names{{Status::Accepted, "accepted"},
                                              {Status::OutsideCoarse, "outside coarse"},
                                              {Status::OutsideFine, "outside fine"},
                                              {Status::NotNested, "not nested"}};
    const auto fine = Read<SamplingGrid>(from);
    const auto point = Read<SamplingGrid::PointType>(from);
    const auto width = Read<SamplingGrid::SizeValue>(from), height = Read<SamplingGrid::SizeValue>(from);
    const auto pair = otb::EqualFootprintPatches(grid, fine, point, width, height);
    to << names.at(pair.status);
    if (pair.status == Status::Accepted)
    {
      to << ' ' << pair.coarse << ' ' << pair.fine;
    }
  }
  else
  {
    to << "no such operation";
  }
}
} // namespace

int main()
{
  for (std::string line; std::getline(std::cin, line);)
  {
    std::istringstream from(line);
    std::ostringstream to;
    to << std::setprecision(17);
    try
    {
      Answer(Read<std::string>(from), from, to);
    }
    catch (const otb::SamplingGridError& error)
    {
      to.str(std::string("error ") + error.what());
    }
    std::cout << to.str() << std::endl;
  }
  return 0;
}
