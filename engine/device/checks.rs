//! What every device checks of a weight before it packs it, and of a descriptor before it writes it.

use super::{
    Cohort, CohortPlan, CohortRequest, DeviceError, ExpertsSource, HeadMatrix, HeadSource, LinearSource, ListPlan,
    TokenBatch,
};
use crate::catalog::NodeMask;
use crate::export::TensorView;
use crate::sampling::Sampling;

/// Most levels that a semantic ID may have; bounds the ban lists of a request.
pub(crate) const MAX_LEVELS: usize = 8;

/// Most semantic IDs of a list: a beam's own are looked through for every child.
pub const MAX_LIST_ITEMS: usize = 32;

fn bad(op: &'static str, reason: String) -> DeviceError {
    DeviceError::Failed { op, reason }
}

fn bad_weight(tensor: &TensorView, reason: String) -> DeviceError {
    DeviceError::BadWeight { name: tensor.name().to_owned(), reason }
}

/// Checks that a tensor is a matrix.
pub(crate) fn expect_matrix(tensor: &TensorView, what: &str) -> Result<(), DeviceError> {
    match tensor.shape() {
        [_, _] => Ok(()),
        shape => Err(bad_weight(tensor, format!("{what}, not {shape:?}"))),
    }
}

/// Checks that a tensor is a vector, and gives its values, scaled.
pub(crate) fn read_vector(tensor: &TensorView, scale: f32) -> Result<Vec<f32>, DeviceError> {
    match tensor.shape() {
        [_] => Ok(tensor.to_f32().into_iter().map(|value| value * scale).collect()),
        shape => Err(bad_weight(tensor, format!("a scale is a vector, not {shape:?}"))),
    }
}

impl LinearSource {
    /// Checks that parts and biases fit each other: (rows, columns) of the stacked weight.
    pub(crate) fn check(&self) -> Result<(usize, usize), DeviceError> {
        let parts = &self.parts;
        let first = parts.first().expect("a linear weight has parts");
        for part in parts {
            expect_matrix(part, "a linear weight is [out, in]")?;
            if part.cols() != first.cols() {
                let reason = format!("{} columns beside {} with {}", part.cols(), first.name(), first.cols());
                return Err(bad_weight(part, reason));
            }
        }
        if self.gated && (parts.len() != 2 || parts[1].rows() != first.rows()) {
            return Err(bad_weight(first, "a gate comes with one up projection of its own shape".to_owned()));
        }
        if !self.biases.is_empty() && self.biases.len() != parts.len() {
            return Err(bad_weight(first, format!("{} biases for {} parts", self.biases.len(), parts.len())));
        }
        for (part, bias) in parts.iter().zip(&self.biases) {
            if bias.shape() != [part.rows()] {
                let reason = format!("{:?} for the {} rows of {}", bias.shape(), part.rows(), part.name());
                return Err(bad_weight(bias, reason));
            }
        }
        Ok((parts.iter().map(TensorView::rows).sum(), first.cols()))
    }

    /// Reads row `row` of the stacked weight.
    pub(crate) fn read_row(&self, mut row: usize, out: &mut [f32]) {
        for part in &self.parts {
            if row < part.rows() {
                return part.read_row(row, out);
            }
            row -= part.rows();
        }
    }

    /// The bias of each row of the stacked weight; empty if there is none.
    pub(crate) fn stacked_bias(&self) -> Vec<f32> {
        self.biases.iter().flat_map(TensorView::to_f32).collect()
    }
}

/// What a layer's experts amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpertsShape {
    /// Experts.
    pub(crate) experts: usize,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Feed-forward width of an expert.
    pub(crate) inner: usize,
    /// Two input matrices an expert.
    pub(crate) gated: bool,
}

impl ExpertsSource {
    /// Experts that a layer may have.
    pub(crate) const EXPERTS: std::ops::RangeInclusive<usize> = 2..=64;

