//! What is known of the upstreams: lists that hang, fail, change, and are asked for beside the calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::helpers::{Answer, TestApp, spawn};
use crate::upstream::{Fake, Request, Step, response, send};

/// Longer than a call may take that waits for no upstream.
const AT_ONCE: Duration = Duration::from_secs(1);

fn is_list(request: &Request) -> bool {
    request.line.contains("/models")
}

fn lists(fake: &Fake) -> usize {
    fake.requests().iter().filter(|request| is_list(request)).count()
}

fn listing(models: &[&str]) -> Vec<Step> {
    let models: Vec<_> = models.iter().map(|id| json!({"id": id})).collect();
    send(response("200 OK", "application/json", &json!({ "data": models }).to_string()))
}

fn saying(name: &str) -> Vec<Step> {
    let answer = json!({"choices": [{"index": 0, "message": {"content": name}, "finish_reason": "stop"}]});
    send(response("200 OK", "application/json", &answer.to_string()))
}

/// An upstream that lists the model `a`.
async fn good() -> Fake {
    Fake::start(|request| if is_list(request) { listing(&["a"]) } else { saying("good") }).await
}

/// An upstream that never lists its models, and answers all the same.
async fn hanging() -> Fake {
    Fake::start(|request| if is_list(request) { vec![Step::Hang] } else { saying("hanging") }).await
}

async fn timed(app: &TestApp, body: Value) -> (Answer, Duration) {
    let start = Instant::now();
    let answer = app.chat(body).await;
    (answer, start.elapsed())
}

#[actix_web::test]
async fn no_call_waits_for_an_upstream_that_hangs_while_another_has_listed_its_models() {
    for named in [true, false] {
        let (good, hanging) = (good().await, hanging().await);
        let app = spawn(&[("UPSTREAM_URL", &format!("{},{}", hanging.url, good.url))]).await;
        let body = || if named { json!({"message": "hi", "model": "a"}) } else { json!({"message": "hi"}) };
        let mut answers = join_all((0..20).map(|_| timed(&app, body()))).await;
        for _ in 0..20 {
            answers.push(timed(&app, body()).await);
        }
        for (answer, took) in answers {
            assert_eq!(answer.json()["answer"], "good", "{}", answer.text);
            assert!(took < AT_ONCE, "a call took {took:?}");
        }
        assert_eq!((lists(&good), lists(&hanging)), (1, 1), "all calls share one refresh");
    }
}

#[actix_web::test]
async fn a_model_that_no_list_names_goes_first_to_the_upstream_whose_list_is_not_known() {
    let (good, hanging) = (good().await, hanging().await);
    let app = spawn(&[("UPSTREAM_URL", &format!("{},{}", hanging.url, good.url))]).await;
    for _ in 0..5 {
        let (answer, took) = timed(&app, json!({"message": "hi", "model": "z"})).await;
        assert_eq!(answer.json()["answer"], "hanging", "{}", answer.text);
        assert!(took < AT_ONCE, "a call took {took:?}");
    }
}

#[actix_web::test]
async fn calls_without_a_model_wait_once_for_the_only_upstream_and_the_next_do_not() {
    let fake = hanging().await;
    let app = spawn(&[("UPSTREAM_URL", &fake.url)]).await;
    let answers = join_all((0..10).map(|_| timed(&app, json!({"message": "hi"}))));
    let (answers, (named, took_named)) =
        futures_util::future::join(answers, timed(&app, json!({"message": "hi", "model": "m"}))).await;
    assert_eq!(named.json()["answer"], "hanging");
    assert!(took_named < AT_ONCE, "a call with a model took {took_named:?}");
    for (answer, took) in &answers {
        assert_eq!(answer.code(), "upstream_timeout");
        assert!(answer.text.contains("DEFAULT_MODEL"), "{}", answer.text);
        assert!(*took < Duration::from_secs(6), "a call took {took:?}");
    }
    let (next, took) = timed(&app, json!({"message": "hi"})).await;
    assert_eq!(next.code(), "upstream_timeout");
    assert!(took < AT_ONCE, "the next call took {took:?}");
    assert_eq!(lists(&fake), 1, "all calls share one refresh");
}

#[actix_web::test]
async fn a_caller_who_leaves_does_not_end_the_refresh_that_it_began() {
    let fake = Fake::start(|request| {
        let mut steps = vec![Step::Pause(Duration::from_millis(600))];
        steps.extend(if is_list(request) { listing(&["a"]) } else { saying("slow") });
        steps
    })
    .await;
    let app = spawn(&[("UPSTREAM_URL", &fake.url)]).await;
    let left = tokio::time::timeout(Duration::from_millis(200), app.chat(json!({"message": "hi"}))).await;
    assert!(left.is_err(), "the caller leaves before there is an answer");
    assert_eq!(app.chat(json!({"message": "hi"})).await.json()["model"], "a");
    assert_eq!(lists(&fake), 1);
}

#[actix_web::test]
async fn the_models_of_others_are_listed_while_one_hangs() {
    let (good, hanging) = (good().await, hanging().await);
    let app = spawn(&[("UPSTREAM_URL", &format!("{},{}", hanging.url, good.url))]).await;
    for limit in [Duration::from_secs(6), AT_ONCE] {
        let start = Instant::now();
        let models = app.get("/api/models").await.json();
        assert_eq!((&models["models"][0]["id"], &models["default_model"]), (&json!("a"), &json!("a")));
        assert!(start.elapsed() < limit, "the list took {:?}", start.elapsed());
    }
    let start = Instant::now();
    let page = app.call("GET", "/", &[("accept", "application/json")], None).await.json();
    assert_eq!(page["status"], "degraded");
    assert!(start.elapsed() < AT_ONCE, "the page took {:?}", start.elapsed());
}

#[actix_web::test]
async fn a_failure_that_comes_at_once_is_soon_forgotten() {
    let count = AtomicUsize::new(0);
    let fake = Fake::start(move |request| match is_list(request) {
        true if count.fetch_add(1, Ordering::Relaxed) == 0 => send(response("503 Oops", "text/plain", "")),
        true => listing(&["a"]),
        false => saying("back"),
    })
    .await;
    let app = spawn(&[("UPSTREAM_URL", &fake.url)]).await;
    assert_eq!(app.chat(json!({"message": "hi"})).await.code(), "upstream_error");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(app.chat(json!({"message": "hi"})).await.json()["answer"], "back");
}

#[actix_web::test]
async fn an_idle_process_asks_nothing_and_a_list_that_changes_is_seen_after_its_age() {
    let version = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&version);
    let fake = Fake::start(move |request| match (is_list(request), now.load(Ordering::Relaxed)) {
        (true, 0) => listing(&["old"]),
        (true, _) => listing(&["new"]),
        (false, _) => saying("hi"),
    })
    .await;
    let app = spawn(&[("UPSTREAM_URL", &fake.url)]).await;
    let listed = async || app.get("/api/models").await.json()["models"][0]["id"].clone();
    assert_eq!(lists(&fake), 0);
    assert_eq!(listed().await, "old");
    version.store(1, Ordering::Relaxed);
    assert_eq!((listed().await, lists(&fake)), (json!("old"), 1));
    tokio::time::sleep(Duration::from_millis(30_500)).await;
    assert_eq!(lists(&fake), 1, "nobody asked for anything");
    // A question goes on with the old list and has it asked for; a list of models waits for the new.
    assert_eq!(app.chat(json!({"message": "hi"})).await.json()["model"], "old");
    assert_eq!((listed().await, lists(&fake)), (json!("new"), 2));
    assert_eq!(app.chat(json!({"message": "hi"})).await.json()["model"], "new");
}
