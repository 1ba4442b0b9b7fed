// The CUDA library's C entry points: each makes the caller's device current, launches on the caller's stream, and gives the device back.
#include "stage.h"

#define SPLATLEARN_EXPORT __attribute__((visibility("default")))

namespace {

const splatlearn_Context &context_of(const splatlearn_ProjectForward &p) { return p.inputs.context; }
const splatlearn_Context &context_of(const splatlearn_ProjectBackward &p) { return p.inputs.context; }
const splatlearn_Context &context_of(const splatlearn_BinCount &p) { return p.inputs.context; }
const splatlearn_Context &context_of(const splatlearn_BinWrite &p) { return p.inputs.context; }
const splatlearn_Context &context_of(const splatlearn_RasterizeForward &p) { return p.inputs.context; }
const splatlearn_Context &context_of(const splatlearn_RasterizeBackward &p) { return p.inputs.context; }
const splatlearn_Context &context_of(const splatlearn_Photometric &p) { return p.context; }
const splatlearn_Context &context_of(const splatlearn_Adam &p) { return p.context; }
const splatlearn_Context &context_of(const splatlearn_ProjectUpdate &p) { return p.grad.inputs.context; }

}  // namespace

extern "C" {

SPLATLEARN_EXPORT const char *splatlearn_error(int code) {
    switch (code) {
        case splatlearn::kScratchTooSmall: return "the scratch memory handed in is too small";
        case splatlearn::kBadScalar: return "the native library takes float32 and float64 tensors only";
        case splatlearn::kTooMany: return "more instances or tiles than 31 bits can number";
        default: break;
    }
    const char *sentence = splatlearn::device_error(code);
    return sentence ? sentence : "the native library failed";
}

// Sizes of the parameter structs in the order of SPLATLEARN_STAGES and of AdamGroups, so that the loader can tell a stale library.
#define SPLATLEARN_SIZE(name, Params) int64_t(sizeof(Params)),
SPLATLEARN_EXPORT const int64_t *splatlearn_struct_sizes() {
    static const int64_t sizes[] = {SPLATLEARN_STAGES(SPLATLEARN_SIZE) SPLATLEARN_SIZE(adam_groups, splatlearn_AdamGroups) 0};
    return sizes;
}

#define SPLATLEARN_ENTRY(name, Params)                                                                                      \
    SPLATLEARN_EXPORT int splatlearn_##name(const Params *params) {                                                         \
        splatlearn::DeviceGuard guard(context_of(*params).device);                                                          \
        return guard.failure ? guard.failure : splatlearn::name(*params);                                                   \
    }                                                                                                                       \
    SPLATLEARN_EXPORT int64_t splatlearn_##name##_scratch(const Params *params) {                                           \
        splatlearn::DeviceGuard guard(context_of(*params).device);                                                          \
        return guard.failure ? guard.failure : splatlearn::name##_scratch(*params);                                         \
    }
SPLATLEARN_STAGES(SPLATLEARN_ENTRY)

SPLATLEARN_EXPORT int splatlearn_adam_groups(const splatlearn_AdamGroups *params) {
    splatlearn::DeviceGuard guard(params->context.device);
    return guard.failure ? guard.failure : splatlearn::adam_groups(*params);
}
SPLATLEARN_EXPORT int64_t splatlearn_adam_groups_scratch(const splatlearn_AdamGroups *) { return 0; }
}