    /// Checks that the router and the experts fit each other, and that a row can have as many experts as the rule says.
    pub(crate) fn check(&self) -> Result<ExpertsShape, DeviceError> {
        expect_matrix(&self.router, "a router is [experts, hidden]")?;
        let (experts, hidden) = (self.experts.len(), self.router.cols());
        if !Self::EXPERTS.contains(&experts) || self.router.rows() != experts {
            let reason = format!("{} rows for {experts} experts; a layer has 2 to 64", self.router.rows());
            return Err(bad_weight(&self.router, reason));
        }
        if !(1..=experts).contains(&self.routing.top_k) {
            let reason = format!("{} experts of a row, out of {experts}", self.routing.top_k);
            return Err(bad_weight(&self.router, reason));
        }
        let (inner, gated) = (self.experts[0].input[0].rows(), self.experts[0].input.len() == 2);
        for expert in &self.experts {
            assert_eq!(expert.input.len(), 1 + usize::from(gated), "experts: input matrices of each");
            for input in &expert.input {
                if input.shape() != [inner, hidden] {
                    let reason = format!("an expert's input is [{inner}, {hidden}], not {:?}", input.shape());
                    return Err(bad_weight(input, reason));
                }
            }
            if expert.output.shape() != [hidden, inner] {
                let reason = format!("an expert's output is [{hidden}, {inner}], not {:?}", expert.output.shape());
                return Err(bad_weight(&expert.output, reason));
            }
        }
        Ok(ExpertsShape { experts, hidden, inner, gated })
    }
}

