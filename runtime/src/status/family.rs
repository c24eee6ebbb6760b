//! Metric families in the types of the `prometheus` crate.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::metrics::{BUCKETS_NS, Durations};

/// The constant parts of a metric.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
}

impl Spec {
    pub(super) fn desc(&self) -> Desc {
        let labels = self.labels.iter().map(|label| (*label).to_owned());
        Desc::new(
            self.name.to_owned(),
            self.help.to_owned(),
            labels.collect(),
            HashMap::new(),
        )
        .expect("names and labels of the table are valid")
    }
}

/// The samples of one metric.
pub(super) struct Family {
    spec: &'static Spec,
    samples: Vec<Metric>,
}

impl Family {
    pub(super) fn new(spec: &'static Spec) -> Self {
        Self {
            spec,
            samples: Vec::new(),
        }
    }

    /// Adds a sample to a family of counters or gauges. `labels` holds the label values, in
    /// the order of the table.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        let mut sample = self.sample(labels);
        if self.spec.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        self.samples.push(sample);
    }

    /// Adds a histogram. The hot path may write to it meanwhile, so the count is the sum of
    /// the buckets read.
    pub(super) fn add_durations(&mut self, labels: &[&str], durations: &Durations) {
        let mut count = 0;
        let mut counts = durations.buckets.iter().map(|bucket| {
            count += bucket.get();
            count
        });
        let buckets = BUCKETS_NS.iter().zip(&mut counts).map(|(bound_ns, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds(*bound_ns));
            bucket.set_cumulative_count(count);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        // Values above all bounds are in the count alone.
        let total = counts.last().unwrap_or_default();
        histogram.set_sample_count(total);
        histogram.set_sample_sum(seconds(durations.sum_ns.get()));
        let mut sample = self.sample(labels);
        sample.set_histogram(histogram);
        self.samples.push(sample);
    }

    fn sample(&self, values: &[&str]) -> Metric {
        debug_assert_eq!(values.len(), self.spec.labels.len(), "{}", self.spec.name);
        let labels = self.spec.labels.iter().zip(values);
        let labels = labels.map(|(name, value)| {
            let mut label = LabelPair::default();
            label.set_name((*name).to_owned());
            label.set_value((*value).to_owned());
            label
        });
        Metric::from_label(labels.collect())
    }

    pub(super) fn done(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.spec.name.to_owned());
        family.set_help(self.spec.help.to_owned());
        family.set_field_type(self.spec.kind);
        family.set_metric(self.samples);
        family
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
