//! What Prometheus reads.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helpers::{KEY, spawn_before};
use crate::upstream::{Fake, chunk, response, send, stream_end, stream_head};

const NAMES: &[&str] = &[
    "mirrorgate_build_info",
    "mirrorgate_log_lines_dropped_total",
    "mirrorgate_mended_total",
    "mirrorgate_panics_total",
    "mirrorgate_request_duration_seconds",
    "mirrorgate_requests_in_flight",
    "mirrorgate_requests_total",
    "mirrorgate_response_bytes_total",
    "mirrorgate_store_errors_total",
    "mirrorgate_streams_open",
    "mirrorgate_time_to_first_token_seconds",
    "mirrorgate_tokens_total",
    "mirrorgate_upstream_breaker_state",
    "mirrorgate_upstream_requests_total",
    "mirrorgate_upstream_session_state",
    "mirrorgate_upstream_up",
];

const STREAM: &str =
    r#"{"model": "secret-model", "stream": true, "messages": [{"role": "user", "content": "hi"}]}"#;

/// The metrics that the Grafana dashboard asks for, each with the labels that it sorts them by.
fn on_the_dashboard() -> Vec<(String, Vec<String>)> {
    let dashboard: Value =
        serde_json::from_str(include_str!("../../deploy/grafana/mirrorgate.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<&str> = targets.map(|target| target["expr"].as_str().expect("a query")).collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = |expression: &str| {
        let by = expression.split_once("by (").and_then(|(_, rest)| rest.split_once(')'));
        let labels = by.map_or("", |(labels, _)| labels).split(',').map(str::trim);
        let labels: Vec<String> = labels.filter(|label| !label.is_empty()).map(String::from).collect();
        let words = expression.split(|c| !is_name(c)).filter(|word| word.starts_with("mirrorgate_"));
        words.map(|word| (word.to_string(), labels.clone())).collect::<Vec<_>>()
    };
    let all: Vec<_> = expressions.into_iter().flat_map(named).collect();
    assert!(all.len() > 10, "{all:?}");
    all
}

async fn fake() -> Fake {
    Fake::start(|request| {
        if request.line.starts_with("GET") {
            return send(response("200 OK", "application/json", r#"{"data":[{"id":"m"}]}"#));
        }
        if request.body.contains("fail") {
            return send(response("500 Oops", "application/json", "{}"));
        }
        vec![stream_head(), chunk("one", None), chunk(" two", Some("stop")), stream_end()]
    })
    .await
}

#[actix_web::test]
async fn they_need_a_key_unless_they_are_public() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let answer = app.call("GET", "/metrics", &[], None).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "gateway_key_missing"));
    let app = spawn_before(&fake.url, "openai", &[("METRICS_PUBLIC", "true")]).await;
    let answer = app.call("GET", "/metrics", &[], None).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text"))
    );
    assert_eq!(app.call("GET", "/api/models", &[], None).await.status, 401);
}

#[actix_web::test]
async fn they_tell_what_happened_in_bounded_words() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    assert_eq!(app.chat(json!({"message": "hi"})).await.status, 200);
    assert_eq!(app.chat(json!({"message": "fail"})).await.status, 424);
    assert!(app.post("/v1/chat/completions", KEY, STREAM).await.text.contains("[DONE]"));
    app.get("/secret-path").await;
    app.post("/api/chat", "wrong-key-wrong-key", "{}").await;
    let text = app.get_as_owner("/metrics").await.text;

    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let bare = |line: &str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name)
            .to_string()
    };
    let names: BTreeSet<String> = samples.clone().map(bare).collect();
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), NAMES, "{text}");
    assert!(text.ends_with("# EOF\n"));
    let samples: BTreeSet<&str> =
        samples.map(|line| line.split(['{', ' ']).next().unwrap_or_default()).collect();
    for (name, labels) in on_the_dashboard() {
        assert!(samples.contains(name.as_str()), "the dashboard asks for {name}, which is not exported");
        for label in labels {
            let start = format!("{name}{{");
            let has = |line: &str| {
                line.strip_prefix(&start).is_some_and(|labels| {
                    labels.starts_with(&format!("{label}=")) || labels.contains(&format!(",{label}="))
                })
            };
            assert!(text.lines().any(has), "the dashboard sorts {name} by {label}, which it does not have");
        }
    }
    let upstream = &fake.url;
    for line in [
        r#"mirrorgate_requests_total{operation="chat",code="",status="200"} 1"#,
        r#"mirrorgate_requests_total{operation="chat",code="upstream_error",status="424"} 1"#,
        r#"mirrorgate_requests_total{operation="chat_completions",code="",status="200"} 1"#,
        r#"mirrorgate_requests_total{operation="other",code="not_found",status="404"} 1"#,
        r#"mirrorgate_requests_total{operation="other",code="gateway_key_wrong",status="401"} 1"#,
        r#"mirrorgate_request_duration_seconds_count{operation="chat"} 2"#,
        r#"mirrorgate_time_to_first_token_seconds_count{operation="chat"} 1"#,
        r#"mirrorgate_time_to_first_token_seconds_count{operation="chat_completions"} 1"#,
        "mirrorgate_streams_open 0",
        "mirrorgate_requests_in_flight 1",
        "mirrorgate_store_errors_total 0",
        &format!(r#"mirrorgate_upstream_up{{upstream="{upstream}"}} 1"#),
        &format!(r#"mirrorgate_upstream_breaker_state{{upstream="{upstream}"}} 0"#),
        &format!(r#"mirrorgate_upstream_session_state{{upstream="{upstream}",state="ok"}} 1"#),
        &format!(r#"mirrorgate_upstream_session_state{{upstream="{upstream}",state="expired"}} 0"#),
        &format!(r#"mirrorgate_upstream_requests_total{{upstream="{upstream}",outcome="ok"}} 2"#),
        &format!(r#"mirrorgate_upstream_requests_total{{upstream="{upstream}",outcome="upstream_error"}} 1"#),
        &format!(r#"mirrorgate_build_info{{version="{}"}} 1"#, env!("CARGO_PKG_VERSION")),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing from\n{text}");
    }
    for kind in ["prompt", "completion"] {
        let start = format!(r#"mirrorgate_tokens_total{{kind="{kind}"}} "#);
        let count = text.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok());
        assert!(count.is_some_and(|count| count > 0), "{text}");
    }
    for secret in ["secret-model", "secret-path", KEY, "tests"] {
        assert!(!text.contains(secret), "{secret} stands in\n{text}");
    }
}

#[actix_web::test]
async fn what_was_mended_is_counted_by_its_kind() {
    let fake = Fake::start(|_| vec![stream_head(), chunk("words", Some("stop")), stream_end()]).await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    let count = async || {
        let text = app.get_as_owner("/metrics").await.text;
        let line =
            text.lines().find(|line| line.starts_with(r#"mirrorgate_mended_total{kind="piece_mended"}"#));
        let count =
            line.and_then(|line| line.rsplit(' ').next()).and_then(|number| number.parse::<u64>().ok());
        count.expect("the kind is counted")
    };
    let before = count().await;
    app.post("/v1/chat/completions", KEY, STREAM).await;
    // Others of these tests are counted by the same process.
    assert!(count().await > before);
}
