// What the rungs from V3 on share: a row cut into tiles of 2 KB, each held by one warp in 16-byte pieces, and the search for
// the token: which tile (from the tile sums), which 512 bytes of it, which lane's 16 bytes, which id. Elements keep their lane,
// and sums their order, whatever the alignment, the batch or the split over blocks: so the token never depends on them.
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

__device__ __forceinline__ uint4 load_piece(const ROW* row, int first, int vocab) {
    return is_aligned(row) && first + VEC <= vocab ? *reinterpret_cast<const uint4*>(row + first) : load_elements(row, first, vocab);
}

// The weights of the ids of one piece, from `first` on.
__device__ __forceinline__ void weigh(const uint4& target, const uint4& draft, const Row& row, int first, float (&weight)[VEC], bool& finite) {
    ROW p[VEC], q[VEC];
    memcpy(p, &target, 16);
    memcpy(q, &draft, 16);
    #pragma unroll
    for (int k = 0; k < VEC; ++k) {
        const float target_k = probability(to_float(p[k]), row.target_scale);
        const float draft_k = row.draft ? probability(to_float(q[k]), row.draft_scale) : (first + k == row.drafted ? 1.0f : 0.0f);
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

// This lane's sum of each of its pieces of a tile. All loads are issued before the first is used. A row that is not aligned to
// 16 bytes, and the end of a row, is read element by element: more instructions, but the same lines of memory, and the same sum.
__device__ __forceinline__ void sum_pieces(const Row& row, int tile, int vocab, int lane, float (&sum)[PIECES], bool& finite) {
    const int first = tile * TILE + lane * VEC;
    if (is_aligned(row.target) && is_aligned(row.draft) && first + (PIECES - 1) * STEP + VEC <= vocab) {
        uint4 target[PIECES], draft[PIECES];
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) target[i] = *reinterpret_cast<const uint4*>(row.target + first + i * STEP);
        if (row.draft) {
            #pragma unroll
            for (int i = 0; i < PIECES; ++i) draft[i] = *reinterpret_cast<const uint4*>(row.draft + first + i * STEP);
        }
        #pragma unroll
        for (int i = 0; i < PIECES; ++i) sum[i] = sum_piece(target[i], draft[i], row, first + i * STEP, finite);
    } else {
        #pragma unroll 1
        for (int i = 0; i < PIECES; ++i) {
            const uint4 target = load_elements(row.target, first + i * STEP, vocab);
            const float own = sum_piece(target, row.draft ? load_elements(row.draft, first + i * STEP, vocab) : target, row, first + i * STEP, finite);
            #pragma unroll
            for (int j = 0; j < PIECES; ++j) sum[j] = j == i ? own : sum[j];
        }
    }
}

// Sum of a tile's weights over the warp, the same in all lanes. Sets NONFINITE in `status`.
__device__ __forceinline__ float sum_tile(const Row& row, int tile, int vocab, int lane, int& status) {
    float sum[PIECES] = {};
    bool finite = true;
    sum_pieces(row, tile, vocab, lane, sum, finite);
    if (!finite) status |= NONFINITE;
    return sum_warp(sum[0] + sum[1] + (sum[2] + sum[3]));
}

// Where in a tile the cumulative weight passes `rest`: the piece, the lane, what is left of `rest` there. From each lane's sums of
// its pieces, by one warp. If rounding leaves no crossing, the last part with weight.
struct Spot { int piece, lane; float rest; };

__device__ __forceinline__ Spot find_piece(const float (&sum)[PIECES], float rest, int lane) {
    float upto[PIECES], own = 0.0f, last = 0.0f, start = 0.0f, before = 0.0f;
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) upto[i] = scan_warp(sum[i], lane);  // four scans, side by side
    int piece = -1;
    #pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        const float whole = __shfl_sync(ALL, upto[i], 31);
        if (whole > 0.0f && (piece < 0 || before <= rest)) piece = i, own = sum[i], last = upto[i], start = before;
        before += whole;
    }
    rest -= start;
    const int owner = first_or_last(__ballot_sync(ALL, own > 0.0f && last > rest), __ballot_sync(ALL, own > 0.0f));
    return {max(0, piece), owner, rest - __shfl_sync(ALL, last - own, owner)};
}

// The id in a piece at which the cumulative weight passes `rest`; likewise.
__device__ __forceinline__ int find_in_piece(const uint4& target, const uint4& draft, const Row& row, int first, float rest) {
    float weight[VEC], passed = 0.0f;
    bool finite = true;
    weigh(target, draft, row, first, weight, finite);
    int id = -1;
    #pragma unroll
    for (int k = 0; k < VEC; ++k)
        if (weight[k] > 0.0f && (id < 0 || passed <= rest)) id = first + k, passed += weight[k];
    return id;
}

