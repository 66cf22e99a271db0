// The statistics of a tile of logits, by one warp: what the rungs from logits gather before any probability is known; and the last
// token of a greedy request, which needs nothing else.
#pragma once
#include "tile.cuh"

// A tile as one warp holds it: PIECES pieces of each lane, ids 512 bytes apart; past the end of the row OUTSIDE.
__device__ __forceinline__ void load_tile(const ROW* row, int tile, int vocab, int lane, uint4 (&piece)[PIECES]) {
    const int first = tile * TILE + lane * VEC;
    if (is_aligned(row) && first + (PIECES - 1) * STEP + VEC <= vocab) {
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) piece[i] = *reinterpret_cast<const uint4*>(row + first + i * STEP);
    } else {
        #pragma unroll 1
        for (int i = 0; i < PIECES; ++i) {
            const uint4 one = load_elements(row, first + i * STEP, vocab);
            #pragma unroll
            for (int j = 0; j < PIECES; ++j) piece[j] = j == i ? one : piece[j];  // an index that is not a constant would cost local memory
        }
    }
}

__device__ __forceinline__ float max_warp(float x) {
    for (int distance = 16; distance; distance /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, distance));
    return x;
}

__device__ __forceinline__ int min_warp(int x) {
    for (int distance = 16; distance; distance /= 2) x = min(x, __shfl_xor_sync(ALL, x, distance));
    return x;
}

struct Pieces { uint4 piece[PIECES]; };

// The first id of a tile that has its maximum. Read again: only greedy requests need it.
__device__ __forceinline__ int first_of(const ROW* row, int tile, int vocab, float top, int lane) {
    int first = NO_ID;
    #pragma unroll 1
    for (int i = PIECES - 1; i >= 0; --i) {
        ROW x[VEC];
        const int begin = tile * TILE + i * STEP + lane * VEC;
        const uint4 piece = load_piece(row, begin, vocab);
        memcpy(x, &piece, 16);
        #pragma unroll
        for (int k = VEC - 1; k >= 0; --k)
            if (to_float(x[k]) == top) first = begin + k;
    }
    return min_warp(first);
}

// The same in all lanes. The powers are taken relative to the tile's own maximum: no logit is too large.
__device__ __forceinline__ Stats tile_statistics(const Pieces& held, const ROW* row, int tile, int vocab, float factor, bool greedy, int lane) {
    float top = -CUDART_INF_F, sum = 0.0f;
    ROW x[VEC];
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        memcpy(x, &held.piece[i], 16);
        #pragma unroll
        for (int k = 0; k < VEC; ++k) top = fmaxf(top, to_float(x[k]));
    }
    top = max_warp(top);
    const float base = top == -CUDART_INF_F ? 0.0f : top;
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        memcpy(x, &held.piece[i], 16);
        float part = 0.0f;
        #pragma unroll
        for (int k = 0; k < VEC; ++k) part += power((to_float(x[k]) - base) * factor);
        sum += part;
    }
    return {top, sum_warp(sum), greedy ? first_of(row, tile, vocab, top, lane) : NO_ID};
}

// The first maximum of the target row, with the status that its weights would have met: mass on one id, less mass on one id.
__device__ __forceinline__ int greedy_token(const Row& row, bool recovered, int& status) {
    const bool usable_target = row.target_scale.inverse == 1.0f, usable_draft = !row.draft || row.draft_scale.inverse == 1.0f;
    if (!usable_target || !usable_draft) status |= NONFINITE;
    if (recovered && (!usable_target || !usable_draft || (row.draft && row.draft_scale.first == row.target_scale.first))) status |= ZERO_RESIDUAL;
    if (!usable_target) status |= NO_MASS;
    return usable_target ? row.target_scale.first : -1;
}
