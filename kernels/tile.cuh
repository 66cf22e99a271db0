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

// 16 bytes of a row from id `first` on, at any alignment; ids outside the row read as OUTSIDE.
__device__ __forceinline__ uint4 load_elements(const ROW* row, int first, int vocab) {
    ROW element[VEC];
    #pragma unroll
    for (int k = 0; k < VEC; ++k) element[k] = first + k < vocab ? row[first + k] : ROW(OUTSIDE);
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
        const float target_k = probability(to_float(p[k]), first + k, row.target_scale);
        const float draft_k = row.draft ? probability(to_float(q[k]), first + k, row.draft_scale) : (first + k == row.drafted ? 1.0f : 0.0f);
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

// Sum of the weights of PIECES pieces of a row, `step` ids apart; five roundings deep. All loads are issued before the first is
// used. A row that is not aligned to 16 bytes, and the end of a row, is read element by element: more instructions, but the
// same lines of memory, and the same sum.
__device__ __forceinline__ float sum_pieces(const Row& row, int first, int step, int vocab, bool& finite) {
    float sum = 0.0f;
    if (is_aligned(row.target) && is_aligned(row.draft) && first + (PIECES - 1) * step + VEC <= vocab) {
        uint4 target[PIECES], draft[PIECES];
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) target[i] = *reinterpret_cast<const uint4*>(row.target + first + i * step);
        if (row.draft) {
            #pragma unroll
            for (int i = 0; i < PIECES; ++i) draft[i] = *reinterpret_cast<const uint4*>(row.draft + first + i * step);
        }
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) sum += sum_piece(target[i], draft[i], row, first + i * step, finite);
    } else {
        #pragma unroll 1
        for (int i = 0; i < PIECES; ++i) {
            const uint4 target = load_elements(row.target, first + i * step, vocab);
            const uint4 draft = row.draft ? load_elements(row.draft, first + i * step, vocab) : target;
            sum += sum_piece(target, draft, row, first + i * step, finite);
        }
    }
    return sum;
}

// Sum of a tile's weights over the warp, the same in all lanes. Sets NONFINITE in `status`.
__device__ __forceinline__ float sum_tile(const Row& row, int tile, int vocab, int lane, int& status) {
    bool finite = true;
    const float sum = sum_warp(sum_pieces(row, tile * TILE + lane * VEC, STEP, vocab, finite));
    if (!finite) status |= NONFINITE;
    return sum;
}

// The id in `tile` whose cumulative weight passes `rest`, by one warp: each lane sums 64 neighbouring bytes, then the 64 bytes
// in which the sum passes are looked at, one id per lane. If rounding leaves no crossing, the last part with weight.
__device__ __forceinline__ int find_token(const Row& row, int tile, float rest, int vocab, int lane) {
    constexpr int EACH = PIECES * VEC;
    bool finite = true;
    const float own = sum_pieces(row, tile * TILE + lane * EACH, VEC, vocab, finite);
    const float upto = scan_warp(own, lane);
    const int owner = first_or_last(__ballot_sync(ALL, own > 0.0f && upto > rest), __ballot_sync(ALL, own > 0.0f));
    rest -= __shfl_sync(ALL, upto - own, owner);
    const int id = tile * TILE + owner * EACH + lane;
    const float weight = lane < EACH && id < vocab ? residual(target_at(row, id), draft_at(row, id)) : 0.0f;
    const float sum = scan_warp(weight, lane);
    return id - lane + first_or_last(__ballot_sync(ALL, weight > 0.0f && sum > rest), __ballot_sync(ALL, weight > 0.0f));
}

// How a warp shares out the sums of `count` tiles: each lane has a run of them. sums: in shared memory.
struct Cut { int begin, end; double own, upto; };  // a lane's run, its sum, and the sum up to its end

__device__ __forceinline__ Cut cut_sums(const float* sums, int count, int lane) {
    const int each = (count + 31) / 32, begin = min(lane * each, count), end = min(begin + each, count);
    double own = 0.0;
    #pragma unroll 1  // short code is fetched sooner: this runs once
    for (int t = begin; t < end; ++t) own += sums[t];
    return {begin, end, own, scan_warp(own, lane)};
}

// The id at which the cumulative sum passes `limit`: the tile (sums[0] is that of tile `first`), then the id in it; by one warp.
// -1 if there is no mass.
__device__ __forceinline__ int find_in_tiles(const Row& row, const float* sums, const Cut& cut, int first, double limit, int vocab, int lane) {
    const unsigned mass = __ballot_sync(ALL, cut.own > 0.0);
    if (!mass) return -1;
    const int owner = first_or_last(__ballot_sync(ALL, cut.own > 0.0 && cut.upto > limit), mass);
    int tile = 0;
    float rest = -1.0f;  // of the limit, in the tile
    double upto = cut.upto - cut.own;
    #pragma unroll 1
    for (int t = cut.begin; t < cut.end; ++t) {
        if (sums[t] > 0.0f && (rest < 0.0f || upto <= limit)) tile = first + t, rest = fmaxf((float)(limit - upto), 0.0f);
        upto += sums[t];
    }
    return find_token(row, __shfl_sync(ALL, tile, owner), __shfl_sync(ALL, rest, owner), vocab, lane);
}

// The drawn id, by one warp: where the cumulative sum passes u * total; -1 if there is no mass.
__device__ __forceinline__ int draw_token(const Row& row, const float* sums, int tiles, double u, int vocab, int lane) {
    const Cut cut = cut_sums(sums, tiles, lane);
    return find_in_tiles(row, sums, cut, 0, u * __shfl_sync(ALL, cut.upto, 31), vocab, lane);
}
