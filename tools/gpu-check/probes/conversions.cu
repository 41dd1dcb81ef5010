// Conversions of ptx.h, one item a thread. The ISA defines every bit of them: NaN becomes the one canonical NaN of the type.
#include "probe.h"

// in f32[2 * count], out u32[count]
PROBE(pack_bf16_probe, 128) {
    if (uint32_t i = item(); i < p.count) {
        output<uint32_t>(p, i) = pack_bf16(input<float>(p, 2 * i), input<float>(p, 2 * i + 1));
    }
}

// in f32[count], out u32[count]
PROBE(round_bf16_probe, 128) {
    if (uint32_t i = item(); i < p.count) output<uint32_t>(p, i) = round_bf16(input<float>(p, i)).bits;
}

// in u32[count] of which the low half is a bf16, out f32[count]
PROBE(widen_bf16_probe, 128) {
    if (uint32_t i = item(); i < p.count) {
        bf16 x;
        x.bits = static_cast<uint16_t>(input<uint32_t>(p, i));
        output<float>(p, i) = to_float(x);
    }
}

// in u32[count], out f32[2 * count]
PROBE(halves_bf16_probe, 128) {
    if (uint32_t i = item(); i < p.count) {
        uint32_t packed = input<uint32_t>(p, i);
        output<float>(p, 2 * i) = low_bf16(packed);
        output<float>(p, 2 * i + 1) = high_bf16(packed);
    }
}

// in u32[count] of which the low half is an f16, out f32[count]
PROBE(widen_f16_probe, 128) {
    if (uint32_t i = item(); i < p.count) {
        f16 x;
        x.bits = static_cast<uint16_t>(input<uint32_t>(p, i));
        output<float>(p, i) = to_float(x);
    }
}
