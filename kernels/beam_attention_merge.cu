// The second half of beam attention: merges what the splits of each row found with the beam's own tokens, divides, and stores; or
// all of it where there are own tokens and no shared keys.
//
//     out = (sum over pieces of 2^(max_i - max) output_i) / (sum over pieces of 2^(max_i - max) denominator_i)
//
// Launch: grid (beams of the bucket x heads x dim / 8 / 256, requests of the bucket), 256 threads. dim / 8 lanes share a row of a
// head; warps behind the live beams leave.
// Moves, a row and head: 4 dim + 8 bytes a split, 4 dim bytes an own token in bf16 (its key and value, which the query heads of
// a group share in L1 and L2), 4 dim bytes of query and result. Qwen3-1.7B's shape at 256 beams, one request and 4 splits: 9 MB
// from L2, where the splits have just been written, 2 to 4 us. Limit: L2 bandwidth; every load of a lane is 16 bytes, rows lie side
// by side, and 40 registers let 6 blocks of 256 threads wait for them at a time.
// Order: splits as they follow one another, then own tokens by step.
//
// budget: beam_attention_merge_* registers <= 64, shared <= 0
#include "beam_row.cuh"

constexpr int THREADS = 256;

template <class T>
DEVICE void merge(const BeamAttentionParams& p) {
    const uint32_t lanes = p.dim / 8;
    const uint32_t rows = live_beams(p, blockIdx.y) * p.heads;
    const uint32_t first = (blockIdx.x * THREADS + threadIdx.x / 32 * 32) / lanes;
    if (first >= rows) return; // as a warp: its lanes meet below
    const uint32_t index = first + threadIdx.x % 32 / lanes;
    const uint32_t real = min(index, rows - 1);
    const RequestEntry entry = pointer<const RequestEntry>(p.requests)[blockIdx.y];
    const uint32_t head = real % p.heads;
    const BeamRow at = {entry.first_row + real / p.heads, head, head / (p.heads / p.kv_heads), threadIdx.x % lanes, lanes};

    const uint32_t length = shared_length(p, entry.slot);
    const uint32_t splits = divide_up(length, split_length(length));
    RowPart row = empty_part();
    for (uint32_t split = 0; split < splits; split++) {
        const uint64_t place = partial_row(p, split, at.row, at.head);
        RowPart piece;
        piece.softmax = pointer<const Softmax>(p.partial_softmax)[place];
        load_8(piece.output, pointer<const float>(p.partial_output) + place * p.dim + 8 * at.chunk);
        if (split == 0) {
            row = piece;
        } else {
            merge_part(row, piece);
        }
    }
    merge_own<T>(p, at, row);
    if (index < rows) store_row<T>(p, at, row);
}

KERNEL(THREADS, 4) beam_attention_merge_bf16(const __grid_constant__ BeamAttentionParams p) { merge<bf16>(p); }
KERNEL(THREADS, 4) beam_attention_merge_f32(const __grid_constant__ BeamAttentionParams p) { merge<float>(p); }
