/*
 * Copyright (C) 2026 The otbsr developers
 * SPDX-License-Identifier: Apache-2.0
 */
#include "otbUnfinishedFiles.h"

#include "otbServedImage.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <memory>
#include <mutex>

namespace otb
{
namespace
{

constexpr std::array<int, 3> Signals{{SIGINT, SIGTERM, SIGHUP}};

/** The objects that live, in places that the handler can read: applications in one process may write at the same time. Who takes a pointer
 * out owns it, so that the handler and a destructor in another thread do not meet. */
std::array<std::atomic<UnfinishedFiles::Files*>, 16> places{};

std::mutex mutex; ///< for what follows
std::size_t living = 0;
std::array<bool, Signals.size()> isOurs{};

void Remove(const UnfinishedFiles::File& file)
{
  struct stat now;
  if (lstat(file.name.c_str(), &now) != 0 || !S_ISREG(now.st_mode))
  {
    return;
  }
  const auto& before = file.before;
  const bool isAsBefore = file.existed && now.st_ino == before.st_ino && now.st_size == before.st_size &&
                          now.st_mtim.tv_sec == before.st_mtim.tv_sec && now.st_mtim.tv_nsec == before.st_mtim.tv_nsec;
  if (!isAsBefore)
  {
    unlink(file.name.c_str());
  }
}

/** SA_RESETHAND has put the default action back: the signal that is raised here ends the process when the handler returns. */
void Handle(int signal)
{
  const int error = errno;
  for (auto& place : places)
  {
    if (const auto* files = place.exchange(nullptr)) // never freed: the process ends
    {
      for (const auto& file : *files)
      {
        Remove(file);
      }
    }
  }
  raise(signal);
  errno = error;
}

void Install()
{
  for (std::size_t k = 0; k < Signals.size(); ++k)
  {
    struct sigaction action = {};
    isOurs[k] = sigaction(Signals[k], nullptr, &action) == 0 && (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_DFL;
    if (isOurs[k])
    {
      action = {};
      action.sa_handler = &Handle;
      action.sa_flags = SA_RESETHAND | SA_RESTART;
      sigfillset(&action.sa_mask);
      sigaction(Signals[k], &action, nullptr);
    }
  }
}

void Uninstall()
{
  for (std::size_t k = 0; k < Signals.size(); ++k)
  {
    struct sigaction action = {};
    const bool isThere = isOurs[k] && sigaction(Signals[k], nullptr, &action) == 0 && action.sa_handler == &Handle;
    if (isThere) // and no other's since
    {
      action = {};
      action.sa_handler = SIG_DFL;
      sigaction(Signals[k], &action, nullptr);
    }
  }
}

} // namespace

UnfinishedFiles::UnfinishedFiles(const std::vector<std::string>& extendedNames)
{
  auto files = std::make_unique<Files>();
  for (const auto& extendedName : extendedNames)
  {
    for (const auto* const ending : {"", ".aux.xml"})
    {
      File file;
      file.name = FileOfExtendedName(extendedName) + ending;
      file.existed = lstat(file.name.c_str(), &file.before) == 0;
      files->push_back(file);
    }
  }
  const std::lock_guard<std::mutex> lock(mutex);
  for (m_Place = 0; m_Place < places.size(); ++m_Place)
  {
    Files* expected = nullptr;
    if (places[m_Place].compare_exchange_strong(expected, files.get()))
    {
      m_Files = files.release();
      break;
    }
  }
  if (++living == 1)
  {
    Install();
  }
}

UnfinishedFiles::~UnfinishedFiles()
{
  const std::lock_guard<std::mutex> lock(mutex);
  if (--living == 0)
  {
    Uninstall();
  }
  Files* expected = m_Files;
  if (m_Files != nullptr && places[m_Place].compare_exchange_strong(expected, nullptr))
  {
    delete m_Files;
  }
}

} // namespace otb
