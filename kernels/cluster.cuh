// What the rungs with clusters share. The blocks of a cluster run at the same time, near each other, and may write into each other's
// shared memory (Hopper on; Luo et al., arXiv 2402.13499, measure it at a fraction of the way through the L2). Elsewhere, and
// on the CPU executor, the contract makes a cluster one block, and the same code runs.
#pragma once
#include "tile.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define SPEC_CLUSTERS 1
#endif

// A row is cut into SEGMENTS runs of tiles, whatever the number of blocks: a block owns whole segments, and sums are taken
// within segments first. So no sum depends on how many blocks share the row.
constexpr int SEGMENTS = 16;

// All threads of all blocks of the cluster come here; what they wrote before is seen after.
__device__ __forceinline__ void cluster_barrier() {
#ifdef SPEC_CLUSTERS
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    __syncthreads();
#endif
}

// Writes `value` where `place` is in the shared memory of block `rank` of the cluster. T: 4 or 8 bytes.
template <typename T>
__device__ __forceinline__ void store_to(int rank, T* place, T value) {
#ifdef SPEC_CLUSTERS
    unsigned there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"((unsigned)__cvta_generic_to_shared(place)), "r"(rank));
    if (sizeof(T) == 8) {
        unsigned long long bits;
        memcpy(&bits, &value, sizeof(T));
        asm volatile("st.shared::cluster.u64 [%0], %1;" :: "r"(there), "l"(bits) : "memory");
    } else {
        unsigned bits;
        memcpy(&bits, &value, sizeof(T));
        asm volatile("st.shared::cluster.u32 [%0], %1;" :: "r"(there), "r"(bits) : "memory");
    }
#else
    *place = value;
#endif
}
