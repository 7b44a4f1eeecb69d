//! What was asked of whom over a time: by key, model, upstream and code, and not lost at a restart.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::helpers::{ADMIN_KEY, KEY, OTHER_KEY, call, post, spawn_before, temporary_folder};
use crate::running::Process;
use crate::upstream::{Fake, chunk, response, send, stream_end, stream_head};

async fn fake() -> Fake {
    Fake::start(|request| {
        if request.line.starts_with("GET") {
            return send(response("200 OK", "application/json", r#"{"data":[{"id":"a"},{"id":"b"}]}"#));
        }
        if request.body.contains("fail") {
            return send(response("500 Oops", "application/json", "{}"));
        }
        vec![stream_head(), chunk("one", None), chunk(" two", Some("stop")), stream_end()]
    })
    .await
}

async fn statistics(address: std::net::SocketAddr, query: &str) -> Value {
    let answer =
        call(address, "GET", &format!("/api/statistics{query}"), &[("x-api-key", ADMIN_KEY)], None).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// The statistics, once so many calls are in them.
async fn until(address: std::net::SocketAddr, query: &str, calls: u64) -> Value {
    let start = Instant::now();
    loop {
        let found = statistics(address, query).await;
        if found["all"]["calls"] == calls {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{found:#}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The names of series, each with its calls.
fn named(series: &Value) -> Vec<(Option<&str>, u64)> {
    let series = series.as_array().expect("series").iter();
    series.map(|one| (one["name"].as_str(), one["sum"]["calls"].as_u64().expect("a number"))).collect()
}

fn total(calls: &Value) -> u64 {
    calls.as_array().expect("numbers").iter().map(|calls| calls.as_u64().expect("a number")).sum()
}

#[actix_web::test]
async fn questions_are_summed_by_key_model_upstream_and_code() {
    let fake = fake().await;
    let app = spawn_before(&fake.url, "openai", &[]).await;
    for (key, model, message) in [
        (KEY, "a", "hi"),
        (KEY, "a", "hi"),
        (KEY, "b", "hi"),
        (OTHER_KEY, "a", "fail"),
        (OTHER_KEY, "a", "hi"),
    ] {
        app.post("/api/chat", key, &json!({"message": message, "model": model}).to_string()).await;
    }
    app.post("/api/chat", KEY, "no JSON").await;
    // Who only looks is not counted.
    app.get("/api/models").await;
    app.get("/api/health").await;
    let by_key = until(app.address, "", 6).await;
    assert_eq!(
        (&by_key["range"], &by_key["by"], &by_key["slot_seconds"]),
        (&json!("day"), &json!("key"), &json!(3600))
    );
    assert_eq!(named(&by_key["groups"]), [(Some("tests"), 4), (Some("other"), 2)]);
    assert_eq!(named(&by_key["failures"]), [(Some("invalid_json"), 1), (Some("upstream_error"), 1)]);
    let all = &by_key["all"];
    assert_eq!((&all["failed"], &all["stopped"], &all["estimated_calls"]), (&json!(2), &json!(0), &json!(4)));
    assert!(all["completion_tokens"].as_u64() > Some(0), "{all}");
    for times in ["first_token_ms", "total_ms"] {
        assert!(all[times]["p50"].as_u64() <= all[times]["p95"].as_u64(), "{all}");
        assert!(all[times]["p95"].is_u64(), "{all}");
    }
    assert_eq!(by_key["starts"].as_array().map(Vec::len), Some(24));
    let in_slots: u64 = by_key["slots"]
        .as_array()
        .expect("slots")
        .iter()
        .map(|slot| slot["calls"].as_u64().expect("a number"))
        .sum();
    assert_eq!((in_slots, total(&by_key["groups"][0]["calls"])), (6, 4));

    let by = async |name: &str| statistics(app.address, &format!("?by={name}&range=hour")).await;
    assert_eq!(named(&by("model").await["groups"]), [(Some("a"), 4), (None, 1), (Some("b"), 1)]);
    assert_eq!(named(&by("upstream").await["groups"]), [(Some(fake.url.as_str()), 5), (None, 1)]);
    let codes = by("code").await;
    assert_eq!(named(&codes["groups"]), [(None, 4), (Some("invalid_json"), 1), (Some("upstream_error"), 1)]);
    assert_eq!((&codes["slot_seconds"], codes["starts"].as_array().map(Vec::len)), (&json!(300), Some(12)));
    let month = statistics(app.address, "?range=month&minutes=480").await;
    assert_eq!((&month["slot_seconds"], total(&month["groups"][0]["calls"])), (&json!(86_400), 4));
    assert_eq!(month["starts"][0].as_i64().map(|start| start % 86_400_000), Some(16 * 3_600_000));
}

#[actix_web::test]
async fn sums_outlive_the_process_and_add_up_with_those_of_the_next() {
    let (fake, folder) = (fake().await, temporary_folder());
    let start = || {
        Process::start(&[
            ("UPSTREAM_URL", &fake.url),
            ("GATEWAY_API_KEYS", &format!("tests:{KEY}")),
            ("ADMIN_KEY", ADMIN_KEY),
            ("DATA_DIR", &folder),
        ])
    };
    for calls in [2, 4] {
        let mut process = start();
        for _ in 0..2 {
            post(process.address, "/api/chat", KEY, r#"{"model": "a", "message": "hi"}"#).await;
        }
        // The first time nothing is read, so that the end alone can have kept it.
        if calls > 2 {
            let found = until(process.address, "?by=model", calls).await;
            assert_eq!(named(&found["groups"]), [(Some("a"), calls)]);
        }
        process.signal("TERM");
        assert_eq!(process.ended().await.0.code(), Some(0), "{}", process.output());
    }
}
