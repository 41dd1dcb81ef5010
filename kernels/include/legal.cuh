// Which children of a beam a request may expand: the one place on this device that decides it.
#pragma once
#include "params/common.h"
#include "ptx.h"

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

// Banned nodes that lie among a beam's children.
struct Banned {
    const uint32_t* nodes;
    uint32_t count;
};

DEVICE bool is_banned(const Banned& banned, uint32_t node) {
    uint32_t low = 0, high = banned.count;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (__ldg(banned.nodes + middle) < node) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < banned.count && __ldg(banned.nodes + low) == node;
}

// `p` has a lane's bans and the level.
template <class Params>
DEVICE Banned banned_among(const Params& p, uint32_t request, uint32_t first, uint32_t children) {
    const uint32_t* ends = pointer<const uint32_t>(p.ban_ends) + request * (MAX_LEVELS + 1) + p.level;
    const uint32_t* nodes = pointer<const uint32_t>(p.ban_nodes) + ends[0];
    const uint32_t count = ends[1] - ends[0];
    const uint32_t start = warp_lower_bound(nodes, count, first);
    return Banned{nodes + start, warp_lower_bound(nodes + start, count - start, first + children)};
}
