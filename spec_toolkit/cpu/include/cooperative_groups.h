#error "the CPU executor does not run cooperative groups: use __syncthreads and the __shfl_*_sync functions, or put the include under #ifdef __CUDA_ARCH__"
