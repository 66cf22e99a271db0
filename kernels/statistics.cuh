// The statistics of a tile of logits, by one warp: what the rungs from logits gather before any probability is known; and the last
// token of a greedy request, which needs nothing else.
#pragma once
#include "tile.cuh"

// A piece behind the end of a row.
__device__ __forceinline__ uint4 outside() {
    ROW element[VEC];
    #pragma unroll
    for (int k = 0; k < VEC; ++k) element[k] = ROW(OUTSIDE);
    uint4 piece;
    memcpy(&piece, element, 16);
    return piece;
}

// A lane's pieces of a tile, PIECES of them, 512 bytes apart, from `at` on, which is aligned; `rest` ids are left of the row, which ends with
// a piece; past its end is OUTSIDE. What is read once is marked as the first to leave a cache.
__device__ __forceinline__ void load_whole(const ROW* at, int rest, uint4 (&piece)[PIECES]) {
    if (rest >= (PIECES - 1) * STEP + VEC) {
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) piece[i] = __ldcs(reinterpret_cast<const uint4*>(at + i * STEP));
    } else {
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) piece[i] = i * STEP < rest ? __ldcs(reinterpret_cast<const uint4*>(at + i * STEP)) : outside();
    }
}

// The same of any row.
__device__ __forceinline__ void load_pieces(const ROW* at, int rest, uint4 (&piece)[PIECES]) {
    if (is_aligned(at) && (rest >= (PIECES - 1) * STEP + VEC || rest % VEC == 0)) {
        load_whole(at, rest, piece);
    } else {
        #pragma unroll 1
        for (int i = 0; i < PIECES; ++i) {
            const uint4 one = load_elements(at, i * STEP, rest);
            #pragma unroll
            for (int j = 0; j < PIECES; ++j) piece[j] = j == i ? one : piece[j];  // an index that is not a constant would cost local memory
        }
    }
}

__device__ __forceinline__ void load_tile(const ROW* row, int tile, int vocab, int lane, uint4 (&piece)[PIECES]) {
    const int first = tile * TILE + lane * VEC;
    load_pieces(row + first, vocab - first, piece);
}

// By one instruction where there is one: integers have the order of the floats whose bits they are, the negative ones backwards.
__device__ __forceinline__ float max_warp(float x) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    const int bits = __float_as_int(x), most = __reduce_max_sync(ALL, bits ^ (bits >> 31 & 0x7fffffff));
    return __int_as_float(most ^ (most >> 31 & 0x7fffffff));
#else
    for (int distance = 16; distance; distance /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, distance));
    return x;
#endif
}

__device__ __forceinline__ int min_warp(int x) {
    for (int distance = 16; distance; distance /= 2) x = min(x, __shfl_xor_sync(ALL, x, distance));
    return x;
}

struct Pieces { uint4 piece[PIECES]; };

template <typename To, typename From>
__device__ __forceinline__ To same_bits(const From& x) {
    static_assert(sizeof(To) == sizeof(From), "another size");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

// Words hold one logit or two; NaN aside, the larger ones.
__device__ __forceinline__ unsigned larger(unsigned a, unsigned b, float) { return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b))); }
__device__ __forceinline__ unsigned larger(unsigned a, unsigned b, __half) { return same_bits<unsigned>(__hmax2(same_bits<__half2>(a), same_bits<__half2>(b))); }
__device__ __forceinline__ unsigned larger(unsigned a, unsigned b, __nv_bfloat16) {
    return same_bits<unsigned>(__hmax2(same_bits<__nv_bfloat162>(a), same_bits<__nv_bfloat162>(b)));
}

// Logit k of a piece: where a word holds two, by its word, which costs fewer registers than an array. A bfloat16 is the upper half of a
// float, which the compiler takes two instructions to say.
__device__ __forceinline__ unsigned word_of(const uint4& piece, int i) { return i == 0 ? piece.x : i == 1 ? piece.y : i == 2 ? piece.z : piece.w; }
__device__ __forceinline__ float logit_of(const uint4& piece, int k, float) { return __uint_as_float(word_of(piece, k)); }
__device__ __forceinline__ float logit_of(const uint4& piece, int k, __half) {
    const unsigned word = word_of(piece, k / 2);
    return __half2float(__ushort_as_half((unsigned short)(k % 2 ? word >> 16 : word)));
}
__device__ __forceinline__ float logit_of(const uint4& piece, int k, __nv_bfloat16) {
    const unsigned word = word_of(piece, k / 2);
    return __uint_as_float(k % 2 ? word & 0xffff0000u : word << 16);
}

