//! What the process counts, for Prometheus: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
//!
//! Labels have few values, all of them known before: operations, statuses, error codes, the
//! configured upstreams. Never a path, a model or a key.

use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
pub use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::telemetry::{self, mending};

/// The media type of [`Metrics::text`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The operation of a request that belongs to none.
const OTHER: &str = "other";

/// Upper bounds in seconds. A model answers in a fraction of a second or in minutes.
const DURATIONS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

type Words<const N: usize> = [(&'static str, &'static str); N];
type Labels<const N: usize> = [(&'static str, String); N];
type Timings = Family<Timed, Histogram, fn() -> Histogram>;

/// Labels of a request that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    operation: &'static str,
    code: &'static str,
    status: u16,
}

/// Labels of a request that took some time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Timed {
    operation: &'static str,
}

/// Labels of a question put to an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    upstream: String,
    outcome: &'static str,
}

/// Whether an upstream is asked, by its circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// It is.
    Closed,
    /// One request tries whether it is well again.
    HalfOpen,
    /// It is not.
    Open,
}

/// All that is counted.
pub struct Metrics {
    /// Questions that are being answered.
    pub streams_open: Gauge,
    /// Requests that have come and not been answered to their end.
    pub requests_in_flight: Gauge,
    registry: Registry,
    requests: Family<Ended, Counter>,
    durations: Timings,
    first_tokens: Timings,
    prompt_tokens: Counter,
    completion_tokens: Counter,
    response_bytes: Counter,
    upstream_up: Family<Labels<1>, Gauge>,
    upstream_breaker: Family<Labels<1>, Gauge>,
    upstream_session: Family<Labels<2>, Gauge>,
    upstream_requests: Family<Asked, Counter>,
}

