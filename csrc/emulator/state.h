// What the files of the emulator share and kernels do not see: its state, the schedule, and how it reports and fails.
#pragma once
#include <string.h>

#include "machine.h"

namespace splatlearn_emulator {

// Places where memory is ordered: a block's begin and end, and the barrier, whose rounds alternate between two.
enum Token { kBegins, kEnds, kRounds };

// The emulator's own state, beside what kernels read.
struct State {
    Thread threads[kMaxThreads];
    Warp warps[kMaxWarps];
    Fiber host;
    int prepared;  // threads whose fibers stand ready
    int thread_count, warp_count, returned;
    uint32_t ready_warps;
    int first_warp;  // the schedule among warps, as in Warp
    bool down;
    uint64_t random;  // 0: ascending order
    // The barrier: who has arrived, and what the last round counted.
    int arrived, votes, counted;
    const Site *barrier_site[kMaxThreads];  // null: does not wait at the barrier
    Thread *first_at_barrier;
    // The launch.
    const char *kernel;
    void (*call)(const void *);
    const void *arguments;
    bool failed;
    char message[2048];
    uint64_t block;  // counts blocks of all launches
    size_t shared_used, shared_declared, shared_filled;
    int round;       // of the barrier
    char tokens[4];  // for release and acquire
};

extern State state;

// Appends to the message of the launch, which is cut off when it is full.
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

// Ends the launch with a message: what is wrong, and where the block's threads are, which are left there.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char *what, ...);

// Literals that are the same text mostly lie at the same place.
SPLATLEARN_UNWATCHED inline bool differ(const char *a, const char *b) { return a != b && strcmp(a, b); }

// ---- what TSan is told: who acquires sees what those have written who released before ----

SPLATLEARN_UNWATCHED inline void release(int token) {
#if defined(__SANITIZE_THREAD__)
    __tsan_release(&state.tokens[token]);
#else
    (void)token;
#endif
}

SPLATLEARN_UNWATCHED inline void acquire(int token) {
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&state.tokens[token]);
#else
    (void)token;
#endif
}

// ---- the schedule ----

SPLATLEARN_UNWATCHED inline uint32_t draw() {
    state.random ^= state.random << 13, state.random ^= state.random >> 7, state.random ^= state.random << 17;
    return uint32_t(state.random >> 32);
}

// The first bit of a mask that is not 0, from bit `first` on around, up or down.
SPLATLEARN_UNWATCHED inline int pick(uint32_t mask, int first, bool down) {
    if (!down) return (__builtin_ctz(mask >> first | (first ? mask << (32 - first) : 0)) + first) & 31;
    const int up = 31 - first;
    return (first - __builtin_clz(mask << up | (up ? mask >> (32 - up) : 0))) & 31;
}

SPLATLEARN_UNWATCHED inline void shuffle_lanes(Warp &warp) {
    if (!state.random) return;
    const uint32_t drawn = draw();
    warp.first_lane = drawn & 31, warp.down = drawn >> 5 & 1;
}

SPLATLEARN_UNWATCHED inline void shuffle_warps() {
    if (!state.random) return;
    const uint32_t drawn = draw();
    state.first_warp = int(drawn % unsigned(state.warp_count)), state.down = drawn >> 31;
}

// The thread that goes on after the current one waits, has returned or steps back; null: none can.
SPLATLEARN_UNWATCHED inline Thread *next(Warp *warp) {
    if (!warp || !warp->ready) {
        if (warp) state.ready_warps &= ~(1u << (warp - state.warps));
        if (!state.ready_warps) return nullptr;
        warp = &state.warps[pick(state.ready_warps, state.first_warp, state.down)];
    }
    const int lane = pick(warp->ready, warp->first_lane, warp->down);
    warp->ready &= ~(1u << lane);
    return &state.threads[(warp - state.warps) * kWarpSize + lane];
}

SPLATLEARN_UNWATCHED inline void go_to(Thread *thread) {
    Thread *from = machine.current;
    if (thread == from) return;
    machine.current = thread;
    change(from->fiber, thread->fiber);
}

// The current thread waits; comes back when it may go on.
SPLATLEARN_UNWATCHED inline void wait() {
    Thread *thread = next(&state.warps[machine.current->warp]);
    if (!thread) fail("its threads wait for each other for ever");
    go_to(thread);
}

// Lets other warps go first, now and then, so that warps do not always keep their distance.
SPLATLEARN_UNWATCHED inline void step_back(Warp &warp) {
    if (!state.random || draw() & 7) return;
    warp.ready |= 1u << machine.current->lane;
    state.ready_warps |= 1u << machine.current->warp;
    shuffle_warps();
    go_to(next(nullptr));
}

}  // namespace splatlearn_emulator
