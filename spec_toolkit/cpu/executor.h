// The CPU executor: runs CUDA C compiled by g++ or clang++ (Linux, x86-64 or arm64), one fibre per CUDA thread.
//
// A block's threads share one OS thread. A fibre runs until it meets a barrier or a warp collective, notes where and why
// it waits, and switches back to the scheduler (spec_run_block), which releases the group once all its members have come.
// Blocks run one after the other, but for those that sleep in __nanosleep until another block has done something: these are
// resident together (include/spec_resident.h). Not modelled: races inside a warp, memory order, FMA contraction, speed.
//
// compile.py includes this file first, puts the kernel's text inside an unnamed namespace (so that templates and inline
// functions may hold __shared__ arrays: with external linkage each would ask for an ELF section of its own) and appends
// spec_call(), which unpacks the arguments. launch.py fills SpecLaunch and calls spec_launch().
#pragma once
#include <limits.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>

#define SPEC_CPU_EXECUTOR 1
#define SPEC_SITE int line = __builtin_LINE(), const char* file = __builtin_FILE()

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
static uint3 threadIdx, blockIdx;  // those of the running fibre: plain variables, so a debugger shows them
static dim3 blockDim, gridDim;
static const int warpSize = 32;

// ---- what launch.py passes in and reads back; mirrored there field by field
struct SpecLaunch {
    unsigned grid[3], block[3];
    void** args;                       // one pointer to each argument's value
    char* dynamic_shared;              // ends where a guard begins
    unsigned long long dynamic_bytes;
    const long long* block_order;      // linear block ids in the order to run them; likewise warps, and lanes in a warp
    const int* warp_order;
    const int* lane_order;
    int catch_interrupt;
    unsigned long long turns;          // not 0: blocks take turns at barriers and atomics, at random by this seed
    int failed_signal, is_write;       // out: a signal, or 0 and a message; is_write -1 = not known
    unsigned failed_block[3], failed_thread[3];
    unsigned long long address, pc;    // pc: offset in this library, 0 = elsewhere
    int line, stack_overflow;          // line 0: ask addr2line about pc
    char file[256], message[2048];
};

enum SpecState { SPEC_READY, SPEC_AT_BARRIER, SPEC_IN_WARP, SPEC_YIELDED, SPEC_DONE };
enum SpecKind {
    SPEC_SYNC, SPEC_SYNC_COUNT, SPEC_SYNC_AND, SPEC_SYNC_OR, SPEC_SHFL, SPEC_SHFL_UP, SPEC_SHFL_DOWN, SPEC_SHFL_XOR,
    SPEC_SYNCWARP, SPEC_BALLOT, SPEC_ANY, SPEC_ALL, SPEC_MATCH_ANY, SPEC_ADD, SPEC_MIN, SPEC_MAX, SPEC_UMIN, SPEC_UMAX,
    SPEC_RAND, SPEC_ROR, SPEC_RXOR, SPEC_SLEEP
};
static const char* const spec_names[] = {
    "__syncthreads", "__syncthreads_count", "__syncthreads_and", "__syncthreads_or", "__shfl_sync", "__shfl_up_sync",
    "__shfl_down_sync", "__shfl_xor_sync", "__syncwarp", "__ballot_sync", "__any_sync", "__all_sync", "__match_any_sync",
    "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync", "__reduce_max_sync",
    "__reduce_and_sync", "__reduce_or_sync", "__reduce_xor_sync", "__nanosleep"
};

struct SpecFibre {
    void* sp;
    char* stack;       // lowest address; its first page is the guard
    SpecState state;
    SpecKind kind;     // what it waits in, and where
    int line;
    const char* file;
    unsigned mask;
    int source;        // shuffles: the lane to read
    unsigned long long value, result;
    uint3 index;
};
static const size_t spec_stack_bytes = 512 << 10, spec_page = 64 << 10;  // 64 KiB: a guard on any arm64 page size
static SpecFibre spec_fibres[1024], *spec_current;
static int spec_pooled, spec_threads;
static void* spec_scheduler_sp;
static SpecLaunch* spec_launch_now;
static volatile bool spec_failed;
static long long spec_idle;  // sleeps of whole blocks since a thread returned or a block started
char* spec_dynamic __attribute__((visibility("hidden")));
static void spec_call(void** args);