// The same of a piece that a whole warp holds: the lane, then the id.
__device__ __forceinline__ int find_among_lanes(const uint4& target, const uint4& draft, const Row& row, int first, float rest, int lane) {
    bool finite = true;
    const float own = sum_piece(target, draft, row, first, finite), upto = scan_warp(own, lane);
    const int owner = first_or_last(__ballot_sync(ALL, own > 0.0f && upto > rest), __ballot_sync(ALL, own > 0.0f));
    return __shfl_sync(ALL, find_in_piece(target, draft, row, first, rest - (upto - own)), owner);
}

// The id in a tile at which the cumulative weight passes `rest`, by one warp.
__device__ __forceinline__ int find_in_tile(const Row& row, int tile, float rest, int vocab, int lane) {
    float sum[PIECES] = {};
    bool finite = true;
    sum_pieces(row, tile, vocab, lane, sum, finite);
    const Spot spot = find_piece(sum, rest, lane);
    const int first = tile * TILE + spot.piece * STEP + lane * VEC;  // the piece again: it is near, and holding it would cost registers
    const uint4 target = load_piece(row.target, first, vocab), draft = row.draft ? load_piece(row.draft, first, vocab) : target;
    return __shfl_sync(ALL, find_in_piece(target, draft, row, first, spot.rest), spot.lane);
}

// How a warp shares out the sums of `count` tiles: each lane has a run of them, GROUP at a time. sums: in shared memory.
constexpr int GROUP = 8;
struct Cut { int begin, end; double own, upto; };  // a lane's run, its sum, and the sum up to its end

__device__ __forceinline__ void load_group(const float* sums, int begin, int count, float (&part)[GROUP]) {
    #pragma unroll
    for (int t = 0; t < GROUP; ++t) part[t] = begin + t < count ? sums[begin + t] : 0.0f;
}

__device__ __forceinline__ Cut cut_sums(const float* sums, int count, int lane) {
    const int run = (count + 32 * GROUP - 1) / (32 * GROUP) * GROUP;
    double own = 0.0;
    #pragma unroll 1
    for (int t = lane * run; t < min((lane + 1) * run, count); t += GROUP) {
        float part[GROUP];
        load_group(sums, t, count, part);
        #pragma unroll
        for (int width = GROUP / 2; width; width /= 2) {
            #pragma unroll
            for (int k = 0; k < width; ++k) part[k] += part[k + width];
        }
        own += part[0];
    }
    return {lane * run, min((lane + 1) * run, count), own, scan_warp(own, lane)};
}

// The tile at which the cumulative sum passes `limit`, in the run of lane `owner` (sums[0] is that of tile `first`), and what is
// left of the limit there; by one warp.
struct Place { int tile; float rest; };

__device__ __forceinline__ Place find_tile(const float* sums, const Cut& cut, int owner, int first, double limit) {
    const float rest = fmaxf((float)(limit - (cut.upto - cut.own)), 0.0f);
    int tile = 0;
    float before = -1.0f, passed = 0.0f;
    #pragma unroll 1
    for (int begin = cut.begin; begin < cut.end; begin += GROUP) {
        float part[GROUP];
        load_group(sums, begin, cut.end, part);
        #pragma unroll
        for (int t = 0; t < GROUP; ++t) {
            if (part[t] > 0.0f && (before < 0.0f || passed <= rest)) tile = begin + t, before = passed;
            passed += part[t];
        }
    }
    return {first + __shfl_sync(ALL, tile, owner), __shfl_sync(ALL, rest - before, owner)};
}

// The id there.
__device__ __forceinline__ int find_in_run(const Row& row, const float* sums, const Cut& cut, int owner, int first, double limit, int vocab, int lane) {
    const Place place = find_tile(sums, cut, owner, first, limit);
    return find_in_tile(row, place.tile, place.rest, vocab, lane);
}

// The lane in whose run the cumulative sum passes `limit`; if rounding leaves no crossing, the last with mass; -1 if none has any.
__device__ __forceinline__ int owner_of(const Cut& cut, double limit) {
    const unsigned mass = __ballot_sync(ALL, cut.own > 0.0), passed = __ballot_sync(ALL, cut.own > 0.0 && cut.upto > limit);
    return mass ? first_or_last(passed, mass) : -1;
}

// The drawn id, by one warp: where the cumulative sum passes u * total; -1 if there is no mass.
__device__ __forceinline__ int draw_token(const Row& row, const float* sums, int tiles, double u, int vocab, int lane) {
    const Cut cut = cut_sums(sums, tiles, lane);
    const double limit = u * __shfl_sync(ALL, cut.upto, 31);
    const int owner = owner_of(cut, limit);
    return owner < 0 ? -1 : find_in_run(row, sums, cut, owner, 0, limit, vocab, lane);
}
