// What the lazy rungs share: a block's share of a row in shared memory, whose copies are all on their way at once; its statistics
// from there; and what the blocks of a request tell each other of a position, until each knows whether its draft is accepted.
#pragma once
#include "split.cuh"
#include "statistics.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define SPEC_ASYNC 1
#endif

constexpr int SEGMENTS = 32;  // a row is cut into so many runs of tiles, whatever the number of blocks: no sum depends on that
enum { TARGET_TOP, TARGET_SUM, DRAFT_TOP, DRAFT_SUM, TARGET_FIRST, DRAFT_FIRST, WORDS };  // of one segment of a row pair

// ---- copies -----------------------------------------------------------------------------------------------------------
// `load_piece` for the end of a row, rows at any alignment and shares that are not kept: a call, so that what is rare is in no one's way.
__device__ __noinline__ uint4 rare_piece(const ROW* row, int first, int vocab) { return load_piece(row, first, vocab); }

// 16 bytes into shared memory: on Ampere and later nobody waits for them, and no register holds them.
__device__ __forceinline__ void copy_piece(uint4* place, const ROW* piece) {
#ifdef SPEC_ASYNC
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((unsigned)__cvta_generic_to_shared(place)), "l"(piece) : "memory");
#else
    *place = *reinterpret_cast<const uint4*>(piece);
#endif
}

// A tile into shared memory by one warp; `place` is where a lane keeps its first piece, the others lie 32 further on each. Its copies
// are one group, which wait_copies knows by its age.
__device__ __forceinline__ void copy_tile(uint4* place, const ROW* row, int tile, int vocab, int lane) {
    const int first = tile * TILE + lane * VEC;
    const bool aligned = is_aligned(row);
    if (aligned && first + (PIECES - 1) * STEP + VEC <= vocab) {
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) copy_piece(place + i * 32, row + first + i * STEP);
    } else {
        #pragma unroll 1
        for (int i = 0; i < PIECES; ++i) {
            if (aligned && first + i * STEP + VEC <= vocab) copy_piece(place + i * 32, row + first + i * STEP);
            else place[i * 32] = rare_piece(row, first + i * STEP, vocab);
        }
    }
#ifdef SPEC_ASYNC
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most `younger` groups of this thread's copies are on their way (more than 7: until 7 are).
__device__ __forceinline__ void wait_copies(int younger) {
#ifdef SPEC_ASYNC
    switch (min(younger, 7)) {
        case 0: asm volatile("cp.async.wait_group 0;" ::: "memory"); break;
        case 1: asm volatile("cp.async.wait_group 1;" ::: "memory"); break;
        case 2: asm volatile("cp.async.wait_group 2;" ::: "memory"); break;
        case 3: asm volatile("cp.async.wait_group 3;" ::: "memory"); break;
        case 4: asm volatile("cp.async.wait_group 4;" ::: "memory"); break;
        case 5: asm volatile("cp.async.wait_group 5;" ::: "memory"); break;
        case 6: asm volatile("cp.async.wait_group 6;" ::: "memory"); break;
        default: asm volatile("cp.async.wait_group 7;" ::: "memory");
    }
#endif
}

// ---- statistics -------------------------------------------------------------------------------------------------------
// Of a tile in shared memory, by the warp that copied it; the same in all lanes. The powers are taken relative to the tile's own
// maximum: no logit is too large.
__device__ __forceinline__ Stats held_statistics(const uint4* place, int tile, float factor, bool greedy, int lane) {
    float top = -CUDART_INF_F, sum = 0.0f;
    ROW x[VEC];
    #pragma unroll UNROLL
    for (int i = 0; i < PIECES; ++i) {
        const uint4 piece = place[i * 32];
        memcpy(x, &piece, 16);
        #pragma unroll
        for (int k = 0; k < VEC; ++k) top = fmaxf(top, to_float(x[k]));
    }
    top = max_warp(top);
    const float base = top == -CUDART_INF_F ? 0.0f : top;
    int first = NO_ID;
    #pragma unroll UNROLL
    for (int i = PIECES - 1; i >= 0; --i) {
        const uint4 piece = place[i * 32];
        memcpy(x, &piece, 16);
        float part = 0.0f;
        #pragma unroll
        for (int k = 0; k < VEC; ++k) part += power((to_float(x[k]) - base) * factor);
        sum += part;
        if (greedy) {
            #pragma unroll
            for (int k = VEC - 1; k >= 0; --k)
                if (to_float(x[k]) == top) first = tile * TILE + i * STEP + lane * VEC + k;
        }
    }
    return {top, sum_warp(sum), greedy ? min_warp(first) : NO_ID};
}

