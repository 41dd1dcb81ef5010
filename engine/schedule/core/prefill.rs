//! Prefill: prompts into history KV, in ragged batches, whole or by chunks. One batch at a time, a stage a turn.

use std::sync::atomic::Ordering;

use super::timing::{Lesson, Timing};
use super::{Core, Hardware, sort_by_deadline};
use crate::device::{Device, DeviceError, Queue, SlotState, Span, TokenBatch};

/// The batch under way.
pub(super) struct Prefill {
    /// Slots of the batch; those whose prompt it completes are flagged.
    pub members: Vec<(u32, bool)>,
    tokens: usize,
    pub stage: usize,
    pub timing: Timing,
}

impl Core {
    /// Enqueues the next stage. After the last one, prompts that are complete are ready to be searched.
    pub(super) fn advance_prefill(&mut self) {
        let Some(mut batch) = self.prefill.take() else { return };
        let Hardware { device, model, prefill_lane, .. } = self.hardware();
        let stages = model.prefill_stages();
        let enqueue = |device: &mut dyn Device| model.prefill(device, *prefill_lane, batch.stage);
        if let Err(error) = batch.timing.enclose(device.as_mut(), Queue::Prefill, enqueue) {
            return self.fail(batch.members.iter().map(|member| member.0).collect(), &error);
        }
        batch.stage += 1;
        if batch.stage < stages {
            self.prefill = Some(batch);
            return;
        }
        let now = self.now();
        self.timings.push((batch.timing, Lesson::Prefill(batch.tokens)));
        self.stats.prefill_tokens.fetch_add(batch.tokens as u64, Ordering::Relaxed);
        for (slot, complete) in batch.members {
            if complete {
                self.prefilling.retain(|other| *other != slot);
                self.ready.push(slot);
                let running = self.running(slot);
                running.marks.prefill = now - running.since;
                running.since = now;
            }
        }
    }

    /// Fills the prefill lane with the most urgent prompts, unless a batch is under way.
    pub(super) fn begin_prefill(&mut self) {
        if self.prefill.is_some() {
            return;
        }
        self.drop_hopeless(&self.prefilling.clone());
        if self.prefilling.is_empty() {
            return;
        }
        sort_by_deadline(&mut self.prefilling, &self.slots);
        let geometry = &self.geometry;
        let (whole, budget) = (geometry.whole_prompts, geometry.prefill_tokens);
        let mut batch = TokenBatch::default();
        let mut members = Vec::new();
        let began = self.now();
        for index in 0..self.prefilling.len() {
            let slot = self.prefilling[index];
            let room = budget.saturating_sub(batch.tokens.len());
            let running = self.running(slot);
            let left = running.resolved.tokens.len() - running.prefilled;
            // The first prompt always goes in: the lane holds the longest one whole.
            let rows = if whole && (left <= room || batch.tokens.is_empty()) { left } else { left.min(room) };
            if rows == 0 || (whole && rows < left) {
                break;
            }
            let first = running.prefilled;
            let complete = rows == left;
            batch.spans.push(Span {
                slot,
                first_row: batch.tokens.len() as u32,
                rows: rows as u32,
                first_position: first as u32,
                last: complete,
            });
            batch.tokens.extend_from_slice(&running.resolved.tokens[first..first + rows]);
            if first == 0 {
                running.marks.queue += began - running.since;
                running.since = began;
            }
            running.prefilled += rows;
            members.push((slot, complete));
        }
        let tokens = batch.tokens.len();
        match self.write_prefill(&batch) {
            Ok(()) => self.prefill = Some(Prefill { members, tokens, stage: 0, timing: Timing::default() }),
            Err(error) => self.fail(members.into_iter().map(|member| member.0).collect(), &error),
        }
    }

    fn write_prefill(&mut self, batch: &TokenBatch) -> Result<(), DeviceError> {
        let prefix_len = self.geometry.decoder_prefix.len() as u32;
        for span in &batch.spans {
            let state = SlotState {
                history_len: span.first_position + span.rows,
                history_pages: self.running(span.slot).pages.clone(),
                prefix_len,
                // One page a slot, planned for the longest prefix.
                prefix_pages: if prefix_len == 0 { Vec::new() } else { vec![span.slot] },
            };
            self.hardware().device.write_slot(span.slot, &state)?;
        }
        let Hardware { device, prefill_lane, .. } = self.hardware();
        device.write_tokens(*prefill_lane, batch)
    }
}
