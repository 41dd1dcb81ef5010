//! What a peer sends: a stream of frames and the tally of what may come back.

use std::collections::HashMap;
use std::time::Duration;

use sidereal::request::{History, ItemRefs, Request};
use sidereal::serve::wire::{HEADER_BYTES, Header, Kind, Message};

use crate::Siege;
use crate::common::Seeded;

/// Ids from here on ask for what must be refused.
pub const REFUSED: u64 = 1 << 60;

/// Frames as bytes, and how many replies each id is owed.
#[derive(Default)]
pub struct Script {
    pub bytes: Vec<u8>,
    pub owed: HashMap<u64, usize>,
    pub pings: HashMap<u64, usize>,
    pub stats: HashMap<u64, usize>,
}

impl Script {
    /// HELLO and up to `most` frames of any kind that a client may send.
    pub fn random(siege: &Siege, seeded: &mut Seeded, most: u64) -> Script {
        let mut script = Script::default();
        script.put(&Message::Hello { client: Some("a peer".to_owned()) });
        let mut ids = Vec::new();
        for number in 0..1 + seeded.below(most) {
            // Ids go up and down.
            let fresh = number ^ seeded.below(1 << 40) << 8;
            match seeded.below(12) {
                0 if !ids.is_empty() => script.ask(&siege.request(ids[seeded.below(ids.len() as u64) as usize])),
                1 => {
                    let any = [fresh, ids.get(seeded.below(8) as usize).copied().unwrap_or(fresh)];
                    script.put(&Message::Cancel { id: any[seeded.below(2) as usize] });
                }
                2 => {
                    *script.pings.entry(fresh).or_default() += 1;
                    script.put(&Message::Ping { id: fresh });
                }
                3 => script.ask_for_stats(fresh),
                4 => script.ask_badly(fresh | REFUSED, seeded),
                5 => script.ask_malformed(&siege.request(fresh | REFUSED)),
                _ => {
                    ids.push(fresh);
                    script.ask(&siege.request(fresh));
                }
            }
        }
        script
    }

    pub fn put(&mut self, message: &Message) {
        self.bytes.extend(message.to_bytes().unwrap());
    }

    pub fn ask(&mut self, request: &Request) {
        *self.owed.entry(request.id).or_default() += 1;
        self.put(&Message::Recommend(request.clone()));
    }

    pub fn ask_for_stats(&mut self, id: u64) {
        *self.stats.entry(id).or_default() += 1;
        self.put(&Message::Stats { id });
    }

    /// A well-formed request that cannot be served.
    fn ask_badly(&mut self, id: u64, seeded: &mut Seeded) {
        let tokens = |tokens| History::Tokens(tokens);
        let good = Request::new(id, tokens(vec![3, 4]), 4, 4);
        let deny = ItemRefs::Ids((0..8_000).collect());
        let bad = match seeded.below(8) {
            0 => Request { beams: 0, ..good },
            1 => Request { beams: u32::MAX, top: u32::MAX, ..good },
            2 => Request { top: 5, ..good },
            3 => Request { history: tokens(vec![]), ..good },
            4 => Request { history: tokens(vec![u32::MAX]), ..good },
            5 => Request { history: tokens(vec![3; 15_000]), ..good },
            6 => Request { history: History::Items(ItemRefs::Ids(vec![7])), strict: true, deny, ..good },
            _ => Request { deadline: Some(Duration::ZERO), ..good },
        };
        self.ask(&bad);
    }

    /// A request whose last byte is missing, under a checksum that is right.
    fn ask_malformed(&mut self, request: &Request) {
        let frame = Message::Recommend(request.clone()).to_bytes().unwrap();
        let payload = &frame[HEADER_BYTES..frame.len() - 1];
        let header = Header {
            kind: Kind::Recommend as u8,
            flags: 0,
            id: request.id,
            length: payload.len() as u32,
            payload_crc: crc32c::crc32c(payload),
        };
        *self.owed.entry(request.id).or_default() += 1;
        self.bytes.extend(header.encode());
        self.bytes.extend(payload);
    }
}
