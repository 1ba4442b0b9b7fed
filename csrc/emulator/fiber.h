// A fiber is a stack and the place where it was left. Each thread of an emulated block is one. A switch between them is
// written by hand on x86-64 and costs a few nanoseconds; elsewhere, or with SPLATLEARN_UCONTEXT, it is ucontext's, ten
// times slower. Built with a sanitizer, every switch is announced to it: without that ASan takes another stack for a
// wild one, and TSan takes all fibers for one thread.
#pragma once
#include <stddef.h>

#if !defined(__x86_64__) && !defined(SPLATLEARN_UCONTEXT)
#define SPLATLEARN_UCONTEXT 1
#endif
#if defined(SPLATLEARN_UCONTEXT)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
// For the emulator's own state, which is no part of the program that is checked.
#define SPLATLEARN_UNWATCHED __attribute__((no_sanitize("thread")))
#else
#define SPLATLEARN_UNWATCHED
#endif

namespace splatlearn_emulator {

struct Fiber {
#if defined(SPLATLEARN_UCONTEXT)
    ucontext_t context;
#else
    void *stack_pointer, *frame_pointer, *resume_at;
#endif
    char *stack;  // lowest address; null for the stack of the host
    size_t stack_bytes;
    void *fake_stack;  // ASan's
    void *token;       // TSan's
};

// Gives the fiber a stack if it has none, and lets the next switch to it enter `entry`, which must never return.
// False: no memory.
bool prepare(Fiber &fiber, int index, void (*entry)());

// Makes `host` stand for the calling thread's own stack, so that fibers can come back to it.
void adopt(Fiber &host);

// The first thing that an entry calls.
SPLATLEARN_UNWATCHED inline void entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

// Leaves `from`, which runs, and goes on where `to` was left.
SPLATLEARN_UNWATCHED inline void change(Fiber &from, Fiber &to) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.token, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SPLATLEARN_UCONTEXT)
    swapcontext(&from.context, &to.context);
#else
    // Everything that a call need not preserve is named as overwritten, so that the compiler saves what lives; nothing
    // is pushed, since the code around may use the red zone below its stack pointer. A jump, not a return: its target
    // is the same for all fibers, and the processor's stack of return addresses stays in step.
    Fiber *a = &from, *b = &to;
    asm volatile(
        "movq %%rsp, %c[sp](%[a])\n\t"
        "movq %%rbp, %c[fp](%[a])\n\t"
        "leaq 1f(%%rip), %%rax\n\t"
        "movq %%rax, %c[pc](%[a])\n\t"
        "movq %c[sp](%[b]), %%rsp\n\t"
        "movq %c[fp](%[b]), %%rbp\n\t"
        "jmpq *%c[pc](%[b])\n"
        "1:"
        : [a] "+D"(a), [b] "+S"(b)
        : [sp] "i"(offsetof(Fiber, stack_pointer)), [fp] "i"(offsetof(Fiber, frame_pointer)),
          [pc] "i"(offsetof(Fiber, resume_at))
        : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2",
          "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
          "memory", "cc");
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

}  // namespace splatlearn_emulator
