// The scratch memory of scratch.h: a few blocks a thread, the smallest that is large enough is given, and what lies
// idle is freed.
#include "scratch.h"

#include <cstdint>
#include <cstdlib>

namespace splatlearn_scratch {
namespace {

constexpr int kBlocks = 16;  // a call holds at most six
constexpr uint64_t kIdle =
    256;  // takes after which a block that was of no use to them is freed: some twenty training steps
constexpr size_t kLine = 64;

struct Block {
    void *memory;
    size_t bytes;
    uint64_t used;  // the thread's count of takes when it was given last
    bool taken;
};

struct Kept {
    Block blocks[kBlocks] = {};
    uint64_t takes = 0;

    ~Kept() {
        for (Block &block : blocks) free(block.memory);
    }

    void *take(size_t bytes) {
        ++takes;
        Block *best = nullptr, *spare = nullptr;
        for (Block &block : blocks) {
            if (block.taken) continue;
            if (block.memory && takes - block.used > kIdle) drop(block);
            if (block.memory && block.bytes >= bytes && (!best || block.bytes < best->bytes)) best = &block;
            if (!spare || block.bytes < spare->bytes) spare = &block;
        }
        if (!best) {
            if (!spare) return nullptr;
            drop(*spare);
            const size_t grown = (bytes + bytes / 8 + kLine) / kLine * kLine;  // views differ a little
            spare->memory = aligned_alloc(kLine, grown);
            if (!spare->memory) return nullptr;
            spare->bytes = grown;
            best = spare;
        }
        best->taken = true;
        best->used = takes;
        return best->memory;
    }

    void give(void *memory) {
        for (Block &block : blocks)
            if (memory && block.memory == memory) block.taken = false;
    }

    static void drop(Block &block) {
        free(block.memory);
        block = {};
    }
};

thread_local Kept kept;

}  // namespace

void *take_scratch(size_t bytes) { return kept.take(bytes); }
void give_scratch(void *block) { kept.give(block); }

}  // namespace splatlearn_scratch
