// What the rungs from V3 on share: a row cut into tiles of 2 KB, each held by one warp in 16-byte pieces, and the search for
// the token: which tile (from the tile sums), which 512 bytes of it, which id. Elements keep their lane, and sums their
// order, whatever the alignment, the batch or the split over blocks: so the token never depends on them.
#pragma once
#include "warp.cuh"

constexpr int VEC = 16 / sizeof(ROW);     // elements in 16 bytes
constexpr int PIECES = 4;                 // 16-byte pieces of a row that a lane holds
constexpr int STEP = 32 * VEC;            // elements in 512 bytes: one piece of each lane
constexpr int TILE = PIECES * STEP;       // 512 floats, 1024 halves
static_assert(TILE * sizeof(ROW) == 2048, "the contracts count tiles as ceil_div(vocab * itemsize, 2048)");

__device__ __forceinline__ bool is_aligned(const void* p) { return (reinterpret_cast<unsigned long long>(p) & 15) == 0; }

// 16 bytes of a row from id `first` on, at any alignment; ids outside the row read as zero.
__device__ __forceinline__ uint4 load_elements(const ROW* row, int first, int vocab) {
    ROW element[VEC];
    #pragma unroll
    for (int k = 0; k < VEC; ++k) element[k] = first + k < vocab ? row[first + k] : ROW(0.0f);
    uint4 piece;
    memcpy(&piece, element, 16);
    return piece;
}

// The weights of the ids of one piece, from `first` on.
__device__ __forceinline__ void weigh(const uint4& target, const uint4& draft, const Row& row, int first, float (&weight)[VEC], bool& finite) {
    ROW p[VEC], q[VEC];
    memcpy(p, &target, 16);
    memcpy(q, &draft, 16);
    #pragma unroll
    for (int k = 0; k < VEC; ++k) {
        const float target_k = to_float(p[k]), draft_k = row.draft ? to_float(q[k]) : (first + k == row.drafted ? 1.0f : 0.0f);
        finite = finite && isfinite(target_k) && isfinite(draft_k);
        weight[k] = residual(target_k, draft_k);
    }
}

__device__ __forceinline__ float sum_piece(const uint4& target, const uint4& draft, const Row& row, int first, bool& finite) {
    float weight[VEC];
    weigh(target, draft, row, first, weight, finite);
    #pragma unroll
    for (int width = VEC / 2; width; width /= 2) {
        #pragma unroll
        for (int k = 0; k < width; ++k) weight[k] += weight[k + width];
    }
    return weight[0];
}

// Sum of a tile's weights over the warp, the same in all lanes; ten roundings deep. Sets NONFINITE in `status`.
// All loads of a lane are issued before the first is used. A row that is not aligned to 16 bytes, and the end of a row, is
// read element by element: more instructions, but the same lines of memory, and the same sum.
__device__ __forceinline__ float sum_tile(const Row& row, int tile, int vocab, int lane, int& status) {
    const int first = tile * TILE + lane * VEC;
    const bool whole = (tile + 1) * TILE <= vocab && is_aligned(row.target) && is_aligned(row.draft);
    float sum = 0.0f;
    bool finite = true;
    if (whole) {
        uint4 target[PIECES], draft[PIECES];
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) target[i] = *reinterpret_cast<const uint4*>(row.target + first + i * STEP);
        if (row.draft) {
            #pragma unroll
            for (int i = 0; i < PIECES; ++i) draft[i] = *reinterpret_cast<const uint4*>(row.draft + first + i * STEP);
        }
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) sum += sum_piece(target[i], draft[i], row, first + i * STEP, finite);
    } else {
        #pragma unroll 1
        for (int i = 0; i < PIECES; ++i) {
            const uint4 target = load_elements(row.target, first + i * STEP, vocab);
            const uint4 draft = row.draft ? load_elements(row.draft, first + i * STEP, vocab) : target;
            sum += sum_piece(target, draft, row, first + i * STEP, finite);
        }
    }
    if (!finite) status |= NONFINITE;
    for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(ALL, sum, distance);
    return sum;
}

struct Found { int tile; double rest; };  // rest: what is left of the threshold inside that tile

// The tile in which the cumulative sum passes u * total, by one warp; tile -1 if there is no mass. sums: shared memory.
__device__ __forceinline__ Found find_tile(const float* sums, int tiles, double u, int lane) {
    const int each = (tiles + 31) / 32, begin = lane * each, end = min(begin + each, tiles);
    double own = 0.0;
    for (int t = begin; t < end; ++t) own += sums[t];
    const double upto = scan_warp(own, lane), limit = u * __shfl_sync(ALL, upto, 31);
    const unsigned passed = __ballot_sync(ALL, own > 0.0 && upto > limit), mass = __ballot_sync(ALL, own > 0.0);
    if (!mass) return {-1, 0.0};
    const int owner = passed ? __ffs(passed) - 1 : 31 - __clz(mass);  // rounding may leave no crossing: then the last
    Found found = {-1, 0.0};
    double before = upto - own;
    if (lane == owner) {
        for (int t = begin; t < end && (found.tile < 0 || before <= limit); ++t) {
            if (sums[t] == 0.0f) continue;
            found = {t, limit - before};
            before += sums[t];
        }
    }
    return {__shfl_sync(ALL, found.tile, owner), __shfl_sync(ALL, found.rest, owner)};
}

// The id in the tile whose cumulative weight passes `rest`, by one warp; if rounding leaves no crossing, the last with weight.
__device__ __forceinline__ int find_token(const Row& row, const Found& found, int vocab, int lane) {
    const int first = found.tile * TILE + lane * VEC;
    float weight[VEC];
    bool finite;
    double before = 0.0, start = 0.0;
    int chosen = -1;  // the piece in which the sum passes
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        const int id = first + i * STEP;
        const uint4 target = load_elements(row.target, id, vocab), draft = row.draft ? load_elements(row.draft, id, vocab) : target;
        double sum = sum_piece(target, draft, row, id, finite);
        for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(ALL, sum, distance);
        if (sum > 0.0 && (chosen < 0 || before <= found.rest)) chosen = id, start = before;
        before += sum;
    }
    const uint4 target = load_elements(row.target, chosen, vocab), draft = row.draft ? load_elements(row.draft, chosen, vocab) : target;
    weigh(target, draft, row, chosen, weight, finite);
    double own = 0.0;
    #pragma unroll
    for (int k = 0; k < VEC; ++k) own += weight[k];
    const double upto = start + scan_warp(own, lane);
    const unsigned passed = __ballot_sync(ALL, own > 0.0 && upto > found.rest), mass = __ballot_sync(ALL, own > 0.0);
    const int owner = passed ? __ffs(passed) - 1 : 31 - __clz(mass);
    int token = -1;
    double sum = upto - own;
    #pragma unroll
    for (int k = 0; k < VEC; ++k) {
        if (weight[k] > 0.0f && (token < 0 || sum <= found.rest)) token = chosen + k;
        sum += weight[k];
    }
    return __shfl_sync(ALL, token, owner);
}
