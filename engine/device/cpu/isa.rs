//! Which vector instructions to use: the best that the machine has, or a lesser one named by `SIDEREAL_ISA`, so that the
//! suite can run once for each.

use crate::device::DeviceError;

/// Instruction sets with kernels of their own, from plain to best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust: the oracle.
    Scalar,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with `vdpbf16ps`.
    Avx512Bf16,
}

impl Isa {
    /// Every instruction set, from plain to best.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// Name in `SIDEREAL_ISA`, replies and logs.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match self {
                Isa::Scalar => true,
                Isa::Avx2 => avx2,
                Isa::Avx512 => avx512,
                Isa::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Scalar
        }
    }

    /// The instruction set that `SIDEREAL_ISA` names, or else the best one here.
    ///
    /// # Errors
    /// An unknown name, or one that this machine lacks.
    pub fn choose() -> Result<Isa, DeviceError> {
        let best = Isa::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(Isa::Scalar);
        let Ok(name) = std::env::var("SIDEREAL_ISA") else { return Ok(best) };
        let names = || Isa::ALL.map(Isa::name).join(", ");
        let isa = Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
            DeviceError::Unavailable(format!("SIDEREAL_ISA={name}: no such instruction set; there are {}", names()))
        })?;
        if isa.is_available() {
            Ok(isa)
        } else {
            Err(DeviceError::Unavailable(format!("SIDEREAL_ISA={name}: this machine's best is {}", best.name())))
        }
    }
}