// The statistics of a warp's lanes joined, in a fixed order: the same in all lanes.
__device__ __forceinline__ Stats join_lanes(Stats own, float factor, bool greedy) {
    const float top = max_warp(own.top);
    const float sum = sum_warp(rebased(own.sum, own.top, top, factor));
    return {top, sum, greedy ? min_warp(own.top == top ? own.first : NO_ID) : NO_ID};
}

// ---- the verdict on a position ----------------------------------------------------------------------------------------
// What the test of a draft needs beside the statistics of its rows.
struct Test { int token; float target, draft, u; };

__device__ __forceinline__ Test fetch_test(const Request& request, const Rows& rows, int i, int vocab) {
    const int token = rows.tokens[i];
    const bool inside = token >= 0 && token < vocab;
    return {inside ? token : -1, inside ? to_float(rows.target[i * rows.target_stride + token]) : 0.0f,
            inside && rows.draft ? to_float(rows.draft[i * rows.draft_stride + token]) : 0.0f, accept_uniform(request.seed, request.position, i)};
}

// What all blocks of a request must know of a position.
struct Verdict { Scale target, draft; int accepted, bits; };

// By one warp, a lane for each segment: wait for the words of a position, join them, test the draft. The bonus row, which is not
// tested, is never "accepted".
__device__ __forceinline__ Verdict judge(const Test& test, bool tested, bool has_draft, bool reads_draft, const unsigned long long* words, unsigned call,
                                         float heat, const float* lse, int lane) {
    const bool greedy = !(heat > 0.0f), both = tested && reads_draft;
    const float factor = factor_of(heat);
    unsigned long long word[4] = {};
    bool here;
    do {  // all on their way at once
        here = true;
        #pragma unroll
        for (int what = TARGET_TOP; what <= DRAFT_SUM; ++what)
            if (what < DRAFT_TOP || both) {
                word[what] = *(const volatile unsigned long long*)(words + what * SEGMENTS + lane);
                here = here && (unsigned)(word[what] >> 33) == call;
            }
        if (!here) __nanosleep(20);
    } while (!here);
    int first[2] = {NO_ID, NO_ID};
    if (greedy) first[0] = (int)(unsigned)wait_for(words + TARGET_FIRST * SEGMENTS + lane, call);
    if (greedy && both) first[1] = (int)(unsigned)wait_for(words + DRAFT_FIRST * SEGMENTS + lane, call);
    __syncwarp();
    const auto number = [&](int what) { return __uint_as_float((unsigned)word[what]); };
    Verdict verdict = {};
    verdict.target = scale_of(join_lanes({number(TARGET_TOP), number(TARGET_SUM), first[0]}, factor, greedy), heat);
    if (both) verdict.draft = scale_of(join_lanes({number(DRAFT_TOP), number(DRAFT_SUM), first[1]}, factor, greedy), heat);
    if (tested && has_draft && !both) verdict.draft = scale_of_lse(*lse, heat);
    if (!tested) return verdict;
    if (test.token < 0) {
        verdict.bits = BAD_TOKEN;
        return verdict;
    }
    const float p = chance_of(test.target, test.token, verdict.target), q = has_draft ? chance_of(test.draft, test.token, verdict.draft) : 1.0f;
    verdict.accepted = accepts(test.u, p, q), verdict.bits = isfinite(p) && isfinite(q) ? 0 : NONFINITE;
    return verdict;
}