/// A piece of work for which the service waits before it stops, for as long as this is there: whoever panics
/// or is given up drops it as well.
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Counts a piece of work among the requests that have come and not been answered to their end.
    pub fn running(&self) -> Running {
        self.requests_in_flight.inc();
        Running(self.requests_in_flight.clone())
    }

    /// Nothing counted yet; `store_errors` is the store's own count.
    pub fn new(store_errors: Counter) -> Self {
        let timings = || Timings::new_with_constructor(|| Histogram::new(DURATIONS));
        let tokens = Family::<Words<1>, Counter>::default();
        let of = |kind| tokens.get_or_create_owned(&[("kind", kind)]);
        let mut metrics = Metrics {
            streams_open: Gauge::default(),
            requests_in_flight: Gauge::default(),
            registry: Registry::with_prefix("mirrorgate"),
            requests: Family::default(),
            durations: timings(),
            first_tokens: timings(),
            prompt_tokens: of("prompt"),
            completion_tokens: of("completion"),
            response_bytes: Counter::default(),
            upstream_up: Family::default(),
            upstream_breaker: Family::default(),
            upstream_session: Family::default(),
            upstream_requests: Family::default(),
        };
        metrics.register(tokens, store_errors);
        metrics
    }

    fn register(&mut self, tokens: Family<Words<1>, Counter>, store_errors: Counter) {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let registry = &mut self.registry;
        registry.register("requests", "Requests by operation, status and error code", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "From a request to the end of its answer",
            self.durations.clone(),
        );
        registry.register(
            "time_to_first_token_seconds",
            "From a question to the first piece of a streamed answer",
            self.first_tokens.clone(),
        );
        registry.register(
            "tokens",
            "Tokens of questions and answers, estimated where the upstream gives none",
            tokens,
        );
        registry.register("streams_open", "Questions that are being answered", self.streams_open.clone());
        registry.register(
            "requests_in_flight",
            "Requests that have come and not been answered to their end",
            self.requests_in_flight.clone(),
        );
        registry.register("upstream_up", "Whether the upstream answers: 1 or 0", self.upstream_up.clone());
        registry.register(
            "upstream_breaker_state",
            "Circuit breaker of the upstream: 0 closed, 1 half open, 2 open",
            self.upstream_breaker.clone(),
        );
        registry.register(
            "upstream_session_state",
            "How the upstream last took the credentials: 1 for the state that holds",
            self.upstream_session.clone(),
        );
        registry.register(
            "upstream_requests",
            "Questions put to the upstream, by how the answer began: ok, or an error code",
            self.upstream_requests.clone(),
        );
        registry.register("store_errors", "Operations of the store that failed", store_errors);
        registry.register("response_bytes", "Bytes of answers", self.response_bytes.clone());
        registry.register("build", "The program", Info::new(version));
        registry.register_collector(Box::new(Process));
        registry.register_collector(Box::new(Mended));
    }

    /// Counts a request that has ended.
    pub fn request(
        &self,
        operation: Option<&'static str>,
        status: u16,
        code: Option<&'static str>,
        duration: Duration,
        bytes: u64,
    ) {
        let operation = operation.unwrap_or(OTHER);
        self.requests.get_or_create(&Ended { operation, code: code.unwrap_or_default(), status }).inc();
        self.durations.get_or_create(&Timed { operation }).observe(duration.as_secs_f64());
        self.response_bytes.inc_by(bytes);
    }

    /// Counts how long the first piece of a streamed answer took.
    pub fn first_token(&self, operation: &'static str, duration: Duration) {
        self.first_tokens.get_or_create(&Timed { operation }).observe(duration.as_secs_f64());
    }

    /// Counts the tokens of one request.
    pub fn tokens(&self, prompt: u64, completion: u64) {
        self.prompt_tokens.inc_by(prompt);
        self.completion_tokens.inc_by(completion);
    }

    /// Counts a question put to an upstream: `ok` when the answer began, else the error's code.
    pub fn upstream_request(&self, upstream: &str, outcome: &'static str) {
        self.upstream_requests.get_or_create(&Asked { upstream: upstream.into(), outcome }).inc();
    }

    /// Says nothing more of the upstreams that were told of, since others answer now.
    pub fn forget_upstreams(&self) {
        self.upstream_up.clear();
        self.upstream_breaker.clear();
        self.upstream_session.clear();
    }

    /// Says how an upstream does; `session` is the one of `sessions` that holds.
    pub fn upstream(&self, upstream: &str, up: bool, breaker: Breaker, session: &str, sessions: &[&str]) {
        let name = [("upstream", upstream.to_string())];
        self.upstream_up.get_or_create(&name).set(up.into());
        let state = match breaker {
            Breaker::Closed => 0,
            Breaker::HalfOpen => 1,
            Breaker::Open => 2,
        };
        self.upstream_breaker.get_or_create(&name).set(state);
        for state in sessions {
            let labels = [("upstream", upstream.to_string()), ("state", state.to_string())];
            self.upstream_session.get_or_create(&labels).set((*state == session).into());
        }
    }

    /// Everything as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// What the process counts for itself: its panics, which a hook counts, and the lines that its log lost.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for (name, help, count) in [
            ("panics", "Defects of the program that were met and survived.", telemetry::panics()),
            ("log_lines_dropped", "Lines of the log that standard error did not take.", telemetry::dropped()),
        ] {
            let count = ConstCounter::new(count);
            count.encode(encoder.encode_descriptor(name, help, None, count.metric_type())?)?;
        }
        Ok(())
    }
}

/// What the process mended of upstreams' answers, and sent again.
#[derive(Debug)]
struct Mended;

impl Collector for Mended {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let help = "Answers and questions by what was mended, skipped, held back or tried again.";
        let mut metric = encoder.encode_descriptor("mended", help, None, MetricType::Counter)?;
        for (mending, count) in mending::counts() {
            let labels = [("kind", mending.name())];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn work_that_panics_is_counted_out() {
        let metrics = Metrics::new(Counter::default());
        let running = metrics.running();
        assert_eq!(metrics.requests_in_flight.get(), 1);
        let work = move || {
            let _running = running;
            panic!("a defect");
        };
        assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
        assert_eq!(metrics.requests_in_flight.get(), 0);
    }
}
