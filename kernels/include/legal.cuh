// Which children of a beam a request may expand: the one place that decides it.
//
// A child is legal when its bit in the request's mask is set, if the request has a mask, and when it is not among the banned
// nodes. Children of a beam stand one after another, so the lanes of a warp read one or two words of the mask, and only the
// banned nodes among them are looked through.
#pragma once
#include "params/legal.h"
#include "ptx.h"

struct Legal {
    const uint32_t* mask;    // of the level; null when every node is allowed
    const uint32_t* banned;  // those among the children, ascending
    uint32_t banned_count;
};

// How many of `count` sorted numbers are less than `value`; the lanes of a warp ask 32 of them at a time.
DEVICE uint32_t warp_lower_bound(const uint32_t* sorted, uint32_t count, uint32_t value) {
    const uint32_t lane = threadIdx.x & 31;
    uint32_t start = 0;
    while (count > 0) {
        const uint32_t step = (count + 31) / 32, at = lane * step;
        const uint32_t less = __popc(__ballot_sync(FULL_WARP, at < count && __ldg(sorted + start + at) < value));
        if (less == 0) break;
        const uint32_t passed = (less - 1) * step + 1;
        start += passed;
        count = min(count - passed, step - 1);
    }
    return start;
}

// What is legal of the nodes `first .. first + children`. All lanes of the warp call it. `mask` is the request's.
DEVICE Legal legal_among(const Legality& p, uint32_t request, uint32_t mask, uint32_t first, uint32_t children) {
    const uint32_t* ends = pointer<const uint32_t>(p.ban_ends) + request * (MAX_LEVELS + 1) + p.level;
    const uint32_t* nodes = pointer<const uint32_t>(p.ban_nodes) + ends[0];
    const uint32_t count = ends[1] - ends[0];
    const uint32_t start = warp_lower_bound(nodes, count, first);
    const uint32_t* masks = pointer<const uint32_t>(p.masks);
    return Legal{mask == 0 ? nullptr : masks + static_cast<size_t>(mask - 1) * p.mask_stride, nodes + start,
                 warp_lower_bound(nodes + start, count - start, first + children)};
}

// False when all children are legal.
DEVICE bool restricts(const Legal& legal) { return legal.mask != nullptr || legal.banned_count > 0; }

DEVICE bool is_legal(const Legal& legal, uint32_t node) {
    if (legal.mask != nullptr && (__ldg(legal.mask + node / 32) >> node % 32 & 1) == 0) return false;
    uint32_t low = 0, high = legal.banned_count;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (__ldg(legal.banned + middle) < node) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low == legal.banned_count || __ldg(legal.banned + low) != node;
}
