//! Which path shows what.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;

use super::http::{Ask, Method, Response};
use super::metrics::Metrics;
use super::page::status_page;
use super::weights;
use super::{AdminConfig, AdminReach, Board};

/// The pages of one server.
pub(super) struct Pages {
    board: Arc<Board>,
    metrics: Registry,
    reach: AdminReach,
    patience: Duration,
    /// Whether weights can be replaced here.
    weights: bool,
}

impl Pages {
    pub(super) fn new(board: Arc<Board>, config: &AdminConfig) -> Pages {
        let mut metrics = Registry::default();
        metrics.register_collector(Box::new(Metrics::new(Arc::clone(&board))));
        // Nobody is asked who they are, so what changes the server is for this machine alone, whatever the configuration says.
        let weights = config.weights && config.reach == AdminReach::ThisMachine;
        Pages { board, metrics, reach: config.reach, patience: config.patience, weights }
    }

    /// How long a peer may take to ask, and again to take its answer.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Answers a request.
    pub(super) fn respond(&self, ask: &Ask) -> Response {
        if !self.is_meant(ask.host.as_deref()) {
            return Response::line(403, "ask by an address or as localhost: no other name is this machine's own");
        }
        if let (Method::Post, "/weights", Some(order)) = (ask.method, ask.path.as_str(), &ask.order) {
            return weights::replace(&self.board, self.weights, order);
        }
        if matches!(ask.method, Method::Other | Method::Post) {
            return Response::line(405, "the pages can be read (GET, HEAD) and nothing else");
        }
        match ask.path.as_str() {
            "/" => {
                let (content_type, body) = ("text/html; charset=utf-8", status_page(&self.board));
                Response { status: 200, content_type, body }
            }
            "/metrics" => self.metrics(),
            "/healthz" => Response::line(200, "ok"),
            "/readyz" => match self.board.readiness() {
                Ok(()) => Response::line(200, "ready"),
                Err(why) => Response::line(503, why),
            },
            "/stats" => self.stats(),
            "/weights" => weights::status(&self.board),
            _ => Response::line(404, "there are /, /metrics, /healthz, /readyz, /stats and /weights"),
        }
    }

    /// Whether a host is this machine's by any name. A web page can point a name of its own here and have a browser read
    /// what is served; it cannot do that with an address or `localhost`.
    fn is_meant(&self, host: Option<&str>) -> bool {
        self.reach == AdminReach::Anybody
            || host.is_none_or(|host| {
                host.is_empty() || host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok()
            })
    }

    fn metrics(&self) -> Response {
        let mut body = String::new();
        match prometheus_text::encode(&mut body, &self.metrics) {
            Ok(()) => Response { status: 200, content_type: prometheus_text::CONTENT_TYPE, body },
            Err(error) => {
                tracing::error!(%error, "cannot write the metrics");
                Response::line(500, "the metrics cannot be written; see the server's log")
            }
        }
    }

    fn stats(&self) -> Response {
        let moment = self.board.moment();
        let server: serde_json::Map<_, _> =
            moment.counters.snapshot().into_iter().map(|(name, value)| (name, value.into())).collect();
        let told = serde_json::json!({
            "state": self.board.readiness().err().unwrap_or("ready"),
            "uptime_s": self.board.uptime().as_secs(),
            "model": moment.facts.model,
            "catalog": moment.facts.catalog,
            "device": moment.facts.device,
            "dtype": moment.facts.dtype,
            "engine": moment.engine.to_json(),
            "server": server,
        });
        Response::json(200, &told)
    }
}
