/* What decides which nodes of the trie a request may expand. */
#pragma once
#include "params/common.h"

/* At one level. */
typedef struct Legality {
    uint64_t ban_ends;    /* u32[requests][MAX_LEVELS + 1] */
    uint64_t ban_nodes;   /* u32[] sorted within a request's level */
    uint64_t masks;       /* u32[mask slots][mask_stride]: a bit a node of the level */
    uint32_t mask_stride; /* words between slots */
    uint32_t level;
} Legality;