// An index that is not a constant would cost local memory.
__device__ __forceinline__ uint4 piece_of(const Pieces& held, int i) {
    uint4 piece = held.piece[0];
    #pragma unroll
    for (int j = 1; j < PIECES; ++j) piece = i == j ? held.piece[j] : piece;
    return piece;
}

// The first id of a tile that has its maximum: only greedy requests need it.
__device__ __forceinline__ int first_of(const Pieces& held, int tile, float top, int lane) {
    int first = NO_ID;
    #pragma unroll 1
    for (int i = PIECES - 1; i >= 0; --i) {
        const uint4 piece = piece_of(held, i);
        #pragma unroll
        for (int k = VEC - 1; k >= 0; --k)
            if (logit_of(piece, k, ROW()) == top) first = tile * TILE + i * STEP + lane * VEC + k;
    }
    return min_warp(first);
}

// The maximum of a tile, NaN aside; the same in all lanes.
__device__ __forceinline__ float top_of(const Pieces& held) {
    unsigned most = held.piece[0].x;
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        const uint4& x = held.piece[i];
        most = larger(most, larger(larger(x.x, x.y, ROW()), larger(x.z, x.w, ROW()), ROW()), ROW());
    }
    const uint4 both = make_uint4(most, most, most, most);
    return max_warp(fmaxf(-CUDART_INF_F, fmaxf(logit_of(both, 0, ROW()), logit_of(both, VEC - 1, ROW()))));
}

// What the powers of a tile are relative to: its own maximum, so that no logit is too large.
struct Base { float logit, shift; };  // shift = logit * factor

__device__ __forceinline__ Base base_of(float top, float factor) {
    const float logit = top == -CUDART_INF_F ? 0.0f : top;
    return {logit, logit * factor};
}

// Then (x - base) * factor takes one instruction; what rounding adds to `shift` is the same for all ids.
__device__ __forceinline__ bool is_near(const Base& base) { return fabsf(base.shift) < 0x1p15f; }

__device__ __forceinline__ float sum_near(const Pieces& held, const Base& base, float factor) {
    float sum = 0.0f;
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        float part = power(fmaf(logit_of(held.piece[i], 0, ROW()), factor, -base.shift));
        #pragma unroll
        for (int k = 1; k < VEC; ++k) part += power(fmaf(logit_of(held.piece[i], k, ROW()), factor, -base.shift));
        sum = i ? sum + part : part;
    }
    return sum_warp(sum * power(-fmaf(base.logit, factor, -base.shift)));
}

__device__ __forceinline__ float sum_far(const Pieces& held, const Base& base, float factor) {
    float sum = 0.0f;
    #pragma unroll 1
    for (int i = 0; i < PIECES; ++i) {
        const uint4 piece = piece_of(held, i);
        #pragma unroll
        for (int k = 0; k < VEC; ++k) sum += power((logit_of(piece, k, ROW()) - base.logit) * factor);
    }
    return sum_warp(sum);
}

// Of any tile; the same in all lanes.
__device__ __forceinline__ Stats tile_statistics(const Pieces& held, int tile, float factor, bool greedy, int lane) {
    const float top = top_of(held);
    const int first = greedy ? first_of(held, tile, top, lane) : NO_ID;
    const Base base = base_of(top, factor);
    return {top, is_near(base) ? sum_near(held, base, factor) : sum_far(held, base, factor), first};
}

// The first maximum of the target row, with the status that its weights would have met: mass on one id, less mass on one id.
__device__ __forceinline__ int greedy_token(const Row& row, bool recovered, int& status) {
    const bool usable_target = row.target_scale.inverse == 1.0f, usable_draft = !row.draft || row.draft_scale.inverse == 1.0f;
    if (!usable_target || !usable_draft) status |= NONFINITE;
    if (recovered && (!usable_target || !usable_draft || (row.draft && row.draft_scale.first == row.target_scale.first))) status |= ZERO_RESIDUAL;
    if (!usable_target) status |= NO_MASS;
    return usable_target ? row.target_scale.first : -1;
}
