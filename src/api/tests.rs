//! A panic is answered in the shape of the API that was called.

use actix_web::http::header::CONTENT_TYPE;
use actix_web::middleware::from_fn;
use actix_web::test::{TestRequest, init_service};
use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpResponse, web};
use futures_util::stream;
use serde_json::Value;

use super::ERROR_RENDERERS;
use crate::http::access_log::track;
use crate::metrics::{Counter, Metrics};

/// A body that yields `first` and panics then.
fn breaking(media: &'static str, first: &'static [u8]) -> HttpResponse {
    let body = stream::unfold(false, move |begun| async move {
        assert!(!begun, "a canary in a panic");
        Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(first)), true))
    });
    HttpResponse::Ok().insert_header((CONTENT_TYPE, media)).streaming(body)
}

/// What a service that panics at every turn answers at a path, and the metrics after it.
async fn answer(path: &str) -> (u16, Result<String, ()>, String) {
    let metrics = Data::new(Metrics::new(Counter::default()));
    let panics = || async { panic!("a canary in a panic") as HttpResponse };
    let app = App::new()
        .app_data(metrics.clone())
        .app_data(Data::new(ERROR_RENDERERS))
        .route("/api/chat", web::to(panics))
        .route("/v1/chat/completions", web::to(panics))
        .route("/api/late", web::to(|| async { breaking("application/json", b" ") }))
        .route("/v1/stream", web::to(|| async { breaking("text/event-stream", b": ping\n\n") }))
        .route("/v1/bytes", web::to(|| async { breaking("audio/mpeg", b"abc") }))
        .wrap(from_fn(track));
    let app = init_service(app).await;
    // The middleware hands the failure on as an error that is a response.
    let request = TestRequest::with_uri(path).to_request();
    let outcome = actix_web::dev::Service::call(&app, request).await;
    let (status, body) = match outcome {
        Ok(response) => {
            let status = response.status().as_u16();
            let body = actix_web::body::to_bytes(response.into_body()).await;
            (status, body.map(|body| String::from_utf8_lossy(&body).into_owned()).map_err(|_| ()))
        }
        Err(error) => {
            let response = error.error_response();
            let status = response.status().as_u16();
            let body = actix_web::body::to_bytes(response.into_body()).await.map_err(|_| ());
            (status, body.map(|body| String::from_utf8_lossy(&body).into_owned()))
        }
    };
    (status, body, metrics.text())
}

#[actix_web::test]
async fn a_panic_is_answered_in_the_form_of_the_face_and_counted() {
    let error = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["error"].clone();
    for (path, status) in [("/api/chat", 424), ("/v1/chat/completions", 500)] {
        let (got, body, metrics) = answer(path).await;
        let body = body.expect("a body");
        assert_eq!((got, &error(&body)["code"]), (status, &Value::from("internal_error")), "{body}");
        assert_eq!(error(&body)["type"].is_string(), path.starts_with("/v1"));
        assert!(!body.contains("canary"));
        let line = format!(
            r#"mirrorgate_requests_total{{operation="other",code="internal_error",status="{status}"}} 1"#
        );
        assert!(metrics.contains(&line), "{metrics}");
        assert!(metrics.contains("mirrorgate_requests_in_flight 0"), "{metrics}");
    }
}

#[actix_web::test]
async fn a_panic_within_a_body_ends_it_in_the_form_of_the_face() {
    let (status, body, _) = answer("/api/late").await;
    let body = body.expect("a body");
    let envelope: Value = serde_json::from_str(&body).expect("JSON after blanks");
    assert_eq!((status, &envelope["success"]), (200, &Value::from(false)), "{body}");
    assert_eq!(envelope["error"]["code"], "internal_error");
    let (_, body, metrics) = answer("/v1/stream").await;
    let body = body.expect("a body");
    let last = body.strip_prefix(": ping\n\ndata: ").expect("an event").trim_end();
    assert!(last.contains("internal_error") && !body.contains("[DONE]"), "{body}");
    assert!(metrics.contains(r#"code="internal_error",status="200"} 1"#), "{metrics}");
    let (_, body, _) = answer("/v1/bytes").await;
    assert!(body.is_err(), "bytes can only break off");
}
