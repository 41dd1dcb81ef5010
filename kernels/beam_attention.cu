// Beam attention over shared keys in bf16: the live beams of a request, and the query heads that share a KV head, are rows of
// one matrix product against the keys of a slot's pages, so that keys are read once for all of them.
//
//     S = q K^T + bias,  P = 2^(S log2 e - max),  O = P V;  then own tokens, division and store: beam_row.cuh
//
// **Splits.** A segment of n tokens is cut into splits of 256 ceil(n / 2048) tokens, at most 8, by its own length alone. The
// sums of a split start from nothing, and splits merge in order. So it does not show in a result who computes which split, and
// a launch goes one of two ways, with the same bits:
//   * whole: a block walks all splits of its rows and finishes them. Its two groups of 4 warps have the even and the odd
//     splits and take turns at sums in shared memory. For launches that fill half the card, and for at most two splits.
//   * apart: a block takes two splits, one a group, and leaves their sums in global memory for beam_attention_merge.cu. For
//     few rows and long segments. The sums are 8 rows heads (dim + 2) 4 bytes, 65 MiB at 1,024 rows of 16 heads of 128, and go
//     through L2 twice, which is why large launches do not come this way.
//
// **Pipeline.** A group has one buffer of keys and one of values, 64 of each (32 at DIM 256), which take turns, so that each
// copy has half an iteration to arrive at two barriers of the group an iteration. Groups meet only at their turns: one's
// softmax runs beside the other's products. Pages are looked up a block ahead, by one thread a key.
//
//     wait K(t) | copy V(t) ..... S = q K(t)      | wait V(t) | copy K(t + 1) ..... softmax, O += P V(t) | ...
//
// **Launch.** Grid (tiles of the bucket's beams x group, KV heads x 1 or ceil(splits / 2), requests), 256 threads, kernels by
// DIM and rows of a tile (TILES x 64; bits do not depend on it). Blocks behind the live rows or the slot's splits leave.
// Dynamic shared memory is sizeof(Shared<DIM, TILES>), or its part before `sums` when apart, in bytes:
//                  32_64    64_64   64_128   128_64  128_128   256_64
//         apart   21,552   42,032   50,224   82,992   99,376   98,864   (101,376 is what every card of sm_80 or later grants)
//         whole   30,256   58,928   84,016  116,272  165,936  164,912   (166,912 on sm_80)
//
// **Figures**, Qwen3-1.7B's shape (16 / 8 heads of 128), 4 requests of 256 beams and 1,000 tokens, one layer on an H100, whole
// at 128 rows: 128 blocks of 132 multiprocessors, one wave. 16,384 rows x 1,000 keys x 512 = 8.4 GFLOP; keys and values 16.4
// MB from HBM (4.9 us) and 4 times that from L2; own tokens 4 MB a step; queries and results 8 MB. 16,000 mma.m16n8k16 a
// multiprocessor:
//   * tensor cores: mma.sync reaches some 62% of the card's 989 TFLOP/s: 13.7 us;
//   * shared memory: with two tiles a warp a fragment of keys or values (512 B) feeds four mma, a fragment of queries is read
//     again each block: 1.5 clocks an mma, 24,000 clocks, 13.3 us, beside the former; one tile a warp would take 2.5;
//   * issue: some 1,500 slots a warp and 256 mma: 23,400 clocks, 13 us, likewise beside;
//   * turns, own tokens, prologue: 5,000 clocks, 2.8 us.
// Three limits that close are not met at once: not below 17 us; at the 40% of peak that kernels of this kind are known for, 21
// us. 28 layers: 0.47 to 0.6 ms a step. So the bar of 1.2 ms holds for the two decode steps that three tokens take (the first
// comes from the prompt), 0.95 to 1.2 ms; three steps would take 1.4 to 1.8 ms, below 1.2 only with wgmma. NVIDIA's
// gr_decode_atten: 1.6 ms. Not measured. An A100 (312 TFLOP/s, mma.sync at its full rate): 65 to 75% of peak expected, 36 to
// 41 us. Occupancy: one block of 8 warps with all registers; two blocks at 32_64 and 64_64.
//
// **Batch invariance**: a row meets its split's keys in order of position, and other rows of a tile are other rows of an mma;
// keys behind the split weigh exactly 0. Where a warp is skipped, it has no rows.
//
// budget: beam_attention_bf16_32_64 registers <= 128, shared <= 0
// budget: beam_attention_bf16_64_64 registers <= 128, shared <= 0
// budget: beam_attention_bf16_64_128 registers <= 255, shared <= 0
// budget: beam_attention_bf16_128_64 registers <= 255, shared <= 0
// budget: beam_attention_bf16_128_128 registers <= 255, shared <= 0
// budget: beam_attention_bf16_256_64 registers <= 255, shared <= 0
#include "beam_row.cuh"
#include "beam_warp.cuh"

