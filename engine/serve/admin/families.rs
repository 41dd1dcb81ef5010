//! Families of samples, written through `prometheus-client`'s encoder from values that others keep.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::schedule::HistogramSnapshot;

/// Where families are written to. Names are complete, but for the `_total` that is put behind a counter's.
pub(super) struct Families<'a>(DescriptorEncoder<'a>);

/// Labels of one sample.
type Labels<'a, const N: usize> = [(&'a str, &'a str); N];

impl<'a> Families<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Families<'a> {
        Families(encoder)
    }

    /// A counter.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// A counter for each set of labels.
    pub(super) fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    /// A gauge.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A gauge for each set of labels.
    pub(super) fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A histogram of counts.
    pub(super) fn histogram(&mut self, name: &str, help: &str, of: &HistogramSnapshot) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let (sum, buckets) = (of.sum as f64, buckets(of, 1.0));
        metric.encode_histogram::<NoLabelSet>(sum, of.count(), &buckets, None)
    }

    /// A histogram of microseconds for each set of labels, in seconds as is the custom.
    pub(super) fn histograms<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, &'l HistogramSnapshot)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, of) in samples {
            let (sum, buckets) = (of.sum as f64 / 1e6, buckets(of, 1e6));
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, of.count(), &buckets, None)?;
        }
        Ok(())
    }
}

/// Bounds in units of `unit`, each with what its bucket holds alone; the encoder adds them up.
fn buckets(of: &HistogramSnapshot, unit: f64) -> Vec<(f64, u64)> {
    let bounds = of.bounds.iter().map(|bound| *bound as f64 / unit).chain([f64::INFINITY]);
    bounds.zip(of.counts.iter().copied()).collect()
}
