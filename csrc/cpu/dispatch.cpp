// The CPU library's C entry points: each goes to the best instruction-set level that this processor has. With
// SPLATLEARN_PORTABLE there is a single level, as on other processors than x86-64.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "../abi.h"

#if defined(__x86_64__) && !defined(SPLATLEARN_PORTABLE)
#define SPLATLEARN_LEVELS(level) level(v2) level(v3) level(v4)
#else
#define SPLATLEARN_LEVELS(level) level(portable)
#endif

#define SPLATLEARN_DECLARE(name, Params) int name(const Params &params);
#define SPLATLEARN_DECLARE_LEVEL(level) \
    namespace splatlearn_##level { \
        SPLATLEARN_STAGES(SPLATLEARN_DECLARE) double multiply_adds(int threads, int64_t rounds); \
    }
SPLATLEARN_LEVELS(SPLATLEARN_DECLARE_LEVEL)

namespace {

struct Level {
    const char *name;
    bool supported;
    double (*multiply_adds)(int, int64_t);
#define SPLATLEARN_POINTER(name, Params) int (*name)(const Params &);
    SPLATLEARN_STAGES(SPLATLEARN_POINTER)
};

#define SPLATLEARN_FUNCTION(name, Params) SPLATLEARN_HERE::name,
#define SPLATLEARN_EXPORT __attribute__((visibility("default")))

// The best supported level, or the one that SPLATLEARN_ISA names, for tests and comparisons.
const Level &chosen() {
#if defined(__x86_64__) && !defined(SPLATLEARN_PORTABLE)
    static const Level levels[] = {
#define SPLATLEARN_HERE splatlearn_v4
        {"x86-64-v4", __builtin_cpu_supports("x86-64-v4") != 0, SPLATLEARN_HERE::multiply_adds,
         SPLATLEARN_STAGES(SPLATLEARN_FUNCTION)},
#undef SPLATLEARN_HERE
#define SPLATLEARN_HERE splatlearn_v3
        {"x86-64-v3", __builtin_cpu_supports("x86-64-v3") != 0, SPLATLEARN_HERE::multiply_adds,
         SPLATLEARN_STAGES(SPLATLEARN_FUNCTION)},
#undef SPLATLEARN_HERE
#define SPLATLEARN_HERE splatlearn_v2
        {"x86-64-v2", true, SPLATLEARN_HERE::multiply_adds, SPLATLEARN_STAGES(SPLATLEARN_FUNCTION)},
#undef SPLATLEARN_HERE
    };
#else
#define SPLATLEARN_HERE splatlearn_portable
    static const Level levels[] = {
        {"portable", true, SPLATLEARN_HERE::multiply_adds, SPLATLEARN_STAGES(SPLATLEARN_FUNCTION)}};
#undef SPLATLEARN_HERE
#endif
    static const Level *const best = [] {
        const char *wanted = getenv("SPLATLEARN_ISA");
        for (const Level &level : levels)
            if (level.supported && (!wanted || strcmp(wanted, level.name) == 0)) return &level;
        return &levels[sizeof levels / sizeof levels[0] - 1];
    }();
    return *best;
}

}  // namespace

extern "C" {

SPLATLEARN_EXPORT const char *splatlearn_isa_level() { return chosen().name; }

// Makes multiply-adds on so many threads, and returns how many operations they were: csrc/cpu/peak.cpp.
SPLATLEARN_EXPORT double splatlearn_multiply_adds(int threads, int64_t rounds) {
    return chosen().multiply_adds(threads, rounds);
}

SPLATLEARN_EXPORT const char *splatlearn_error(int code) {
    switch (code) {
        case -1: return "the native library could not allocate its scratch memory";
        case -2: return "the native library takes float32 and float64 tensors only";
        case -3: return "more than 16777216 Gaussians fall into a single 16x16 tile";
        case -4: return "the native library has no camera model of this number";
        default: return "the native library failed";
    }
}

#define SPLATLEARN_ENTRY(name, Params) \
    SPLATLEARN_EXPORT int splatlearn_##name(const Params *params) { return chosen().name(*params); }
SPLATLEARN_STAGES(SPLATLEARN_ENTRY)
}
