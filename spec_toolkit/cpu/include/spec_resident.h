// Blocks that wait for each other: those asleep are moved aside, and back. Part of executor.h.
//
// A block runs in place: its fibres on the one pool of stacks, its shared arrays where the kernel's code expects them. When it
// sleeps (every thread that could go on is in __nanosleep) and another block is to run, what is the block's own is copied out:
// fibres, the used part of each stack, shared memory. Addresses stay valid, since it all comes back to where it was.
//
// A block that never sleeps runs to its end before the next one starts. When the block in place sleeps, each block that slept
// before it is woken in turn; once all have slept again, the next one in the launch's order starts. So a kernel may wait for
// blocks that come later, as on a GPU on which they are resident together. What runs between two sleeps is not interleaved, but on demand:
// where blocks take turns, one that has passed a barrier is moved aside too, and which goes on, or starts, is drawn at random.
#pragma once

static const int spec_resident_limit = 256;  // blocks that have started and not ended; a GPU's depends on what they use
static const long long spec_patience = 100000, spec_rounds = 1000;  // sleeps, and rounds of all blocks, in which nobody returns

struct SpecResident {
    uint3 index;  // its blockIdx
    char* bytes;  // what is its own while it is aside; kept until the launch ends
    size_t room;
};
static SpecResident spec_residents[spec_resident_limit];
static int spec_asleep[spec_resident_limit];  // a ring of indices into spec_residents: blocks that sleep, the longest first
static int spec_free[spec_resident_limit];

static size_t spec_used_stack(const SpecFibre& f) {
    return f.state == SPEC_DONE ? 0 : f.stack + spec_page + spec_stack_bytes - (char*)f.sp;
}

// Copies the block in place out to r.bytes, or r.bytes back into place.
static void spec_move_block(const SpecResident& r, bool out) {
    char* p = r.bytes;
    const auto move = [&](void* place, size_t bytes) {
        out ? memcpy(p, place, bytes) : memcpy(place, p, bytes);
        p += bytes;
    };
    move(spec_fibres, spec_threads * sizeof *spec_fibres);  // first: they say how much of each stack is used
    move(__start_spec_shared, __stop_spec_shared - __start_spec_shared);
    move(spec_dynamic, spec_launch_now->dynamic_bytes);
#ifdef SPEC_UCONTEXT_USED
    move(spec_contexts, spec_threads * sizeof *spec_contexts);
#endif
    for (int t = 0; t < spec_threads; ++t)
        if (spec_fibres[t].state != SPEC_DONE) move(spec_fibres[t].sp, spec_used_stack(spec_fibres[t]));
}

static bool spec_move_aside(SpecResident& r) {
    size_t bytes = spec_threads * sizeof *spec_fibres + (__stop_spec_shared - __start_spec_shared) + spec_launch_now->dynamic_bytes;
#ifdef SPEC_UCONTEXT_USED
    bytes += spec_threads * sizeof *spec_contexts;
#endif
    for (int t = 0; t < spec_threads; ++t) bytes += spec_used_stack(spec_fibres[t]);
    if (bytes > r.room) {  // by mmap, as Ctrl-C may jump out of here, and malloc would keep its lock
        if (r.bytes) munmap(r.bytes, r.room);
        r.room = (bytes + spec_page - 1) / spec_page * spec_page;
        r.bytes = (char*)mmap(nullptr, r.room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (r.bytes == MAP_FAILED) {
            r.bytes = nullptr, r.room = 0;
            spec_note(nullptr, "", 0, "no memory for a block that sleeps (%zu bytes)", bytes);
            return false;
        }
    }
    spec_move_block(r, true);
    return true;
}

static void spec_drop_residents() {
    for (SpecResident& r : spec_residents) {
        if (r.bytes) munmap(r.bytes, r.room);
        r = {};
    }
}

static unsigned spec_draw(unsigned count) {  // from 0 to count - 1, by SplitMix64 from the seed of the launch
    unsigned long long z = spec_launch_now->turns += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull, z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (unsigned)((z ^ z >> 31) % count);
}

static void spec_run_blocks() {
    const unsigned x = gridDim.x, y = gridDim.y;
    const long long blocks = (long long)x * y * gridDim.z;
    int first = 0, sleeping = 0, woken = 0;  // first: in the ring; woken: since a block last started
    int in_place = -1;                       // the sleeping block that is not aside: the one that ran last
    for (int i = 0; i < spec_resident_limit; ++i) spec_free[i] = i;
    for (long long next = 0; next < blocks || sleeping;) {
        const bool turns = spec_launch_now->turns, room = next < blocks && sleeping < spec_resident_limit;
        const bool start = room && (turns ? !sleeping || !spec_draw(4) : woken >= sleeping);
        if (turns && !start) {
            int& longest = spec_asleep[first];
            int& drawn = spec_asleep[(first + spec_draw(sleeping)) % spec_resident_limit];
            const int kept = longest;
            longest = drawn, drawn = kept;
        }
        // the free ones lie in spec_free[sleeping...]
        const int slot = start ? spec_free[sleeping] : spec_asleep[first];
        if (in_place >= 0 && in_place != slot && !spec_move_aside(spec_residents[in_place])) return;
        SpecResident& r = spec_residents[slot];
        if (start) {
            const long long b = spec_launch_now->block_order[next++];
            r.index = blockIdx = {(unsigned)(b % x), (unsigned)(b / x % y), (unsigned)(b / x / y)};
            woken = 0, spec_idle = 0;
            spec_start_block();
        } else {
            first = (first + 1) % spec_resident_limit, --sleeping, ++woken;
            blockIdx = r.index;
            if (in_place != slot) spec_move_block(r, false);
            spec_wake_block();
        }
        const SpecOutcome outcome = spec_run_block();
        if (outcome == SPEC_FAILED) return;
        in_place = outcome == SPEC_ENDED ? -1 : slot;
        if (in_place < 0) {
            spec_free[sleeping] = slot;
            continue;
        }
        spec_asleep[(first + sleeping++) % spec_resident_limit] = slot;
        if (outcome == SPEC_PAUSES || ++spec_idle < spec_patience || spec_idle < spec_rounds * sleeping) continue;
        char title[160];
        snprintf(title, sizeof title, "waiting for what no block does (blocks: %d wait, %lld ended, %lld not started; at most %d run "
                 "together)", sleeping, next - sleeping, blocks - next, spec_resident_limit);
        return spec_note_stuck(title);
    }
}
