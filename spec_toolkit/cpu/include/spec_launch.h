// The launch itself: signals and float modes. Part of executor.h.
#pragma once

static sigjmp_buf spec_jump;
static pthread_t spec_thread;
static volatile bool spec_active;
static volatile unsigned long long spec_fault_pc, spec_fault_sp;
static const int spec_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGINT};
static const int spec_signal_count = 6;
static struct sigaction spec_old_actions[spec_signal_count];
alignas(16) static char spec_signal_stack[64 << 10];

// A fault of the launching thread ends the launch; any other thread's goes to the handler that was there before.
static void spec_handler(int number, siginfo_t* info, void* context) {
    if (!spec_active || !pthread_equal(pthread_self(), spec_thread)) {
        if (number == SIGINT && spec_active) { pthread_kill(spec_thread, number); return; }
        for (int i = 0; i < spec_signal_count; ++i)  // the instruction runs again, and meets the older handler
            if (spec_signals[i] == number) sigaction(number, &spec_old_actions[i], nullptr);
        return;
    }
    const mcontext_t& m = ((ucontext_t*)context)->uc_mcontext;
    spec_launch_now->address = (unsigned long long)info->si_addr;
    spec_launch_now->is_write = -1;
#if defined(__x86_64__)
    spec_fault_pc = m.gregs[REG_RIP], spec_fault_sp = m.gregs[REG_RSP];
    if (number == SIGSEGV) spec_launch_now->is_write = m.gregs[REG_ERR] >> 1 & 1;
#elif defined(__aarch64__)
    spec_fault_pc = m.pc, spec_fault_sp = m.sp;
#else
    (void)m;
#endif
    siglongjmp(spec_jump, number);
}

// The fault's place in this library; for a fault inside libc (memcpy), the first return address into this library.
static unsigned long long spec_locate() {
    Dl_info own, other;
    if (!spec_fault_pc || !dladdr((void*)spec_call, &own)) return 0;
    if (dladdr((void*)spec_fault_pc, &other) && other.dli_fbase == own.dli_fbase)
        return spec_fault_pc - (unsigned long long)own.dli_fbase;
    const char* top = spec_current->stack + spec_page + spec_stack_bytes;
    const char* p = (const char*)(spec_fault_sp & ~7ull);
    if (p < spec_current->stack + spec_page) return 0;
    for (int i = 0; i < 64 && p + 8 <= top; ++i, p += 8) {
        const unsigned long long word = *(const unsigned long long*)p;
        if (dladdr((void*)word, &other) && other.dli_fbase == own.dli_fbase)
            return word - 1 - (unsigned long long)own.dli_fbase;
    }
    return 0;
}

// CuPy compiles with -ftz=true: float32 subnormals are zero, as operands and as results. (The same bits flush double
// subnormals too, which a GPU keeps.)
#if defined(__x86_64__)
static unsigned long spec_float_mode() { return __builtin_ia32_stmxcsr(); }
static void spec_set_float_mode(unsigned long mode) { __builtin_ia32_ldmxcsr((unsigned)mode); }
static const unsigned long spec_flush_bits = 0x8040;
#elif defined(__aarch64__)
static unsigned long spec_float_mode() { unsigned long m; asm volatile("mrs %0, fpcr" : "=r"(m)); return m; }
static void spec_set_float_mode(unsigned long m) { asm volatile("msr fpcr, %0" ::"r"(m) : "memory"); }
static const unsigned long spec_flush_bits = 1ul << 24;
#else
static unsigned long spec_float_mode() { return 0; }
static void spec_set_float_mode(unsigned long) {}
static const unsigned long spec_flush_bits = 0;
#endif

// 0: done; 1: failed, the reason is in *l. Not reentrant: launch.py holds a lock.
extern "C" __attribute__((visibility("default"))) int spec_launch(SpecLaunch* l) {
    spec_launch_now = l;
    spec_failed = false;
    spec_threads = l->block[0] * l->block[1] * l->block[2];
    gridDim = dim3(l->grid[0], l->grid[1], l->grid[2]);
    blockDim = dim3(l->block[0], l->block[1], l->block[2]);
    spec_dynamic = l->dynamic_shared;
    spec_current = &spec_fibres[0];
    if (!spec_grow_pool(spec_threads)) {
        spec_note(nullptr, "", 0, "no memory for %d stacks", spec_threads);
        return 1;
    }
    static unsigned long old_mode;  // static: a signal jumps past this frame's registers
    stack_t stack = {}, old_stack;
    stack.ss_sp = spec_signal_stack, stack.ss_size = sizeof spec_signal_stack;
    sigaltstack(&stack, &old_stack);
    struct sigaction action = {};
    action.sa_sigaction = spec_handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    spec_thread = pthread_self();
    old_mode = spec_float_mode();
    const int count = spec_signal_count - !l->catch_interrupt;  // SIGINT is the last
    const int number = sigsetjmp(spec_jump, 1);
    if (!number) {
        spec_active = true;
        for (int i = 0; i < count; ++i) sigaction(spec_signals[i], &action, &spec_old_actions[i]);
        spec_set_float_mode(old_mode | spec_flush_bits);
        spec_run_blocks();
    }
    spec_active = false;
    spec_set_float_mode(old_mode);
    for (int i = 0; i < count; ++i) sigaction(spec_signals[i], &spec_old_actions[i], nullptr);
    sigaltstack(&old_stack, nullptr);
    spec_drop_residents();
    fflush(stdout);
    if (number) {
        const unsigned long long address = l->address;
        l->pc = spec_locate();
        spec_note(spec_current, "", 0, "");
        l->failed_signal = number;
        const unsigned long long guard = (unsigned long long)spec_current->stack;
        l->stack_overflow = address >= guard && address < guard + spec_page;
    }
    return spec_failed;
}
