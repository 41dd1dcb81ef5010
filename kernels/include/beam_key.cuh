// A candidate of the search as one u64 whose descending order is the order of the search: score descending, then parent rank
// ascending, then code ascending. Children of a node are sorted by code, so the place among them stands for the code.
//
// NaN counts as negative infinity, and -0 is 0. No score packs to 0, which thus can mean "none".
#pragma once
#include "ptx.h"

// A score as a selection keeps it.
DEVICE float settled_score(float score) { return score != score ? negative_infinity() : score + 0.0f; }

// Bits that order as the score does.
DEVICE uint32_t ordered_score(float score) {
    uint32_t bits = __float_as_uint(settled_score(score));
    return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

DEVICE float score_of(uint64_t key) {
    uint32_t ordered = static_cast<uint32_t>(key >> 32);
    return __uint_as_float(ordered >> 31 ? ordered ^ 0x80000000u : ~ordered);
}

// `rank` and `place` have 16 bits each.
DEVICE uint64_t beam_key(uint32_t ordered, uint32_t rank, uint32_t place) {
    return static_cast<uint64_t>(ordered) << 32 | (~(rank << 16 | place) & 0xffffffffu);
}

DEVICE uint32_t rank_of(uint64_t key) { return ~static_cast<uint32_t>(key) >> 16; }
DEVICE uint32_t place_of(uint64_t key) { return ~static_cast<uint32_t>(key) & 0xffffu; }
