// The CUDA library's C entry points: each makes the caller's device current, launches on the caller's stream, and gives
// the device back.
#include "stage.h"

#define SPLATLEARN_EXPORT __attribute__((visibility("default")))

namespace {

// A struct has its context, or has its inputs, which have it.
const splatlearn_Context &context_of(const splatlearn_ProjectUpdate &p) { return p.grad.inputs.context; }
template <class Params> auto context_of(const Params &p) -> decltype((p.context)) { return p.context; }
template <class Params> auto context_of(const Params &p) -> decltype((p.inputs.context)) { return p.inputs.context; }

}  // namespace

extern "C" {

SPLATLEARN_EXPORT const char *splatlearn_error(int code) {
    switch (code) {
        case splatlearn::kScratchTooSmall: return "the scratch memory handed in is too small";
        case splatlearn::kBadScalar: return "the native library takes float32 and float64 tensors only";
        case splatlearn::kTooMany: return "more instances or tiles than 31 bits can number";
        case splatlearn::kUnknownCamera: return "the native library has no camera model of this number";
        default: break;
    }
    const char *sentence = splatlearn::device_error(code);
    return sentence ? sentence : "the native library failed";
}

#define SPLATLEARN_ENTRY(name, Params) \
    SPLATLEARN_EXPORT int splatlearn_##name(const Params *params) { \
        splatlearn::DeviceGuard guard(context_of(*params).device); \
        return guard.failure ? guard.failure : splatlearn::name(*params); \
    } \
    SPLATLEARN_EXPORT int64_t splatlearn_##name##_scratch(const Params *params) { \
        splatlearn::DeviceGuard guard(context_of(*params).device); \
        return guard.failure ? guard.failure : splatlearn::name##_scratch(*params); \
    }
SPLATLEARN_STAGES(SPLATLEARN_ENTRY)
SPLATLEARN_CUDA_STAGES(SPLATLEARN_ENTRY)
}
