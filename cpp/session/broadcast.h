// One send to many connections.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "iocp/connection.h"

namespace iocp {

// Sends `data` to each of `to`, of whatever server, and returns how many have accepted it. Only
// those whose backlog was full are left in `to`, and are counted by their servers. Throws
// std::bad_alloc when there is no memory: some may have accepted it then. Any thread.
std::size_t SendToEach(std::string_view data, std::vector<ConnectionPtr>& to);

// Leaves each connection in `connections` once, in any order, and no null.
void RemoveDuplicates(std::vector<ConnectionPtr>& connections);

}  // namespace iocp