impl HeadSource {
    /// Checks shapes, and the levels' tokens against a shared matrix.
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        match &self.matrix {
            HeadMatrix::Shared(matrix) => {
                let &[vocabulary, _] = matrix.shape() else {
                    return Err(bad_weight(
                        matrix,
                        format!("a head is [vocabulary, hidden], not {:?}", matrix.shape()),
                    ));
                };
                for (level, tokens) in self.level_tokens.iter().enumerate() {
                    let beyond = tokens.iter().enumerate().find(|(_, token)| **token as usize >= vocabulary);
                    if let Some((code, token)) = beyond {
                        return Err(bad_weight(
                            matrix,
                            format!("level {level}, code {code}: token {token} of {vocabulary}"),
                        ));
                    }
                }
            }
            HeadMatrix::PerLevel(matrices) => {
                assert_eq!(matrices.len(), self.level_tokens.len(), "head: a matrix a level");
                assert!(!self.whole_vocabulary, "head: one matrix a level has no vocabulary");
                let hidden = matrices[0].shape().last().copied().unwrap_or_default();
                for (level, (matrix, tokens)) in matrices.iter().zip(&self.level_tokens).enumerate() {
                    let (wanted, shape) = ([tokens.len(), hidden], matrix.shape());
                    if shape != wanted {
                        return Err(bad_weight(
                            matrix,
                            format!("the head of level {level} is {wanted:?}, not {shape:?}"),
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Checks that a mask has the `words` words of one of `slots` slots.
pub(crate) fn check_mask(mask: &NodeMask, words: usize, (slot, slots): (u32, usize)) -> Result<(), DeviceError> {
    let given = mask.words().len();
    if (slot as usize) < slots && given == words {
        return Ok(());
    }
    Err(bad("write_mask", format!("{given} words for mask slot {slot} of {slots}, of {words} words each")))
}

/// Checks that `values` elements are vectors of at most `room` columns for each of `rows` rows.
pub(crate) fn check_dense(values: usize, rows: usize, room: usize) -> Result<(), DeviceError> {
    if rows > 0 && values.is_multiple_of(rows) && (1..=room).contains(&(values / rows)) {
        return Ok(());
    }
    Err(bad("write_dense", format!("{values} values for {rows} rows of 1 to {room} columns")))
}

impl TokenBatch {
    /// Checks that the spans cover the rows of a lane of `rows` rows and `spans` spans, over `slots` slots.
    pub(crate) fn check(&self, (rows, spans): (usize, usize), slots: usize) -> Result<(), DeviceError> {
        let op = "write_tokens";
        let (wanted, wanted_spans) = (self.tokens.len(), self.spans.len());
        if wanted > rows || wanted_spans > spans {
            return Err(bad(op, format!("{wanted} rows, {wanted_spans} spans in a lane of {rows}, {spans}")));
        }
        let mut next_row = 0;
        for span in &self.spans {
            if span.first_row as usize != next_row || span.rows == 0 || span.slot as usize >= slots {
                return Err(bad(op, format!("{span:?} at row {next_row} of a batch over {slots} slots")));
            }
            next_row += span.rows as usize;
        }
        if next_row != wanted {
            return Err(bad(op, format!("spans cover {next_row} of {wanted} rows")));
        }
        Ok(())
    }
}

impl ListPlan {
    /// Checks that lists are no longer than any device holds.
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        let ListPlan { items, levels } = *self;
        if (1..=MAX_LIST_ITEMS).contains(&items) && (1..=MAX_LEVELS).contains(&levels) {
            return Ok(());
        }
        let most = format!("1 to {MAX_LIST_ITEMS} of 1 to {MAX_LEVELS}");
        Err(bad("cohort_lane", format!("lists of {items} semantic IDs of {levels} levels; {most}")))
    }
}

impl Cohort {
    /// Semantic IDs that each beam becomes.
    pub(crate) fn items(&self) -> usize {
        self.requests.first().map_or(1, CohortRequest::items)
    }

    /// Checks that the requests stand one behind the other in a lane of this plan, over `slots` slots and `masks` masks.
    pub(crate) fn check(&self, plan: &CohortPlan, (slots, masks): (usize, usize)) -> Result<(), DeviceError> {
        let op = "write_cohort";
        let CohortPlan { rows, requests, banned_nodes, lists, .. } = *plan;
        let most_items = lists.map_or(1, |lists| lists.items);
        let banned: usize = self.requests.iter().flat_map(|request| &request.banned_nodes).map(Vec::len).sum();
        if self.requests.len() > requests || banned > banned_nodes {
            let wanted = self.requests.len();
            return Err(bad(op, format!("{wanted} requests, {banned} bans in a lane of {requests}, {banned_nodes}")));
        }
        let mut next_row = 0usize;
        for (index, request) in self.requests.iter().enumerate() {
            let (first, beams, slot) = (request.first_row as usize, request.beams as usize, request.slot);
            if first < next_row || beams == 0 || first + beams > rows || slot as usize >= slots {
                let place = format!("slot {slot} of {slots}, rows {first}+{beams} after {next_row} of {rows}");
                return Err(bad(op, format!("request {index}: {place}")));
            }
            if beams > 1 << 16 {
                return Err(bad(op, format!("request {index}: {beams} beams; a parent's rank has 16 bits")));
            }
            let (items, first_items) = (request.items(), self.requests[0].items());
            if items != first_items || items > most_items {
                let beside = format!("a list of {items} beside one of {first_items} in a lane of {most_items}");
                return Err(bad(op, format!("request {index}: {beside}")));
            }
            if request.banned_nodes.len() > MAX_LEVELS {
                let levels = request.banned_nodes.len();
                return Err(bad(op, format!("request {index}: bans for {levels} levels; {MAX_LEVELS} at most")));
            }
            if let Some(sampling) =
                request.sampling.filter(|sampling| !Sampling::TEMPERATURES.contains(&sampling.temperature))
            {
                return Err(bad(op, format!("request {index}: temperature {}", sampling.temperature)));
            }
            if let Some(mask) = request.mask.filter(|&mask| mask as usize >= masks) {
                return Err(bad(op, format!("request {index}: mask slot {mask} of {masks}")));
            }
            if let Some(level) = request.banned_nodes.iter().position(|nodes| !nodes.is_sorted()) {
                return Err(bad(op, format!("request {index}: banned nodes of level {level} are not sorted")));
            }
            next_row = first + beams;
        }
        Ok(())
    }
}