constexpr int GROUPS = BEAM_BLOCK_SPLITS;
constexpr int GROUP_WARPS = 4;
constexpr int GROUP_THREADS = 32 * GROUP_WARPS;
constexpr int THREADS = GROUPS * GROUP_THREADS;

// Barriers of the block: 1, 2 one for each group; 3, 4 turns at the rows' sums.
constexpr int GROUP_BARRIER = 1;
constexpr int TURN_BARRIER = 3;

// Virtual rows of a block whose warps take TILES times 16 of them.
template <int TILES>
constexpr int ROWS = GROUP_WARPS * 16 * TILES;

// A group's keys and values, on their way through.
template <int DIM>
struct GroupShared {
    bf16 keys[KEYS<DIM> * DIM];
    bf16 values[KEYS<DIM> * DIM];
    uint32_t rows[2][KEYS<DIM>]; // page rows of the keys now and next
};

// What all splits up to now found, where a block walks all of them. Sums of 8 columns (32 bytes) swap places within a line of 128
// bytes, so that the 4 x 4 lanes that store pairs of them at a time reach different banks.
template <int DIM, int TILES>
struct RowSums {
    float output[ROWS<TILES> * DIM];
    Softmax softmax[ROWS<TILES>];

    static __device__ __forceinline__ uint32_t at(uint32_t row, uint32_t chunk) { return row * DIM + (chunk ^ (row & 3)) * 8; }
};

template <int DIM, int TILES>
struct Shared {
    bf16 query[ROWS<TILES> * DIM];
    GroupShared<DIM> groups[GROUPS];
    BeamWork work; // registers are short
    __align__(16) RowSums<DIM, TILES> sums; // absent where splits are merged by the other kernel
};

DEVICE uint32_t group_of_thread() { return threadIdx.x / GROUP_THREADS; }
DEVICE uint32_t thread_of_group() { return threadIdx.x % GROUP_THREADS; }

// Whether the warp has any rows.
template <int TILES>
DEVICE bool has_rows(const BeamWork& work) {
    // With two tiles registers are so short that nothing is to be kept for this.
    const uint32_t thread = TILES == 1 ? thread_of_group() : opaque(thread_of_group());
    return thread / 32 * 16 * TILES < work.rows;
}

DEVICE void group_barrier() { barrier_sync(GROUP_BARRIER + group_of_thread(), GROUP_THREADS); }

DEVICE KeyBlock first_block(const BeamWork& work, uint32_t split) { return {split, split * work.split_length}; }

// The next keys of the group: in this split, or in the next of its splits.
template <int DIM>
DEVICE KeyBlock next_block(const BeamWork& work, KeyBlock now) {
    const uint32_t first = now.first + KEYS<DIM>;
    return first < end_of_split(work, now.split) ? KeyBlock{now.split, first} : first_block(work, now.split + GROUPS);
}

// The block's queries to shared memory, zeros around them.
template <int DIM, int TILES>
DEVICE void copy_queries(const BeamAttentionParams& p, const BeamWork& work, bf16* to) {
    const bool chunks = in_chunks(p, p.query, p.query_stride);
    for (uint32_t i = threadIdx.x; i < ROWS<TILES> * DIM / 8; i += THREADS) {
        const uint32_t row = i / (DIM / 8), chunk = i % (DIM / 8);
        const uint32_t valid = row < work.rows ? filled(p, chunk) : 0;
        const bf16* from = pointer<const bf16>(p.query);
        if (valid > 0) from += query_offset(p, buffer_row(work, row), query_head(work, row)) + 8 * chunk;
        bf16* place = to + swizzled<DIM>(row, chunk);
        if (chunks) {
            copy_async_16(shared_address(place), from, 2 * valid);
        } else {
            for (uint32_t e = 0; e < 8; e++) place[e] = e < valid ? from[e] : bf16{0};
        }
    }
}

