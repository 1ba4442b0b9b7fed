// How the emulated multiprocessor runs a grid: blocks one by one, their threads, barriers and shared memory
// (machine.h).
#include <mutex>
#include <stdio.h>
#include <stdlib.h>

#include "state.h"

namespace splatlearn_emulator {

Machine machine;
State state;

namespace {

constexpr size_t kRedZone = 128;  // between shared arrays, unreadable under ASan
constexpr size_t kArenaBytes = 2 * kSharedBytes + 64 * kRedZone;

alignas(128) char arena[kArenaBytes];

inline void hide(const void *data, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(data, bytes);
#else
    (void)data, (void)bytes;
#endif
}

inline void unhide(const void *data, size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(data, bytes);
#else
    (void)data, (void)bytes;
#endif
}

// ---- threads ----

SPLATLEARN_UNWATCHED void thread_returned() {
    Thread &thread = *machine.current;
    Warp &warp = state.warps[thread.warp];
    warp.alive &= ~(1u << thread.lane);
    ++state.returned;
    if (state.arrived) fail("a thread returned while others wait at a barrier");
    release(kEnds);
    Thread *following = next(&warp);
    if (following) return go_to(following);
    if (state.returned < state.thread_count) fail("its threads wait for each other for ever");
    change(thread.fiber, state.host);
}

// What a fiber does: a thread of one block, then of the next one that needs it.
SPLATLEARN_UNWATCHED void thread_main() {
    entered();
    for (;;) {
        acquire(kBegins);
        state.call(state.arguments);
        thread_returned();
    }
}

// Makes the threads of a block of this shape.
SPLATLEARN_UNWATCHED bool prepare_threads(dim3 block) {
    state.thread_count = int(block.x * block.y * block.z);
    state.warp_count = (state.thread_count + kWarpSize - 1) / kWarpSize;
    for (int i = 0; i < state.thread_count; ++i) {
        Thread &thread = state.threads[i];
        thread.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
        thread.warp = i / kWarpSize, thread.lane = i % kWarpSize;
        if (i >= state.prepared && !prepare(thread.fiber, i, thread_main)) return false;
    }
    if (state.prepared < state.thread_count) state.prepared = state.thread_count;
    return true;
}

SPLATLEARN_UNWATCHED void run_block(uint3 index) {
    machine.block_index = index;
    ++state.block;
    unhide(arena, kArenaBytes);
    if (!state.shared_filled) state.shared_filled = kArenaBytes;  // the first block tells how much this kernel needs
    memset(arena, 0xff, state.shared_filled);
    hide(arena, kArenaBytes);
    state.shared_used = state.shared_declared = 0;
    state.returned = state.arrived = state.votes = 0;
    state.ready_warps = 0;
    memset(state.barrier_site, 0, sizeof state.barrier_site);
    for (int w = 0; w < state.warp_count; ++w) {
        Warp &warp = state.warps[w];
        const int lanes = state.thread_count - w * kWarpSize;
        warp.alive = warp.ready = lanes >= kWarpSize ? 0xffffffffu : (1u << lanes) - 1;
        warp.waiting = 0;
        state.ready_warps |= 1u << w;
        shuffle_lanes(warp);
    }
    shuffle_warps();
    release(kBegins);
    Thread *first = next(nullptr);
    machine.current = first;
    change(state.host, first->fiber);
    acquire(kEnds);
    state.shared_filled = state.shared_used ? state.shared_used : 1;
}

uint64_t common_divisor(uint64_t a, uint64_t b) { return b ? common_divisor(b, a % b) : a; }

// Begins the schedule that the seed stands for.
void seed_schedule() {
    const char *text = getenv("SPLATLEARN_EMULATOR_SEED");
    const uint64_t seed = text ? strtoull(text, nullptr, 10) : 0;
    state.random = seed * 0x9e3779b97f4a7c15u;
    for (int w = 0; w < kMaxWarps; ++w) state.warps[w].first_lane = 0, state.warps[w].down = false;
    state.first_warp = 0, state.down = false;
}

}  // namespace

SPLATLEARN_UNWATCHED int Machine::barrier(bool predicate, const Site &site) {
    const int me = int(current - state.threads);
    state.barrier_site[me] = &site;
    if (state.returned) fail("a barrier that not all threads of the block reach");
    if (!state.arrived) state.first_at_barrier = current;
    const Site &first = *state.barrier_site[state.first_at_barrier - state.threads];
    if (first.line != site.line || differ(first.operation, site.operation) || differ(first.file, site.file))
        fail("threads wait at different barriers");
    state.votes += predicate;
    const int token = kRounds + (state.round & 1);  // rounds alternate: who is late in one must not learn of the next
    release(token);
    if (++state.arrived < state.thread_count) {
        wait();
    } else {
        state.counted = state.votes;
        state.arrived = state.votes = 0;
        ++state.round;
        for (int w = 0; w < state.warp_count; ++w) {
            state.warps[w].ready = state.warps[w].alive;
            state.ready_warps |= 1u << w;
            shuffle_lanes(state.warps[w]);
        }
        shuffle_warps();
        if (state.random)
            go_to(next(nullptr));
        else
            state.warps[current->warp].ready &= ~(1u << current->lane);
    }
    state.barrier_site[me] = nullptr;
    acquire(token);
    return state.counted;
}

SPLATLEARN_UNWATCHED void *Machine::shared(SharedArray &array, size_t bytes, size_t alignment) {
    if (array.block != state.block) {
        if (alignment < 16) alignment = 16;
        state.shared_declared = (state.shared_declared + alignment - 1) / alignment * alignment + bytes;
        const size_t begin = (state.shared_used + kRedZone + alignment - 1) / alignment * alignment;
        if (state.shared_declared > kSharedBytes || begin + bytes + kRedZone > kArenaBytes)
            fail("it declares %zu bytes of shared memory or more; a block has %zu", state.shared_declared,
                 kSharedBytes);
        array.data = arena + begin;
        array.block = state.block;
        state.shared_used = begin + bytes;
        unhide(array.data, bytes);
        if (state.shared_used > state.shared_filled) memset(array.data, 0xff, bytes);  // a block that declares more
    }
    return array.data;
}

SPLATLEARN_UNWATCHED bool Machine::run(const char *kernel, dim3 grid, dim3 block, void (*call)(const void *),
                                       const void *arguments) {
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const int length = int(strlen(kernel)), bare = length > 1 && kernel[0] == '(' ? 1 : 0;
    char name[256];
    snprintf(name, sizeof name, "%.*s", length - 2 * bare, kernel + bare);
    state.kernel = name;
    state.message[0] = 0;
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (!threads || threads > kMaxThreads || block.z > 64 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        say("kernel %s: no GPU launches a grid of %ux%ux%u blocks of %ux%ux%u threads", name, grid.x, grid.y, grid.z,
            block.x, block.y, block.z);
        return false;
    }
    if (!prepare_threads(block)) {
        say("kernel %s: no memory for the stacks of a block's threads", name);
        return false;
    }
    state.call = call, state.arguments = arguments, state.failed = false, state.shared_filled = 0;
    block_dim = block, grid_dim = grid;
    seed_schedule();
    adopt(state.host);
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    uint64_t at = 0, step = 1;
    if (state.random) {
        at = draw() % blocks;
        do step = 1 + draw() % blocks;
        while (common_divisor(step, blocks) != 1);
    }
    for (uint64_t i = 0; i < blocks && !state.failed; ++i, at = (at + step) % blocks)
        run_block({unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)});
    return !state.failed;
}

const char *Machine::message() { return state.message; }

}  // namespace splatlearn_emulator
