// In which order the blocks of stage rasterize take tiles, and backward the spans of their lists: the longest first.
//
// A card starts blocks by their number as others end. A long list that came last would be waited for while most of the
// card is idle. Lists are dealt over classes of length, which is enough; no result depends on the order within a class.
#include "rasterize.h"

namespace SPLATLEARN_NAMESPACE {
namespace {

constexpr int kOrderThreads = 1024, kClasses = 256;

// The class of a length, the longest first; a class is an eighth of a power of two wide.
SPLATLEARN_DEVICE int class_of(int length) {
    const int log2 = 31 - __clz(length | 8);
    return kClasses - 1 - (length < 8 ? length : (log2 - 2) * 8 + (length >> (log2 - 3) & 7));
}

// One block, as the work is a few reads a tile. Places of tiles come first, then those of spans.
SPLATLEARN_KERNEL __launch_bounds__(kOrderThreads) void order_tiles_kernel(splatlearn_RasterizeForward out) {
    SPLATLEARN_SHARED(int, places, 2 * kClasses);  // how many of each class, then where its next one goes
    SPLATLEARN_SHARED(int, warps, 2 * kClasses / kWarp);
    const int tiles = int(tiles_of(out.inputs)), thread = threadIdx.x, lane = thread % kWarp;
    const int span = out.checkpoints ? kSpan : INT32_MAX;
    const int64_t *offsets = out.inputs.tile_offsets;
    if (thread < 2 * kClasses) places[thread] = 0;
    __syncthreads();
    for (int tile = thread; tile < tiles; tile += kOrderThreads) {
        const int length = int(offsets[tile + 1] - offsets[tile]);
        atomicAdd(&places[class_of(length)], 1);
        if (length >= span) atomicAdd(&places[kClasses + class_of(span)], length / span);
        if (length % span) atomicAdd(&places[kClasses + class_of(length % span)], 1);
    }
    __syncthreads();
    const int mine = thread < 2 * kClasses ? places[thread] : 0;
    int before = mine;  // becomes the sum over this lane and those below it
    for (int offset = 1; offset < kWarp; offset *= 2) {
        const int other = __shfl_up_sync(kFull, before, offset);
        if (lane >= offset) before += other;
    }
    if (thread < 2 * kClasses && lane == kWarp - 1) warps[thread / kWarp] = before;
    __syncthreads();
    for (int w = 0; thread < 2 * kClasses && w < thread / kWarp; ++w) before += warps[w];
    if (thread < 2 * kClasses) places[thread] = before - mine;
    __syncthreads();
    for (int tile = thread; tile < tiles; tile += kOrderThreads) {
        const int length = int(offsets[tile + 1] - offsets[tile]);
        out.tile_order[atomicAdd(&places[class_of(length)], 1)] = tile;
        if (!out.spans) continue;
        for (int first = 0; first < length; first += span) {
            const int rest = length - first < span ? length - first : span;
            out.spans[atomicAdd(&places[kClasses + class_of(rest)], 1) - tiles] = int64_t(tile) << 32 | first;
            if (rest < span) break;
        }
    }
    if (!out.spans) return;
    __syncthreads();
    const int64_t room = tiles + out.inputs.n_instances / kSpan;
    for (int64_t i = places[2 * kClasses - 1] - tiles + thread; i < room; i += kOrderThreads) out.spans[i] = -1;
}

}  // namespace

int order_tiles(const splatlearn_RasterizeForward &out) {
    return SPLATLEARN_LAUNCH((order_tiles_kernel), 1, kOrderThreads, stream_of(out.inputs.context), out);
}

}  // namespace SPLATLEARN_NAMESPACE