// A group's keys or values to shared memory, zeros for those behind the split.
template <int DIM>
DEVICE void copy_block(bf16* to, uint64_t pages, const uint32_t* rows, uint32_t keys) {
    constexpr int CHUNKS = DIM / 8, PASS = GROUP_THREADS / CHUNKS;
    const uint32_t thread = opaque(thread_of_group());
    const uint32_t first = thread / CHUNKS, chunk = thread % CHUNKS;
    const bf16* from = pointer<const bf16>(pages) + 8 * chunk;
    const uint32_t* of_thread = rows + first; // and `left`: with indices instead, each would take a register
    const int left = static_cast<int>(keys - first);
    const uint32_t place = shared_address(to + swizzled<DIM>(first, chunk));
#pragma unroll
    for (int i = 0; i < KEYS<DIM> / PASS; i++) {
        const uint32_t swapped = i * PASS % 8 * 16; // chunks 4 rows further, modulo 8: an exclusive or, as first % PASS < 4
        copy_async_16((place ^ swapped) + i * PASS * DIM * sizeof(bf16),
                      from + static_cast<uint64_t>(of_thread[i * PASS]) * DIM, i * PASS < left ? 16 : 0);
    }
    copy_async_commit();
}

// Page row of the key that this thread of the group is to look up; behind the split the first one, which is always there.
template <int DIM>
DEVICE uint32_t look_up(const BeamAttentionParams& p, const BeamWork& work, KeyBlock block) {
    const uint32_t key = block.first + thread_of_group();
    if (thread_of_group() >= KEYS<DIM> || block.split >= work.end_split) return 0;
    if (key >= end_of_split(work, block.split)) return 0;
    return page_row(p.shared, work.table, work.kv_head, key);
}

template <int DIM>
DEVICE void publish(uint32_t* rows, uint32_t row) {
    if (thread_of_group() < KEYS<DIM>) rows[thread_of_group()] = row;
}

// Asks for the own tokens of the block's beams, which are needed at its end.
DEVICE void prefetch_own(const BeamAttentionParams& p, const BeamWork& work) {
    if (!has_own(p)) return;
    const uint32_t lines = divide_up(p.dim * sizeof(bf16), 128);
    const uint32_t beams = divide_up(work.first % work.group + work.rows, work.group);
    for (uint32_t i = threadIdx.x; i < beams * (p.own.step + 1) * lines; i += THREADS) {
        const uint32_t step = i / lines / beams, beam = i / lines % beams;
        BeamRow at = {};
        at.row = buffer_row(work, 0) + beam;
        at.kv_head = work.kv_head;
        at.chunk = i % lines * 8;
        const uint64_t offset = own_offset(p, at, step);
        prefetch_l2(pointer<const bf16>(p.own.keys) + offset);
        prefetch_l2(pointer<const bf16>(p.own.values) + offset);
    }
}

// Keeps the split's part of the rows in global memory.
template <int DIM, int TILES>
DEVICE void store_partial(const BeamAttentionParams& p, const BeamWork& work, const WarpRows<DIM, TILES>& rows,
                          uint32_t split) {
    const uint32_t lane = opaque(threadIdx.x % 32);
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t row = rows.first + 16 * t + lane / 4 + 8 * h;
            if (row >= work.rows) continue;
            const uint64_t place = partial_row(p, split, buffer_row(work, row), query_head(work, row));
            if (lane % 4 == 0) pointer<Softmax>(p.partial_softmax)[place] = rows.softmax[t][h];
            float2* to = pointer<float2>(p.partial_output) + place * (DIM / 2) + lane % 4;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                to[4 * n] = {rows.output[t][n][2 * h], rows.output[t][n][2 * h + 1]};
            }
        }
    }
}

