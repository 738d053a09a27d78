//! What is counted, under names that start with `orlop_`, in base units (seconds, bytes).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::process::Process;

/// One label with its value, both from the program.
type Label = [(&'static str, &'static str); 1];

/// What the node keeps count of itself: objects by state now, and totals. Read at each scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub pods_ready: usize,
    pub pods_not_ready: usize,
    pub containers_created: usize,
    pub containers_running: usize,
    pub containers_exited: usize,
    pub containers_unknown: usize,
    pub shims: usize,
    pub pulls_in_progress: usize,
    /// Bytes received from registries since the start.
    pub pulled_bytes: u64,
}

/// Where [`Counts`] come from.
type CountSource = Box<dyn Fn() -> Counts + Send + Sync>;

/// Everything that the agent counts.
pub struct Metrics {
    registry: Registry,
    counts: Arc<CountCollector>,
    operations: Family<Label, Histogram, fn() -> Histogram>,
    errors: Family<[(&'static str, &'static str); 2], Counter>,
    pull_seconds: Histogram,
    pull_failures: Family<Label, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let counts = Arc::new(CountCollector::default());
        let metrics = registry.sub_registry_with_prefix("orlop");

        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        metrics.register("build", "The version that runs", build);
        let operations = Family::new_with_constructor(operation_histogram as fn() -> Histogram);
        metrics.register_with_unit(
            "cri_operation_duration",
            "Time from a CRI request to its answer, by rpc",
            Unit::Seconds,
            operations.clone(),
        );
        let errors = Family::default();
        metrics.register("cri_errors", "CRI requests answered with an error, by rpc and gRPC code", errors.clone());

        let pull_seconds = Histogram::new([0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0]);
        metrics.register_with_unit(
            "image_pull_duration",
            "Time of a pull that succeeded",
            Unit::Seconds,
            pull_seconds.clone(),
        );
        let pull_failures = Family::default();
        metrics.register("image_pull_failures", "Pulls that failed, by cause", pull_failures.clone());
        metrics.register_collector(Box::new(Arc::clone(&counts)));
        registry.register_collector(Box::new(Process));

        Self { registry, counts, operations, errors, pull_seconds, pull_failures }
    }

    /// Says who knows how many pods and containers there are. The first call counts.
    pub fn set_counts(&self, source: impl Fn() -> Counts + Send + Sync + 'static) {
        // A second source is ignored, as documented.
        let _ = self.counts.0.set(Box::new(source));
    }

    /// A CRI request was answered: `error` is the gRPC code's name (`NotFound`) where it was an error.
    pub fn operation(&self, rpc: &'static str, took: Duration, error: Option<&'static str>) {
        self.operations.get_or_create(&[("rpc", rpc)]).observe(took.as_secs_f64());
        if let Some(code) = error {
            self.errors.get_or_create(&[("rpc", rpc), ("code", code)]).inc();
        }
    }

    /// A pull was answered, with an error's gRPC code as in [`operation`](Self::operation).
    pub fn pull(&self, took: Duration, error: Option<&'static str>) {
        match error {
            None => self.pull_seconds.observe(took.as_secs_f64()),
            Some(cause) => {
                self.pull_failures.get_or_create(&[("cause", cause)]).inc();
            }
        }
    }

    /// All metrics as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        encode(&mut text, &self.registry).expect("a String takes all that is written to it");
        text
    }
}

/// A CRI operation takes from a tenth of a millisecond (a list) to minutes (a pull).
fn operation_histogram() -> Histogram {
    Histogram::new([
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        120.0,
    ])
}

/// Asks for [`Counts`] at each scrape.
#[derive(Default)]
struct CountCollector(OnceLock<CountSource>);

impl fmt::Debug for CountCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountCollector")
    }
}

impl Collector for CountCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(source) = self.0.get() else { return Ok(()) };
        let counts = source();
        let mut by_state = |name: &str, help: &str, states: &[(&'static str, usize)]| -> fmt::Result {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (state, count) in states {
                ConstGauge::new(*count as u64).encode(family.encode_family(&[("state", *state)])?)?;
            }
            Ok(())
        };
        by_state(
            "pods",
            "Pods that the agent keeps, by state",
            &[("ready", counts.pods_ready), ("not_ready", counts.pods_not_ready)],
        )?;
        by_state(
            "containers",
            "Containers that the agent keeps, by state",
            &[
                ("created", counts.containers_created),
                ("running", counts.containers_running),
                ("exited", counts.containers_exited),
                ("unknown", counts.containers_unknown),
            ],
        )?;
        let shims = encoder.encode_descriptor("shims", "Shims that run, one a pod", None, MetricType::Gauge)?;
        ConstGauge::new(counts.shims as u64).encode(shims)?;
        let pulls = "image_pulls_in_progress";
        let pulls = encoder.encode_descriptor(pulls, "Pulls that are under way", None, MetricType::Gauge)?;
        ConstGauge::new(counts.pulls_in_progress as u64).encode(pulls)?;
        let bytes = encoder.encode_descriptor(
            "image_pulled",
            "Bytes received from registries",
            Some(&Unit::Bytes),
            MetricType::Counter,
        )?;
        ConstCounter::new(counts.pulled_bytes).encode(bytes)
    }
}
