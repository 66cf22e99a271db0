// A row's statistics from those of its tiles, which other blocks are about to write: words with the number of the call (verdicts.cuh).
#pragma once
#include "statistics.cuh"
#include "verdicts.cuh"

constexpr int HELD = 5;     // tiles of a lane whose statistics are on their way together: 160 tiles are 160,000 ids of two bytes

// By one warp: the statistics of a row's tiles joined, in an order that is always the same. words: a pair for each tile; tops, sums: in
// shared memory, a number for each tile; `sums` are left relative to the row's maximum, `tops` are only written where they are read again
// (greedy requests, and tiles that the registers have no room for). Where position i is overtaken, blocks may have left before they wrote
// theirs: then `left` is set.
__device__ __forceinline__ Scale join_tiles(const unsigned long long* words, const unsigned long long* firsts, int tiles, unsigned call, float heat, int lane,
                                            float* tops, float* sums, const unsigned long long* verdicts, int i, bool& left) {
    const bool greedy = !(heat > 0.0f);
    const auto number = [](unsigned long long word) { return __uint_as_float((unsigned)word); };
    constexpr int ROUND = 32 * HELD;
    float own = -CUDART_INF_F, sum = 0.0f, top[HELD], part[HELD];
    for (int begin = lane + (tiles - 1) / ROUND * ROUND; begin >= 0; begin -= ROUND) {  // the first tiles last: they stay in registers
        unsigned long long tops_word[HELD], sums_word[HELD];  // all are asked for before the first is looked at: one way to the L2 and back, not one for each
        for (;;) {
            #pragma unroll
            for (int h = 0; h < HELD; ++h) {
                const int t = begin + 32 * h;
                tops_word[h] = (unsigned long long)call << 32 | 0xff800000u, sums_word[h] = (unsigned long long)call << 32;  // past the end: nothing
                if (t < tiles) tops_word[h] = fetch(words + 2 * t), sums_word[h] = fetch(words + 2 * t + 1);
            }
            left = overtaken(verdicts, i);
            unsigned others = 0;
            #pragma unroll
            for (int h = 0; h < HELD; ++h) others |= (unsigned)(tops_word[h] >> 32) ^ call | (unsigned)(sums_word[h] >> 32) ^ call;
            if (!others || left) break;
            __nanosleep(20);
        }
        #pragma unroll
        for (int h = 0; h < HELD; ++h) {
            const int t = begin + 32 * h;
            top[h] = number(tops_word[h]), part[h] = number(sums_word[h]);
            own = fmaxf(own, top[h]);
            if (t < tiles && (greedy || begin >= ROUND)) tops[t] = top[h], sums[t] = part[h];
        }
    }
    left = __any_sync(ALL, left);
    const float most = max_warp(own), factor = factor_of(heat);
    #pragma unroll
    for (int h = 0; h < HELD; ++h) {
        const int t = lane + 32 * h;
        part[h] = rebased(part[h], top[h], most, factor);
        if (t < tiles) sums[t] = part[h];
        sum += part[h];
    }
    #pragma unroll 1
    for (int t = lane + ROUND; t < tiles; t += 32) sum += sums[t] = rebased(sums[t], tops[t], most, factor);
    int first = NO_ID;
    if (greedy && !left) {
        for (int t = lane; t < tiles; t += 32)
            if (tops[t] == most) first = min(first, (int)receive(firsts + t, call));
        first = min_warp(first);
    }
    return scale_of({most, sum_warp(sum), first}, heat);
}