// Where a lane's pair of columns of chunk `n` stands among the sums.
template <int DIM, int TILES>
DEVICE float2* pair_of(RowSums<DIM, TILES>& sums, uint32_t row, uint32_t n, uint32_t lane) {
    return reinterpret_cast<float2*>(sums.output + RowSums<DIM, TILES>::at(row, n)) + lane % 4;
}

// Keeps the first split's part of the rows.
template <int DIM, int TILES>
DEVICE void keep_split(RowSums<DIM, TILES>& sums, const WarpRows<DIM, TILES>& rows) {
    const uint32_t lane = opaque(threadIdx.x % 32);
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t row = rows.first + 16 * t + lane / 4 + 8 * h;
            if (lane % 4 == 0) sums.softmax[row] = rows.softmax[t][h];
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                *pair_of(sums, row, n, lane) = {rows.output[t][n][2 * h], rows.output[t][n][2 * h + 1]};
            }
        }
    }
}

// Merges a split's part of the rows into what the splits before it found.
template <int DIM, int TILES>
DEVICE void merge_split(RowSums<DIM, TILES>& sums, const WarpRows<DIM, TILES>& rows) {
    const uint32_t lane = opaque(threadIdx.x % 32);
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t row = rows.first + 16 * t + lane / 4 + 8 * h;
            Softmax softmax = sums.softmax[row];
            const MergeFactors factors = softmax_merge(softmax, rows.softmax[t][h]);
            __syncwarp();
            if (lane % 4 == 0) sums.softmax[row] = softmax;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                float2* pair = pair_of(sums, row, n, lane);
                const float2 before = *pair;
                *pair = {merge_output(before.x, rows.output[t][n][2 * h], factors),
                         merge_output(before.y, rows.output[t][n][2 * h + 1], factors)};
            }
        }
    }
}

// A split is over: its part goes where it is merged, in order of splits.
template <int DIM, int TILES>
DEVICE void finish_split(const BeamAttentionParams& p, const BeamWork& work, RowSums<DIM, TILES>& sums,
                         WarpRows<DIM, TILES>& rows, uint32_t split) {
    const bool active = has_rows<TILES>(work);
    sum_denominators(rows);
    if (p.partial_output != 0) {
        if (active) store_partial(p, work, rows, split);
        return;
    }
    if (split > 0) barrier_sync(TURN_BARRIER + (split - 1) % 2, THREADS);
    if (active && split == 0) keep_split(sums, rows);
    if (active && split > 0) merge_split(sums, rows);
    if (split + 1 < work.splits) barrier_arrive(TURN_BARRIER + split % 2, THREADS);
}

// Own tokens, division and store, row by row.
template <int DIM, int TILES>
DEVICE void finish_rows(const BeamAttentionParams& p, const BeamWork& work, const RowSums<DIM, TILES>& sums) {
    constexpr uint32_t LANES = DIM / 8, TOGETHER = THREADS / LANES;
#pragma unroll 2
    for (uint32_t first = 0; first < ROWS<TILES>; first += TOGETHER) {
        const uint32_t row = first + threadIdx.x / LANES, chunk = threadIdx.x % LANES;
        if (first + threadIdx.x / 32 * (32 / LANES) >= work.rows) break; // as a warp: its lanes meet below
        const uint32_t real = min(row, work.rows - 1);
        const BeamRow at = {buffer_row(work, real), query_head(work, real), work.kv_head, chunk, LANES};
        RowPart part = empty_part();
        if (work.splits > 0) {
            part.softmax = sums.softmax[real];
            const float4* from = reinterpret_cast<const float4*>(sums.output + RowSums<DIM, TILES>::at(real, chunk));
            const float4 low = from[0], high = from[1];
            part.output[0] = low.x, part.output[1] = low.y, part.output[2] = low.z, part.output[3] = low.w;
            part.output[4] = high.x, part.output[5] = high.y, part.output[6] = high.z, part.output[7] = high.w;
        }
        merge_own<bf16>(p, at, part);
        if (row < work.rows) store_row<bf16>(p, at, part);
    }
}

