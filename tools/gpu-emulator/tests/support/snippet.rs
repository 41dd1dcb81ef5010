//! A line of PTX run by one warp.

use super::{read_u32, upload};
use gpu_emulator::machine::{LaunchConfig, launch};
use gpu_emulator::memory::GlobalMemory;
use gpu_emulator::{Fault, ptx::Module};

pub const HEADER: &str = ".version 8.8\n.target sm_80\n.address_size 64\n";

/// Runs `body` in one warp: lane values of three input words in %a, %b, %c, their pairs in %la (a, b) and %lb (b, c), the lane in
/// %lane; the results are %d and %e of every lane.
pub fn warp(body: &str, inputs: [[u32; 32]; 3]) -> Result<[[u32; 32]; 2], Fault> {
    let text = format!(
        "{HEADER}.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %t<16>; .reg .b64 %l<8>; .reg .f64 %fd<4>;\n\
         .reg .b32 %a, %b, %c, %d, %e, %lane; .reg .b64 %la, %lb, %in, %out;\n\
         .shared .align 16 .b8 tile[4096];\n\
         ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mov.u32 %lane, %tid.x;\n\
         mad.wide.u32 %in, %lane, 4, %in; mad.wide.u32 %out, %lane, 4, %out;\n\
         ld.global.u32 %a, [%in]; ld.global.u32 %b, [%in+128]; ld.global.u32 %c, [%in+256];\n\
         mov.b64 %la, {{%a, %b}}; mov.b64 %lb, {{%b, %c}}; mov.u32 %d, 0; mov.u32 %e, 0;\n\
         {body}\n\
         st.global.u32 [%out], %d; st.global.u32 [%out+128], %e; ret;\n}}\n"
    );
    let module = Module::parse(&text).unwrap();
    let mut memory = GlobalMemory::new(1 << 20);
    let input = upload(&mut memory, &inputs.concat());
    let out = memory.alloc(256).unwrap();
    let params = [input.to_le_bytes(), out.to_le_bytes()].concat();
    let config = LaunchConfig { grid: [1; 3], block: [32, 1, 1], dynamic_shared_bytes: 0 };
    launch(module.kernel("k").unwrap(), &config, &params, &mut memory)?;
    let words = read_u32(&memory, out, 64);
    Ok([std::array::from_fn(|lane| words[lane]), std::array::from_fn(|lane| words[32 + lane])])
}
