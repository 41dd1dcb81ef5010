/* Parameters of expand_scan and expand_finish: one level of trie-constrained beam search. */
#pragma once
#include "params/common.h"

/* Children of one beam that stand one after another and are looked at together: a warp's lanes. */
#define EXPAND_GROUP 32u
/* Groups of one beam that a block of expand_scan covers. */
#define EXPAND_SCAN_GROUPS 64u
/* Scratch keys a beam row: of candidates (a quarter more groups than beams may be looked into), and of the final order
   (a power of two that is not less than the beam width). */
#define EXPAND_CANDIDATES 40u
#define EXPAND_ORDER 2u

typedef struct ExpandParams {
    BeamState now;         /* beams before this level */
    BeamState next;        /* beams after it */
    uint64_t requests;     /* RequestEntry[requests] */
    uint64_t row_request;  /* u32[rows] */
    uint64_t counts;       /* u32[4]: requests, end of the last row */
    uint64_t ban_ends;     /* u32[requests][MAX_LEVELS + 1] */
    uint64_t ban_nodes;    /* u32[] sorted within a request's level */
    uint64_t codes;        /* u16[nodes of the level] */
    uint64_t first_child;  /* u32[nodes of the level above + 1]; level 0: of the root */
    uint64_t tokens;       /* u32[codes of the level] */
    uint64_t logits;       /* f32[rows][logits_stride]; at level 0 a row a request, else a row a beam */
    uint64_t lognorm;      /* f32[rows][lognorm_stride] */
    uint64_t group_keys;   /* scratch u64[rows][group_stride] */
    uint64_t group_legal;  /* scratch u32[rows][group_stride] */
    uint64_t group_counts; /* scratch u32[requests]; zero before expand_scan, and expand_finish leaves it so */
    uint64_t candidates;   /* scratch u64[rows][EXPAND_CANDIDATES] */
    uint64_t order;        /* scratch u64[rows][EXPAND_ORDER] */
    uint32_t group_stride; /* groups that the widest node of the trie has */
    uint32_t logits_stride;
    uint32_t lognorm_stride;
    uint32_t level;
    uint32_t rows; /* row capacity of the ancestor tables */
    uint32_t reserved;
} ExpandParams;
