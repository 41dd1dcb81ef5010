/* Parameters of expand_scan and expand_finish: one level of trie-constrained beam search. */
#pragma once
#include "params/common.h"
#include "params/legal.h"

/* Children of one beam that stand one after another and are looked at together: a warp's lanes. */
#define EXPAND_GROUP 32u
/* Groups that make up a run: what a warp of expand_scan looks at. */
#define EXPAND_RUN_GROUPS 8u
/* Scratch keys a beam row. At most a quarter more runs, and then groups, than beams are looked into: so many groups of chosen
   runs, so many children of chosen groups; and a power of two that is not less than the beam width, for the final order. */
#define EXPAND_LISTED 10u
#define EXPAND_CANDIDATES 40u
#define EXPAND_ORDER 2u

/* The place of no child. */
#define EXPAND_NONE 0xffffffffu

typedef struct ExpandParams {
    BeamState now;        /* beams before this level */
    BeamState next;       /* beams after it */
    uint64_t requests;    /* RequestEntry[requests] */
    uint64_t row_request; /* u32[rows] */
    uint64_t counts;      /* u32[4]: requests, end of the last row */
    Legality legal;       /* which children are candidates */
    uint64_t codes;       /* u16[nodes of the level] */
    uint64_t first_child; /* u32[nodes of the level above + 1]; level 0: of the root */
    uint64_t tokens;      /* u32[codes of the level] */
    uint64_t logits;      /* f32[rows][logits_stride]; at level 0 a row a request, else a row a beam */
    uint64_t lognorm;     /* f32[rows][lognorm_stride] */
    uint64_t norms;       /* from expand_masked: f32[rows][MASKED_NORMS] */
    uint64_t keys;        /* from expand_masked: f32[rows][key_stride] */
    uint64_t draws;       /* from expand_masked: u32[rows] */
    uint64_t log_probs;   /* f32[steps][rows][2]: behaviour and raw log-probability of the token of that step and row */
    uint64_t parents;     /* scratch: u32[rows][4]: score, log-normaliser, first child, children */
    uint64_t groups;      /* scratch: u32[rows][group_stride][2]: best score, legal children */
    uint64_t run_keys;    /* scratch: u64[rows][run_stride] */
    uint64_t run_counts;  /* scratch: u32[requests]; zero before expand_scan, and expand_finish leaves it so */
    uint64_t listed;      /* scratch: u64[rows][EXPAND_LISTED] */
    uint64_t candidates;  /* scratch: u64[rows][EXPAND_CANDIDATES] */
    uint64_t order;       /* scratch: u64[rows][EXPAND_ORDER] */
    uint32_t group_stride; /* groups that the widest node of the trie has */
    uint32_t run_stride;   /* runs that it has */
    uint32_t logits_stride;
    uint32_t lognorm_stride;
    uint32_t key_stride;
    uint32_t level;
    uint32_t rows; /* row capacity of the ancestor and log-probability tables */
    uint32_t reserved;
} ExpandParams;
