// Approximations of ptx.h, one item a thread: in f32[count], out f32[count]. The ISA bounds their error and does not fix their
// bits, but for special values.
#include "probe.h"

PROBE(exp2_flushed_probe, 128) {
    if (uint32_t i = item(); i < p.count) output<float>(p, i) = exp2_flushed(input<float>(p, i));
}

PROBE(reciprocal_flushed_probe, 128) {
    if (uint32_t i = item(); i < p.count) output<float>(p, i) = reciprocal_flushed(input<float>(p, i));
}