// ---- switching: push the callee-saved registers, swap stack pointers, pop. Memory is clobbered: values are re-read after.
#if defined(__x86_64__) && !defined(SPEC_UCONTEXT)
asm(".text\n.p2align 4\n.type spec_switch,@function\nspec_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.size spec_switch,.-spec_switch\n");
static const int spec_return_word = 6, spec_frame_words = 8;
#elif defined(__aarch64__) && !defined(SPEC_UCONTEXT)
asm(".text\n.p2align 4\n.type spec_switch,%function\nspec_switch:\n"
    "sub sp,sp,#160\nstp x19,x20,[sp]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
    "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\n"
    "stp d14,d15,[sp,#144]\nmov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x19,x20,[sp]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\n"
    "ldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\n"
    "ldp d14,d15,[sp,#144]\nadd sp,sp,#160\nret\n.size spec_switch,.-spec_switch\n");
static const int spec_return_word = 11, spec_frame_words = 20;
#else
#define SPEC_UCONTEXT_USED 1
static ucontext_t spec_contexts[1025];  // portable and 20 times slower: it saves the signal mask at each switch
#endif

static void spec_to_scheduler();
static void spec_fibre_main() {
    spec_call(spec_launch_now->args);
    spec_current->state = SPEC_DONE;
    spec_idle = 0;
    spec_to_scheduler();  // for good
}
#ifdef SPEC_UCONTEXT_USED
static void spec_prepare(SpecFibre& f) {
    ucontext_t& c = spec_contexts[&f - spec_fibres];
    getcontext(&c);
    c.uc_stack.ss_sp = f.stack + spec_page;
    c.uc_stack.ss_size = spec_stack_bytes;
    makecontext(&c, spec_fibre_main, 0);
}
static void spec_resume(SpecFibre& f) { swapcontext(&spec_contexts[1024], &spec_contexts[&f - spec_fibres]); }
__attribute__((noinline)) static void spec_to_scheduler() {
    spec_current->sp = (char*)__builtin_frame_address(0) - 1024;  // this frame, which is small, included
    swapcontext(&spec_contexts[spec_current - spec_fibres], &spec_contexts[1024]);
}
#else
extern "C" __attribute__((visibility("hidden"))) void spec_switch(void** save_sp, void* new_sp);
static void spec_prepare(SpecFibre& f) {  // a stack on which spec_switch "returns" into spec_fibre_main
    void** frame = (void**)(f.stack + spec_page + spec_stack_bytes) - spec_frame_words;
    memset(frame, 0, spec_frame_words * sizeof(void*));
    frame[spec_return_word] = (void*)spec_fibre_main;
    f.sp = frame;
}
static void spec_resume(SpecFibre& f) { spec_switch(&spec_scheduler_sp, f.sp); }
static void spec_to_scheduler() { spec_switch(&spec_current->sp, spec_scheduler_sp); }
#endif

