// The CPU library's C entry points: each goes to the best instruction-set level that this processor has. With
// SPLATLEARN_PORTABLE there is a single level, as on processors other than x86-64 and AArch64.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "../abi.h"

// level(namespace, name, whether the processor has it, whether results have the bits that all such levels share). The
// best come first. Of two levels of one name the second is for those who ask for these bits.
#if defined(SPLATLEARN_PORTABLE)
#define SPLATLEARN_LEVELS(level) level(portable, "portable", true, false)
#elif defined(__x86_64__)
#define SPLATLEARN_HAS(feature) (__builtin_cpu_supports(feature) != 0)
#define SPLATLEARN_HAS_V2 (SPLATLEARN_HAS("sse4.2") && SPLATLEARN_HAS("popcnt"))
#define SPLATLEARN_HAS_V3 \
    (SPLATLEARN_HAS("avx2") && SPLATLEARN_HAS("fma") && SPLATLEARN_HAS("bmi") && SPLATLEARN_HAS("bmi2"))
#define SPLATLEARN_HAS_V4 \
    (SPLATLEARN_HAS_V3 && SPLATLEARN_HAS("avx512f") && SPLATLEARN_HAS("avx512bw") && SPLATLEARN_HAS("avx512cd") && \
     SPLATLEARN_HAS("avx512dq") && SPLATLEARN_HAS("avx512vl"))
#define SPLATLEARN_LEVELS(level) \
    level(v4, "x86-64-v4", SPLATLEARN_HAS_V4, true) level(v3, "x86-64-v3", SPLATLEARN_HAS_V3, true) \
        level(v2, "x86-64-v2", SPLATLEARN_HAS_V2, false) level(v2_exact, "x86-64-v2", SPLATLEARN_HAS_V2, true)
#elif defined(__aarch64__)
#define SPLATLEARN_LEVELS(level) level(neon, "aarch64", true, true)
#else
#define SPLATLEARN_LEVELS(level) level(portable, "portable", true, false)
#endif

#define SPLATLEARN_DECLARE(name, Params) int name(const Params &params);
#define SPLATLEARN_DECLARE_LEVEL(level, name, supported, same_bits) \
    namespace splatlearn_##level { \
        SPLATLEARN_STAGES(SPLATLEARN_DECLARE) double multiply_adds(int threads, int64_t rounds); \
    }
SPLATLEARN_LEVELS(SPLATLEARN_DECLARE_LEVEL)

namespace {

struct Level {
    const char *name;
    bool supported, same_bits;
    double (*multiply_adds)(int, int64_t);
#define SPLATLEARN_POINTER(name, Params) int (*name)(const Params &);
    SPLATLEARN_STAGES(SPLATLEARN_POINTER)
};

#define SPLATLEARN_EXPORT __attribute__((visibility("default")))
constexpr int kUnknownLevel = -5;

// One table of functions per level.
#define SPLATLEARN_ASSIGN(stage, Params) level.stage = stage;
#define SPLATLEARN_TABLE(space, text, has, same) \
    Level table_of_##space() { \
        using namespace splatlearn_##space; \
        Level level; \
        level.name = text; \
        level.supported = has; \
        level.same_bits = same; \
        level.multiply_adds = multiply_adds; \
        SPLATLEARN_STAGES(SPLATLEARN_ASSIGN) \
        return level; \
    }
SPLATLEARN_LEVELS(SPLATLEARN_TABLE)

bool reproducible = false;  // whether only levels of the same bits will do

// The best supported level, or the one that SPLATLEARN_ISA names, for tests and comparisons; null if it is not there.
const Level *choose() {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
#define SPLATLEARN_ENTRY_OF(space, name, supported, same_bits) table_of_##space(),
    static const Level levels[] = {SPLATLEARN_LEVELS(SPLATLEARN_ENTRY_OF)};
    const char *wanted = getenv("SPLATLEARN_ISA");
    for (const Level &level : levels)
        if (level.supported && (level.same_bits || !reproducible) &&
            (!wanted || !*wanted || strcmp(wanted, level.name) == 0))
            return &level;
    return nullptr;
}

const Level *level = choose();

}  // namespace

extern "C" {

// The name of the level that is used; null where SPLATLEARN_ISA names another one than this processor's.
SPLATLEARN_EXPORT const char *splatlearn_isa_level() { return level ? level->name : nullptr; }

// The names of the levels that this processor has, the best first, with a comma between two.
SPLATLEARN_EXPORT const char *splatlearn_isa_levels() {
    static char names[64] = "";
#define SPLATLEARN_LIST(space, name, supported, same_bits) \
    if ((supported) && !strstr(names, name)) strcat(strcat(names, *names ? ", " : ""), name);
    SPLATLEARN_LEVELS(SPLATLEARN_LIST)
    return names;
}

// Asks for the bits that levels share, or no longer; returns whether there is a level that gives them.
SPLATLEARN_EXPORT int splatlearn_set_reproducible(int wanted) {
    reproducible = wanted != 0;
    level = choose();
    return level != nullptr;
}

// Makes multiply-adds on so many threads, and returns how many operations they were: csrc/cpu/peak.cpp.
SPLATLEARN_EXPORT double splatlearn_multiply_adds(int threads, int64_t rounds) {
    return level ? level->multiply_adds(threads, rounds) : 0;
}

SPLATLEARN_EXPORT const char *splatlearn_error(int code) {
    switch (code) {
        case -1: return "the native library could not allocate its scratch memory";
        case -2: return "the native library takes float32 and float64 tensors only";
        case -3: return "more than 16777216 Gaussians fall into a single 16x16 tile";
        case -4: return "the native library has no camera model of this number";
        case kUnknownLevel: return "SPLATLEARN_ISA names an instruction set that is not to be had here";
        default: return "the native library failed";
    }
}

#define SPLATLEARN_ENTRY(name, Params) \
    SPLATLEARN_EXPORT int splatlearn_##name(const Params *params) { \
        return level ? level->name(*params) : kUnknownLevel; \
    }
SPLATLEARN_STAGES(SPLATLEARN_ENTRY)
}
