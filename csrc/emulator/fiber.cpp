// Stacks of fibers: mapped once, with a page below each that faults on overflow, and used again by every launch.
#include "fiber.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

namespace splatlearn_emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = 512 << 10;
#else
constexpr size_t kStackBytes = 128 << 10;
#endif

}  // namespace

void adopt(Fiber &host) {
#if defined(__SANITIZE_ADDRESS__)
    pthread_attr_t attributes;
    void *stack = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &host.stack_bytes);
    pthread_attr_destroy(&attributes);
    host.stack = static_cast<char *>(stack);
#endif
#if defined(__SANITIZE_THREAD__)
    host.token = __tsan_get_current_fiber();
#endif
    (void)host;
}

SPLATLEARN_UNWATCHED bool prepare(Fiber &fiber, int index, void (*entry)()) {
    if (!fiber.stack) {
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, kind, -1, 0);
        if (memory == MAP_FAILED) return false;
        mprotect(memory, page, PROT_NONE);
        // Stacks that all began at the same place of a page would compete for the same lines of the cache.
        fiber.stack = static_cast<char *>(memory) + page;
        fiber.stack_bytes = kStackBytes - size_t(index % 61) * 192;
#if defined(__SANITIZE_THREAD__)
        fiber.token = __tsan_create_fiber(0);
#endif
    }
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);  // left by frames that were abandoned
#endif
#if defined(SPLATLEARN_UCONTEXT)
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = fiber.stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
#else
    const uintptr_t top = reinterpret_cast<uintptr_t>(fiber.stack + fiber.stack_bytes) & ~uintptr_t(15);
    void **return_address = reinterpret_cast<void **>(top - 8);  // functions are entered 8 below a multiple of 16
    *return_address = nullptr;
    fiber.stack_pointer = return_address;
    fiber.frame_pointer = nullptr;
    fiber.resume_at = reinterpret_cast<void *>(entry);
#endif
    return true;
}

}  // namespace splatlearn_emulator
