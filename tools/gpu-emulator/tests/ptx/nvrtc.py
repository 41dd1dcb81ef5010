"""Compiles a .cu file to PTX for sm_80 with the NVRTC of a wheel: nvrtc.py SITE_PACKAGES_NVIDIA SOURCE OUTPUT."""

import ctypes
import pathlib
import sys


def main(root: pathlib.Path, source: pathlib.Path, output: pathlib.Path) -> None:
    library = ctypes.CDLL(str(next((root / "cuda_nvrtc" / "lib").glob("libnvrtc.so.1*"))))
    program = ctypes.c_void_p()
    text = source.read_bytes()
    check(library.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None))
    options = ["--gpu-architecture=sm_80", f"-I{root}/cuda_runtime/include", f"-I{source.parent}", "-default-device"]
    arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = library.nvrtcCompileProgram(program, len(options), arguments)
    size = ctypes.c_size_t()
    check(library.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    log = ctypes.create_string_buffer(size.value)
    check(library.nvrtcGetProgramLog(program, log))
    if failed:
        sys.exit(log.value.decode())
    check(library.nvrtcGetPTXSize(program, ctypes.byref(size)))
    ptx = ctypes.create_string_buffer(size.value)
    check(library.nvrtcGetPTX(program, ptx))
    output.write_bytes(ptx.value)


def check(code: int) -> None:
    if code:
        sys.exit(f"NVRTC error {code}")


if __name__ == "__main__":
    main(*(pathlib.Path(argument) for argument in sys.argv[1:4]))
