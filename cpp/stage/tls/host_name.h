// Names of hosts, in the one form in which they are kept, compared and sent.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace iocp {

inline constexpr std::size_t kMostHostName = 255;

// In lower case, and without the dot that may stand at the end.
inline std::string NormalHostName(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  std::string normal(name);
  for (char& c : normal) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return normal;
}

// Whether `normal` can be the name of one host.
inline bool IsHostName(std::string_view normal) {
  return !normal.empty() && normal.size() <= kMostHostName && normal.front() != '.' &&
         std::all_of(normal.begin(), normal.end(),
                     [](char c) { return c > ' ' && c < 0x7f && c != '*' && c != ':'; });
}

}  // namespace iocp
