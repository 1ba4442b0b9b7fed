// Scratch memory that a thread keeps from call to call: pages that are freed and asked for again in each step cost more
// than they hold.
#pragma once
#include <cstddef>

namespace splatlearn_scratch {

// At least so many bytes, aligned to a cache line; null where there is no memory.
void *take_scratch(size_t bytes);
// Gives back what `take_scratch` gave to this thread. A block that many later calls found no use for is freed.
void give_scratch(void *block);

}  // namespace splatlearn_scratch

using splatlearn_scratch::give_scratch;
using splatlearn_scratch::take_scratch;
