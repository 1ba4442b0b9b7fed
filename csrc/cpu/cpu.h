// What every CPU stage needs: the entry points of this instruction-set level, threads, scratch memory, and errors.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <omp.h>

#include "../abi.h"
#include "lanes.h"
#include "scratch.h"

namespace SPLATLEARN_NAMESPACE {

// Negative return values; splatlearn_error() in dispatch.cpp has their sentences.
enum Failure { kOutOfMemory = -1, kBadScalar = -2, kCrowdedTile = -3, kUnknownCamera = -4 };

// Each stage is defined in the file of its name.
#define SPLATLEARN_DECLARE(name, Params) int name(const Params &params);
SPLATLEARN_STAGES(SPLATLEARN_DECLARE)
#undef SPLATLEARN_DECLARE

// Scratch memory of one call, which the thread's later calls find again. Not std::vector: its code would be shared
// between instruction-set levels by the linker.
template <class T> class Buffer {
public:
    explicit Buffer(int64_t count) : data_(static_cast<T *>(take_scratch(size_t(count) * sizeof(T)))) {}
    ~Buffer() { give_scratch(data_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    T *get() const { return data_; }
    T &operator[](int64_t i) const { return data_[i]; }
    explicit operator bool() const { return data_ != nullptr; }

private:
    T *data_;
};

// Calls f<float>() or f<double>() as the context says.
#define SPLATLEARN_BY_SCALAR(params, context, function) \
    ((context).scalar_bytes == 4   ? function<float>(params) \
     : (context).scalar_bytes == 8 ? function<double>(params) \
                                   : kBadScalar)

}  // namespace SPLATLEARN_NAMESPACE