static bool spec_grow_pool(int threads) {
    for (; spec_pooled < threads; ++spec_pooled) {
        void* p = mmap(nullptr, spec_page + spec_stack_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (p == MAP_FAILED || mprotect(p, spec_page, PROT_NONE)) return false;
        spec_fibres[spec_pooled].stack = (char*)p;
    }
    return true;
}

// ---- failing: note the place, then leave the fibre for good (the scheduler sees spec_failed)
static void spec_note(const SpecFibre* f, const char* file, int line, const char* format, ...) {
    SpecLaunch& l = *spec_launch_now;
    va_list list;
    va_start(list, format);
    vsnprintf(l.message, sizeof l.message, format, list);
    va_end(list);
    snprintf(l.file, sizeof l.file, "%s", file);
    l.line = line;
    memcpy(l.failed_block, &blockIdx, sizeof blockIdx);
    if (f) memcpy(l.failed_thread, &f->index, sizeof f->index);
    spec_failed = true;
}
#define SPEC_FAIL(file, line, ...) \
    do { spec_note(spec_current, file, line, __VA_ARGS__); for (;;) spec_to_scheduler(); } while (0)

// UBSan's checks with a runtime of our own: it names the thread, and needs no libubsan.
struct SpecWhere { const char* file; unsigned line, column; };
struct SpecType { unsigned short kind, info; char name[1]; };
struct SpecCheck { SpecWhere where; const SpecType* type; const SpecType* other; };
#define SPEC_HANDLER extern "C" __attribute__((visibility("hidden"), noreturn, used)) void
#define SPEC_UBSAN(c, ...) /* the return address finds the kernel's line when the check sits in an inlined helper */ \
    Dl_info so; \
    if (dladdr((void*)spec_call, &so)) \
        spec_launch_now->pc = (char*)__builtin_return_address(0) - 1 - (char*)so.dli_fbase; \
    SPEC_FAIL(c->where.file, c->where.line, __VA_ARGS__); \
    __builtin_unreachable()
SPEC_HANDLER __ubsan_handle_out_of_bounds_abort(SpecCheck* c, unsigned long index) {
    SPEC_UBSAN(c, "index %ld outside an array of type %s", (c->other->info >> 1) < 6 ? (long)(int)index : (long)index,
               c->type->name);
}
SPEC_HANDLER __ubsan_handle_type_mismatch_v1_abort(SpecCheck* c, unsigned long address) {
    SPEC_UBSAN(c, "misaligned access: address %#lx is not a multiple of %d, as type %s needs", address,
               1 << *(unsigned char*)&c->other, c->type->name);
}
SPEC_HANDLER __ubsan_handle_divrem_overflow_abort(SpecCheck* c, unsigned long, unsigned long divisor) {
    SPEC_UBSAN(c, divisor ? "overflow in an integer division" : "integer division by zero");
}
SPEC_HANDLER __ubsan_handle_shift_out_of_bounds_abort(SpecCheck* c, unsigned long, unsigned long by) {
    SPEC_UBSAN(c, "shift by %ld: outside the width of type %s", (long)by, c->type->name);
}

// ---- waiting
static unsigned long long spec_wait(SpecState state, SpecKind kind, unsigned mask, int source, unsigned long long value,
                                    int line, const char* file) {
    SpecFibre& f = *spec_current;
    f.kind = kind, f.mask = mask, f.source = source, f.value = value, f.line = line, f.file = file;
    f.state = state;
    spec_to_scheduler();
    return f.result;
}

static unsigned long long spec_warp_result(const SpecFibre* warp, const SpecFibre& f, unsigned present) {
    if (f.kind <= SPEC_SHFL_XOR)  // a lane outside the mask gives an undefined value on a GPU: all ones (a NaN) here
        return present >> f.source & 1 ? warp[f.source].value : ~0ull;
    unsigned set = 0, r = 0, first = 1;
    for (int lane = 0; lane < 32; ++lane) {
        if (!(present >> lane & 1)) continue;
        const unsigned v = (unsigned)warp[lane].value;
        if (f.kind == SPEC_MATCH_ANY ? warp[lane].value == f.value : v != 0) set |= 1u << lane;
        if (first) r = v;
        else if (f.kind == SPEC_ADD) r += v;
        else if (f.kind == SPEC_MIN) r = (int)v < (int)r ? v : r;
        else if (f.kind == SPEC_MAX) r = (int)v > (int)r ? v : r;
        else if (f.kind == SPEC_UMIN) r = v < r ? v : r;
        else if (f.kind == SPEC_UMAX) r = v > r ? v : r;
        else if (f.kind == SPEC_RAND) r &= v;
        else if (f.kind == SPEC_ROR) r |= v;
        else if (f.kind == SPEC_RXOR) r ^= v;
        first = 0;
    }
    if (f.kind == SPEC_BALLOT || f.kind == SPEC_MATCH_ANY) return set;
    if (f.kind == SPEC_ANY) return set != 0;
    if (f.kind == SPEC_ALL) return set == present;
    return r;
}

// Releases each group of lanes that has met in full. True if any was released.
static bool spec_release_warp(int first) {
    SpecFibre* warp = spec_fibres + first;
    const int lanes = spec_threads - first < 32 ? spec_threads - first : 32;
    bool released = false;
    for (int lane = 0; lane < lanes; ++lane) {
        const SpecFibre f = warp[lane];
        if (f.state != SPEC_IN_WARP) continue;
        unsigned present = 0;
        bool met = true;
        if (!(f.mask >> lane & 1)) {
            spec_note(&f, f.file, f.line, "%s: lane %d is not in its own mask %#x", spec_names[f.kind], lane, f.mask);
            return false;
        }
        for (int m = 0; m < 32 && met; ++m) {
            if (!(f.mask >> m & 1)) continue;
            const bool gone = m >= lanes || warp[m].state == SPEC_DONE;
            if (gone && f.kind <= SPEC_SHFL_XOR) {  // the other collectives may name lanes that are gone: CUDA ignores them
                spec_note(&f, f.file, f.line, "%s: the mask %#x names lane %d, which %s", spec_names[f.kind], f.mask, m,
                          m >= lanes ? "this block does not have" : "has returned");
                return false;
            }
            if (gone) continue;
            met = warp[m].state == SPEC_IN_WARP && warp[m].kind == f.kind && warp[m].mask == f.mask;
            present |= 1u << m;
        }
        if (!met) continue;
        for (int m = 0; m < lanes; ++m)
            if (present >> m & 1) warp[m].result = spec_warp_result(warp, warp[m], present);
        for (int m = 0; m < lanes; ++m)
            if (present >> m & 1) warp[m].state = SPEC_READY;
        released = true;
    }
    return released;
}

static bool spec_same_site(const SpecFibre& a, const SpecFibre& b) {
    return a.state == b.state && a.line == b.line && a.kind == b.kind && !strcmp(a.file, b.file);
}

// "threads 0-15 wait in __syncthreads (k.cu:12); threads 16-31 in ...", for a block that cannot go on.
static void spec_note_stuck(const char* title) {
    char text[1536];
    size_t used = 0;
    const SpecFibre* named = nullptr;
    text[0] = 0;
    for (int t = 0; t < spec_threads && used + 1 < sizeof text; ++t) {
        const SpecFibre& f = spec_fibres[t];
        int last = t;
        if (f.state == SPEC_DONE) continue;
        if (!named) named = &f;
        while (last + 1 < spec_threads && spec_same_site(spec_fibres[last + 1], f)) ++last;
        used += snprintf(text + used, sizeof text - used, "%sthread%s %d", used ? "; " : "", last > t ? "s" : "", t);
        if (last > t && used < sizeof text) used += snprintf(text + used, sizeof text - used, "-%d", last);
        if (used < sizeof text)
            used += snprintf(text + used, sizeof text - used, " %s in %s at %s:%d", f.state == SPEC_YIELDED ? "spin" : "wait",
                             spec_names[f.kind], f.file, f.line);
        t = last;
    }
    spec_note(named, named->file, named->line, "%s: %s", title, text);
}

static bool spec_release_barrier() {  // all threads that have not returned are here
    const SpecFibre* one = nullptr;
    unsigned count = 0, alive = 0;
    for (int t = 0; t < spec_threads; ++t) {
        const SpecFibre& f = spec_fibres[t];
        if (f.state == SPEC_DONE) continue;
        if (!one) one = &f;
        if (!spec_same_site(*one, f)) return spec_note_stuck("divergent barrier"), false;
        ++alive, count += f.value != 0;
    }
    const unsigned result = one->kind == SPEC_SYNC_AND ? count == alive : one->kind == SPEC_SYNC_OR ? count > 0 : count;
    for (int t = 0; t < spec_threads; ++t)
        if (spec_fibres[t].state != SPEC_DONE) spec_fibres[t].state = SPEC_READY, spec_fibres[t].result = result;
    return true;
}

static bool spec_run_warp(int first) {
    do {
        for (int i = 0; i < 32; ++i) {
            const int t = first + spec_launch_now->lane_order[i];
            if (t >= spec_threads || spec_fibres[t].state != SPEC_READY) continue;
            spec_current = &spec_fibres[t];
            threadIdx = spec_current->index;
            spec_resume(*spec_current);
            if (spec_failed) return false;
        }
    } while (spec_release_warp(first));
    return !spec_failed;
}

extern char __start_spec_shared[] __attribute__((visibility("hidden")));
extern char __stop_spec_shared[] __attribute__((visibility("hidden")));

static void spec_start_block() {
    // NaN (and -1) in what a kernel reads before it is written; a GPU would give leftovers of another block
    memset(__start_spec_shared, 0xff, __stop_spec_shared - __start_spec_shared);
    memset(spec_dynamic, 0xff, spec_launch_now->dynamic_bytes);
    for (int t = 0; t < spec_threads; ++t) {
        SpecFibre& f = spec_fibres[t];
        f.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
        f.state = SPEC_READY;
        spec_prepare(f);
    }
}

static void spec_wake_block() {
    for (int t = 0; t < spec_threads; ++t)
        if (spec_fibres[t].state == SPEC_YIELDED) spec_fibres[t].state = SPEC_READY;
}

// Runs the block in place until it has ended, or every thread that could go on sleeps; where blocks take turns, to its next barrier.
enum SpecOutcome { SPEC_ENDED, SPEC_SLEEPS, SPEC_PAUSES, SPEC_FAILED };
static SpecOutcome spec_run_block() {
    for (;;) {
        for (int w = 0; w * 32 < spec_threads; ++w)
            if (!spec_run_warp(spec_launch_now->warp_order[w] * 32)) return SPEC_FAILED;
        int count[SPEC_DONE + 1] = {};
        for (int t = 0; t < spec_threads; ++t) ++count[spec_fibres[t].state];
        if (count[SPEC_DONE] == spec_threads) return SPEC_ENDED;
        if (count[SPEC_YIELDED]) return SPEC_SLEEPS;
        if (count[SPEC_DONE] + count[SPEC_AT_BARRIER] < spec_threads) return spec_note_stuck("deadlock"), SPEC_FAILED;
        if (!spec_release_barrier()) return SPEC_FAILED;
        if (spec_launch_now->turns) return SPEC_PAUSES;
    }
}

#include "include/spec_resident.h"
#include "include/spec_launch.h"
#include "include/spec_intrinsics.h"