// A group's walk through its splits.
template <int DIM, int TILES>
DEVICE void walk_splits(const BeamAttentionParams& p, Shared<DIM, TILES>& s) {
    const BeamWork& work = s.work;
    GroupShared<DIM>& shared = s.groups[group_of_thread()];
    WarpRows<DIM, TILES> rows;
    rows.first = thread_of_group() / 32 * 16 * TILES;
    const bool active = has_rows<TILES>(work);
    KeyBlock block = first_block(work, work.first_split + group_of_thread());
    uint32_t now = 0;
    while (block.split < work.end_split) {
        const uint32_t split = block.split;
        begin_split(rows);
        do {
            const KeyBlock next = next_block<DIM>(work, block);
            Scores<DIM, TILES> scores;

            // Keys are there, and nobody reads the values before any more.
            copy_async_wait<0>();
            group_barrier();
            copy_block<DIM>(shared.values, p.shared.values, shared.rows[now], keys_of(work, block));
            const uint32_t next_row = look_up<DIM>(p, work, next);
            if (active) multiply_keys<DIM, TILES>(s.query, shared.keys, rows.first, scores);
            publish<DIM>(shared.rows[now ^ 1], next_row);

            // Values are there, and nobody reads the keys any more.
            copy_async_wait<0>();
            group_barrier();
            if (next.split < work.end_split) {
                copy_block<DIM>(shared.keys, p.shared.keys, shared.rows[now ^ 1], keys_of(work, next));
            }
            if (active) {
                if (TILES == 1 && p.bias != 0) add_bias<DIM, TILES>(p, work, rows.first, block, scores);
                const uint32_t valid = keys_of(work, block);
                if (valid < KEYS<DIM>) mask_scores<DIM, TILES>(valid, scores);
                weigh_scores(rows, scores);
                multiply_values(shared.values, scores, rows);
            }
            block = next;
            now ^= 1;
        } while (block.split == split);
        finish_split(p, work, s.sums, rows, split);
    }
}

template <int DIM, int TILES>
DEVICE void attend(const BeamAttentionParams& p) {
    DYNAMIC_SHARED(unsigned char, memory);
    Shared<DIM, TILES>& s = *reinterpret_cast<Shared<DIM, TILES>*>(memory);
    BeamWork work;
    if (!find_work<ROWS<TILES>, GROUPS>(p, work)) return;
    GroupShared<DIM>& shared = s.groups[group_of_thread()];
    const KeyBlock first = first_block(work, work.first_split + group_of_thread());

    if (threadIdx.x == 0) s.work = work;
    publish<DIM>(shared.rows[0], look_up<DIM>(p, work, first));
    copy_queries<DIM, TILES>(p, work, s.query);
    copy_async_commit();
    group_barrier();
    if (first.split < work.end_split) copy_block<DIM>(shared.keys, p.shared.keys, shared.rows[0], keys_of(work, first));
    if (p.partial_output == 0) prefetch_own(p, work);
    copy_async_wait<0>();
    __syncthreads(); // queries come from both groups

    walk_splits(p, s);
    if (p.partial_output != 0) return;
    __syncthreads();
    finish_rows(p, s.work, s.sums);
}

// dim, virtual rows of a block
KERNEL(THREADS, 2) beam_attention_bf16_32_64(const __grid_constant__ BeamAttentionParams p) { attend<32, 1>(p); }
KERNEL(THREADS, 1) beam_attention_bf16_64_128(const __grid_constant__ BeamAttentionParams p) { attend<64, 2>(p); }
KERNEL(THREADS, 1) beam_attention_bf16_128_128(const __grid_constant__ BeamAttentionParams p) { attend<128, 2>(p); }
KERNEL(THREADS, 1) beam_attention_bf16_256_64(const __grid_constant__ BeamAttentionParams p) { attend<256, 1>(p); }
KERNEL(THREADS, 2) beam_attention_bf16_64_64(const __grid_constant__ BeamAttentionParams p) { attend<64, 1>(p); }
KERNEL(THREADS, 1) beam_attention_bf16_128_64(const __grid_constant__ BeamAttentionParams p) { attend<128, 1>(p); }
