#!/bin/sh
# Compiles tests/kernels/*.cu for sm_80 with both compilers into this folder.
#   NVCC=.../bin/nvcc NVRTC_ROOT=.../site-packages/nvidia tests/ptx/make.sh
# NVCC is nvcc 13.0; NVRTC_ROOT holds cuda_nvrtc and cuda_runtime of the 12.9 wheels. Paths in .file lines are cut to names.
set -eu
cd "$(dirname "$0")/../kernels"
out=../ptx
for kernel in attention topk faults features; do
  "$NVCC" -ptx -arch=sm_80 -lineinfo -o "$out/$kernel.nvcc13_0.ptx" "$kernel.cu"
  python3 "$out/nvrtc.py" "$NVRTC_ROOT" "$kernel.cu" "$out/$kernel.nvrtc12_9.ptx"
done
sed -i -E 's#(\.file\s+[0-9]+ ")[^"]*/([^/"]+")#\1\2#' "$out"/*.ptx
