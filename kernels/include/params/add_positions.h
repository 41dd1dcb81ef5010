/* Parameters of add_positions. */
#pragma once
#include "params/common.h"

typedef struct PositionsParams {
    uint64_t table;          /* T[positions][cols], as in the file */
    uint64_t live;           /* u32: rows now */
    uint64_t row_position;   /* u32[rows] of a token lane; 0 for beams */
    uint64_t row_request;    /* u32[rows] of a cohort lane; 0 for tokens */
    uint64_t requests;       /* RequestEntry[] of a cohort lane; 0 for tokens */
    uint64_t prefix_lengths; /* u32: valid prefix tokens of slot s at prefix_lengths[s * slot_stride]; 0 for tokens */
    uint64_t out;            /* f32[rows][out_stride], added to */
    uint32_t positions;      /* rows of the table */
    uint32_t cols;
    uint32_t out_stride;
    uint32_t slot_stride;
    uint32_t step; /* of the beams' newest token; 0 for tokens */
    uint32_t reserved;
} PositionsParams;
