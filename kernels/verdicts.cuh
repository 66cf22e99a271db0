// What blocks tell each other without a fence: a number in one word with the number of the call, so that whoever reads it knows whether
// it is one of this call; and the verdicts on the positions of a request.
#pragma once

template <typename T>
__device__ __forceinline__ T fetch(const T* word) { return *(const volatile T*)word; }

__device__ __forceinline__ void publish(unsigned long long* word, unsigned call, unsigned number) {
    *(volatile unsigned long long*)word = (unsigned long long)call << 32 | number;
}

// A number that is known to be on its way.
__device__ __forceinline__ unsigned receive(const unsigned long long* word, unsigned call) {
    unsigned long long seen;
    while (seen = fetch(word), (unsigned)(seen >> 32) != call) __nanosleep(20);
    return (unsigned)seen;
}

// Verdicts of a request, 32 positions to a word. A bit in the high half: the request ends here, or earlier. A bit in the low half: the
// draft was accepted; beside one in the high half: what is drawn here has been published.

// Of the positions in the word of position i: does one before it end the request?
__device__ __forceinline__ bool end_before(unsigned long long word, int i) { return (unsigned)(word >> 32) & ((1u << i % 32) - 1); }

// Does the request end before position i?
__device__ __forceinline__ bool overtaken(const unsigned long long* verdicts, int i) {
    for (int g = 0; g < i / 32; ++g)
        if (fetch(verdicts + g) >> 32) return true;
    return end_before(fetch(verdicts + i / 32), i);
}

// Where the positions of a word end the request, if all before it are known to be accepted: 0..31; 32: all are accepted; -1: not known.
__device__ __forceinline__ int end_of(unsigned long long word) {
    const int end = __ffs((int)(word >> 32)), open = __ffs((int)~(unsigned)word);  // from 1; 0: none
    return end && !(open && open < end) ? end - 1 : open ? -1 : 32;
}

// Where the request ends, -1: not known. drawn: has been published what is drawn there?
__device__ __forceinline__ int end_of(const unsigned long long* verdicts, int groups, bool& drawn) {
    drawn = false;
    for (int g = 0; g < groups; ++g) {
        const unsigned long long word = fetch(verdicts + g);
        const int end = end_of(word);
        if (end < 0) return -1;
        if (end < 32) return drawn = word >> end & 1, 32 * g + end;
    }
    return -1;
}

// Where one word holds all verdicts, whoever adds to it knows what it has changed. Of several words, of all that see both the decision and
// the outcome, the first to say so in `written` writes.

// Tell that draft i was accepted: the position whose outcome this block has to write, or -1: it is not decided where the request ends, or
// the block there has not drawn yet, and will find it decided.
__device__ __forceinline__ int tell_accepted(unsigned long long* verdicts, int i, int groups, unsigned* written, unsigned call) {
    const unsigned long long bit = 1ull << i % 32, before = atomicOr(verdicts + i / 32, bit);
    if (groups == 1) {
        const int end = end_of(before | bit);
        return end_of(before) < 0 && end >= 0 && before >> end & 1 ? end : -1;
    }
    bool drawn;
    __threadfence();
    const int end = end_of(verdicts, groups, drawn);
    return end >= 0 && drawn && atomicExch(written, call) != call ? end : -1;
}

// Tell that the outcome of position i, which ends the request or follows its end, has been published: does this block have to write it?
__device__ __forceinline__ bool tell_drawn(unsigned long long* verdicts, int i, int groups, unsigned* written, unsigned call) {
    const unsigned long long before = atomicOr(verdicts + i / 32, 1ull << i % 32);
    if (groups == 1) return end_of(before) == i;
    bool drawn;
    __threadfence();
    return end_of(verdicts, groups, drawn) == i && atomicExch(written, call) != call;
}
