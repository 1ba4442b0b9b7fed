// Warp operations: lanes come together, and the last to come computes what each of them gets.
#include "state.h"

namespace splatlearn_emulator {
namespace {

// All lanes of the mask are there: gives each its result.
SPLATLEARN_UNWATCHED void complete(Warp &warp, int me) {
    const uint32_t mask = warp.mask[me];
    const Site &site = *warp.site[me];
    const Exchange what = warp.exchange[me];
    uint64_t all = what == Exchange::kMin || what == Exchange::kAnd ? 0xffffffffu : 0;  // neutral to what follows
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        const int lane = __builtin_ctz(rest);
        if (warp.mask[lane] != mask || warp.exchange[lane] != what || warp.site[lane]->line != site.line)
            fail("lanes of a warp that name each other wait at different operations or with different masks");
        const uint64_t value = warp.value[lane];
        switch (what) {
            case Exchange::kShuffle: {
                const int source = warp.source[lane];
                if (!(mask >> source & 1))
                    fail("%s reads lane %d, which mask 0x%08x leaves out", site.operation, source, mask);
                warp.result[lane] = warp.value[source];
                break;
            }
            case Exchange::kMatch:
                warp.result[lane] = 0;
                for (uint32_t others = mask; others; others &= others - 1) {
                    const int other = __builtin_ctz(others);
                    if (warp.value[other] == value) warp.result[lane] |= 1u << other;
                }
                break;
            case Exchange::kBallot: all |= uint64_t(value != 0) << lane; break;
            case Exchange::kAdd: all = uint32_t(all + value); break;
            case Exchange::kMin: all = value < all ? value : all; break;
            case Exchange::kMax: all = value > all ? value : all; break;
            case Exchange::kAnd: all &= value; break;
            case Exchange::kOr: all |= value; break;
            case Exchange::kXor: all ^= value; break;
            case Exchange::kSync: break;
        }
    }
    if (what != Exchange::kShuffle && what != Exchange::kMatch)
        for (uint32_t rest = mask; rest; rest &= rest - 1) warp.result[__builtin_ctz(rest)] = all;
}

}  // namespace

SPLATLEARN_UNWATCHED uint64_t Machine::exchange(Exchange what, uint32_t mask, uint64_t value, int source,
                                                const Site &site) {
    Warp &warp = state.warps[current->warp];
    const int lane = current->lane;
    const uint32_t me = 1u << lane;
    warp.site[lane] = &site;
    warp.exchange[lane] = what;
    warp.mask[lane] = mask;
    warp.source[lane] = source;
    warp.value[lane] = value;
    warp.waiting |= me;
    if (!(mask & me)) fail("lane %d calls %s with mask 0x%08x, which leaves it out", lane, site.operation, mask);
    if (mask & ~warp.alive)
        fail("%s with mask 0x%08x, which names lanes that have returned or never were", site.operation, mask);
#if defined(__SANITIZE_THREAD__)
    // Only __syncwarp orders memory; a group has a place of its own among the alternating ones, by the parity of its
    // rounds.
    static char tokens[kMaxWarps][kWarpSize][2];
    static unsigned rounds[kMaxWarps][kWarpSize];
    const int group = __builtin_ctz(mask);
    char *token = &tokens[current->warp][group][rounds[current->warp][group] & 1];
    if (what == Exchange::kSync) __tsan_release(token);
#endif
    if (mask & ~warp.waiting) {
        wait();
    } else {
        complete(warp, lane);
        warp.waiting &= ~mask;
        warp.ready |= mask & ~me;
#if defined(__SANITIZE_THREAD__)
        if (what == Exchange::kSync) ++rounds[current->warp][group];
#endif
        shuffle_lanes(warp);
        step_back(warp);
    }
#if defined(__SANITIZE_THREAD__)
    if (what == Exchange::kSync) __tsan_acquire(token);
#endif
    return warp.result[lane];
}

}  // namespace splatlearn_emulator
