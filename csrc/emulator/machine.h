// The emulated multiprocessor: one block at a time, its threads as fibers, 32 of them a warp.
//
// A thread runs until it waits: at a barrier for its block, at a warp operation for the lanes of its mask. Then another
// thread of its warp goes on, or, if all of them wait, another warp. Who goes first, and in which order blocks run, is
// drawn from SPLATLEARN_EMULATOR_SEED (0 or unset: ascending), so that what depends on an order that the kernel does
// not enforce differs between seeds. Shared memory holds NaNs when a block begins. What could not go on, or would be
// undefined on a GPU, fails the launch with a message; nothing hangs. One launch runs at a time in a process.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "fiber.h"
#include "types.h"

namespace splatlearn_emulator {

constexpr int kWarpSize = 32, kMaxThreads = 1024, kMaxWarps = kMaxThreads / kWarpSize;
constexpr size_t kSharedBytes = 48 << 10;  // what a block may declare statically on every GPU

// Where a thread waits: what it called there, in source.
struct Site {
    const char *operation, *file;
    int line;
};

struct Thread {
    Fiber fiber;
    uint3 index;
    int warp, lane;
};

enum class Exchange { kShuffle, kBallot, kAdd, kMin, kMax, kAnd, kOr, kXor, kMatch, kSync };

struct Warp {
    uint32_t alive, ready, waiting;  // lanes that have not returned; that can go on; that wait at a warp operation
    int first_lane;                  // the schedule: where the search for the next lane begins, and its direction
    bool down;
    const Site *site[kWarpSize];  // of the operation that a lane waits at, here and below; on that lane's stack
    Exchange exchange[kWarpSize];
    uint32_t mask[kWarpSize];
    int source[kWarpSize];
    uint64_t value[kWarpSize], result[kWarpSize];
};

// A shared array's declaration in a kernel, and where this block has it.
struct SharedArray {
    uint64_t block;
    void *data;
};

struct Machine {
    // What kernels read.
    Thread *current;
    uint3 block_index;
    dim3 block_dim, grid_dim;

    // Waits for the whole block; returns how many threads brought a true predicate.
    int barrier(bool predicate, const Site &site);
    // Waits for the lanes of `mask`, which bring a value each, and returns what this lane gets.
    uint64_t exchange(Exchange what, uint32_t mask, uint64_t value, int source, const Site &site);
    // This block's memory of a shared array.
    void *shared(SharedArray &array, size_t bytes, size_t alignment);
    // Runs a grid; false: it failed, and message() says why.
    bool run(const char *kernel, dim3 grid, dim3 block, void (*call)(const void *), const void *arguments);
    static const char *message();
};

extern Machine machine;

}  // namespace splatlearn_emulator
