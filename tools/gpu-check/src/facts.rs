//! What machine this is.

use serde_json::{Value, json};

use crate::card::Card;
use crate::probe::images;
use crate::report::{Section, Table, Verdict};
use crate::setting::nvidia_smi;

/// What `nvidia-smi` is asked for.
const QUERY: &str = "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,\
                     power.draw,power.limit,temperature.gpu,pstate,ecc.mode.current,mig.mode.current,compute_mode";

/// The card and the machine around it.
pub fn section(card: &Card) -> Section {
    let mut section = Section::new("facts", Verdict::Measured);
    section.tables.push(card_table(card));
    section.tables.push(machine_table());
    if let Some(text) = nvidia_smi(&[QUERY, "--format=csv"]) {
        section.notes.push(format!("nvidia-smi:\n```\n{}\n```", text.trim_end()));
    } else {
        section.notes.push("nvidia-smi is not here or did not answer".to_owned());
    }
    section
}

fn card_table(card: &Card) -> Table {
    use sidereal_card::Attribute::*;
    let capability = card.capabilities.capability;
    let mut table = Table::new("card", &["fact", "value"]);
    let mut add = |fact: &str, value: Value| table.rows.push(vec![json!(fact), value]);
    add("name", json!(card.name));
    add("compute capability", json!(format!("{}.{}", capability / 10, capability % 10)));
    add("CUDA version of the driver", json!(card.capabilities.driver));
    let (free, total) = card.memory().unzip();
    add("memory, bytes", json!(total));
    add("free memory, bytes", json!(free));
    for (fact, attribute) in [
        ("streaming multiprocessors", CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        ("clock, kHz", CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
        ("memory clock, kHz", CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
        ("memory bus, bits", CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
        ("L2 cache, bytes", CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE),
        ("shared memory of a multiprocessor, bytes", CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR),
        ("shared memory of a block, bytes", CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
        ("registers of a multiprocessor", CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR),
        ("ECC", CU_DEVICE_ATTRIBUTE_ECC_ENABLED),
    ] {
        add(fact, json!(card.attribute(attribute)));
    }
    table
}

fn machine_table() -> Table {
    let mut table = Table::new("machine", &["fact", "value"]);
    let mut add = |fact: &str, value: Value| table.rows.push(vec![json!(fact), value]);
    let line = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().find(|line| line.starts_with(key)).and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    add("processor", json!(line("/proc/cpuinfo", "model name")));
    add("cores", json!(std::thread::available_parallelism().map_or(1, usize::from)));
    add("memory", json!(line("/proc/meminfo", "MemTotal")));
    add("kernel", json!(std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned())));
    add("kernel images", json!(sidereal::device::cuda::images::COMPILER));
    add("probe images", json!(images::COMPILER));
    table
}
