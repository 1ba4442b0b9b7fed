// What the emulator says when a launch fails: the kernel, the block, the reason, and where the block's threads are.
#include <stdarg.h>
#include <stdio.h>

#include "state.h"

namespace splatlearn_emulator {
namespace {

SPLATLEARN_UNWATCHED void append(const char *format, va_list values) {
    const size_t length = strlen(state.message);
    vsnprintf(state.message + length, sizeof state.message - length, format, values);
}

SPLATLEARN_UNWATCHED const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// What a thread of the block does.
struct Doing {
    bool returned;
    const Site *site;  // null: it runs
    bool in_warp;      // waits for its warp, not for its block
    uint32_t mask;
};

SPLATLEARN_UNWATCHED Doing doing(int thread) {
    const Warp &warp = state.warps[thread / kWarpSize];
    const int lane = thread % kWarpSize;
    if (!(warp.alive >> lane & 1)) return {true, nullptr, false, 0};
    if (warp.ready >> lane & 1) return {false, nullptr, false, 0};
    if (warp.waiting >> lane & 1) return {false, warp.site[lane], true, warp.mask[lane]};
    return {false, state.barrier_site[thread], false, 0};
}

SPLATLEARN_UNWATCHED bool same(const Doing &a, const Doing &b) {
    if (a.returned != b.returned || a.in_warp != b.in_warp || a.mask != b.mask || !a.site != !b.site) return false;
    return !a.site || (a.site->line == b.site->line && !differ(a.site->operation, b.site->operation));
}

// One phrase for all threads that do the same.
SPLATLEARN_UNWATCHED void say_where_threads_are() {
    bool told[kMaxThreads] = {};
    for (int i = 0, phrases = 0; i < state.thread_count && phrases < 6; ++i) {
        if (told[i]) continue;
        const Doing what = doing(i);
        int count = 0;
        for (int j = i; j < state.thread_count; ++j)
            if (!told[j] && same(what, doing(j))) told[j] = true, ++count;
        const uint3 &at = state.threads[i].index;
        say("%s %d thread%s from (%u,%u,%u) ", phrases++ ? "," : ":", count, count == 1 ? "" : "s", at.x, at.y, at.z);
        if (what.returned)
            say(count == 1 ? "has returned" : "have returned");
        else if (!what.site)
            say(count == 1 ? "runs" : "run");
        else
            say("at %s", what.site->operation);
        if (what.in_warp) say(" with mask 0x%08x", what.mask);
        if (what.site) say(" (%s:%d)", file_name(what.site->file), what.site->line);
    }
}
}  // namespace

SPLATLEARN_UNWATCHED void say(const char *format, ...) {
    va_list values;
    va_start(values, format);
    append(format, values);
    va_end(values);
}

SPLATLEARN_UNWATCHED void fail(const char *what, ...) {
    const uint3 &block = machine.block_index;
    state.message[0] = 0;
    say("kernel %s, block (%u,%u,%u): ", state.kernel, block.x, block.y, block.z);
    va_list values;
    va_start(values, what);
    append(what, values);
    va_end(values);
    say_where_threads_are();
    state.failed = true;
    state.prepared = 0;
    release(kEnds);
    change(machine.current->fiber, state.host);
    __builtin_unreachable();
}

}  // namespace splatlearn_emulator
