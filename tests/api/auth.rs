//! Gateway keys: needed, understood in many forms, guessed in vain.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::helpers::{KEY, TestApp, spawn};

async fn status(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> u16 {
    app.call("GET", path, headers, None).await.status.as_u16()
}

#[actix_web::test]
async fn a_key_is_accepted_in_every_form() {
    let app = spawn(&[]).await;
    let pair = STANDARD.encode(format!("user:{KEY}"));
    for value in [
        format!("Bearer {KEY}"),
        format!("Basic {KEY}"),
        format!("Basic {pair}"),
        format!("Bearer Bearer {KEY}"),
        format!("  bearer   {KEY}  "),
        format!("Token {KEY}"),
        format!("Bearer tests:{KEY}"),
        KEY.to_string(),
    ] {
        assert_eq!(status(&app, "/api/models", &[("authorization", &value)]).await, 200, "{value}");
    }
    assert_eq!(status(&app, "/api/models", &[("x-api-key", KEY)]).await, 200);
    assert_eq!(status(&app, &format!("/api/models?key={KEY}%0A"), &[]).await, 200);
}

#[actix_web::test]
async fn without_a_key_only_the_public_paths_answer() {
    let app = spawn(&[]).await;
    for path in [
        "/",
        "/health",
        "/ready",
        "/openapi.json",
        "/openapi.yaml",
        "/openapi/full.json",
        "/.well-known/ai-plugin.json",
        "/docs/",
        "/dify/",
        "/dify/chatflow.yml",
        "/assets/home.css",
        "/favicon.ico",
    ] {
        assert_eq!(status(&app, path, &[]).await, 200, "{path}");
    }
    for path in ["/api/models", "/api/health", "/api/chat", "/nothing", "/docsx", "/difyx", "/metrics"] {
        let answer = app.call("GET", path, &[], None).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "gateway_key_missing"), "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
}

#[actix_web::test]
async fn guessing_is_slowed_down_and_a_key_that_has_passed_still_passes() {
    const OTHER: &str = "an0ther-k3y-of-the-tests";
    let app = spawn(&[("GATEWAY_API_KEYS", &format!("tests:{KEY},other:{OTHER}"))]).await;
    assert_eq!(app.get("/api/models").await.status, 200);
    for _ in 0..10 {
        let answer =
            app.call("GET", "/api/models", &[("authorization", "Bearer wrong-key-wrong-key")], None).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "gateway_key_wrong"));
    }
    let answer =
        app.call("GET", "/api/models", &[("authorization", "Bearer wrong-key-wrong-key")], None).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "too_many_wrong_keys"));
    assert!(
        answer
            .header("retry-after")
            .and_then(|text| text.parse::<u64>().ok())
            .is_some_and(|seconds| (1..=60).contains(&seconds))
    );
    assert_eq!(app.get("/api/models").await.status, 200);
    let right = app.call("GET", "/api/models", &[("x-api-key", OTHER)], None).await;
    assert_eq!(right.code(), "too_many_wrong_keys", "what has not passed before is not looked at");
}

#[actix_web::test]
async fn many_keys_in_one_request_are_as_many_tries() {
    let app = spawn(&[]).await;
    let query: Vec<String> = (0..10).map(|number| format!("key=wrong-key-number-{number}")).collect();
    let path = format!("/api/models?{}", query.join("&"));
    assert_eq!(app.call("GET", &path, &[], None).await.code(), "gateway_key_wrong");
    assert_eq!(app.call("GET", &path, &[], None).await.code(), "too_many_wrong_keys");
}

#[actix_web::test]
async fn guesses_beside_a_good_key_count_as_well() {
    const OTHER: &str = "an0ther-k3y-of-the-tests";
    let app = spawn(&[("GATEWAY_API_KEYS", &format!("tests:{KEY},other:{OTHER}"))]).await;
    assert_eq!(app.get("/api/models").await.status, 200);
    let guesses = |count: usize| {
        let wrong = (0..count).map(|number| format!("key=wrong-key-number-{number}&")).collect::<String>();
        format!("/api/models?{wrong}key={KEY}")
    };
    // A wrong key in each other place is no guess, however often it comes.
    for _ in 0..20 {
        assert_eq!(app.call("GET", &guesses(2), &[], None).await.status, 200);
    }
    assert_eq!(app.call("GET", &guesses(13), &[], None).await.status, 200);
    let right = app.call("GET", "/api/models", &[("x-api-key", OTHER)], None).await;
    assert_eq!(right.code(), "too_many_wrong_keys");
}

#[actix_web::test]
async fn browsers_of_any_origin_may_call_without_credentials() {
    let app = spawn(&[]).await;
    let headers = [
        ("origin", "https://cloud.dify.ai"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let answer = app.call("OPTIONS", "/api/chat", &headers, None).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, Some("*")));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    let app = spawn(&[("CORS_ALLOWED_ORIGINS", "https://a.example.com")]).await;
    let allowed = app.call("GET", "/openapi.json", &[("origin", "https://a.example.com")], None).await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://a.example.com"));
    let other = app.call("GET", "/openapi.json", &[("origin", "https://b.example.com")], None).await;
    assert_eq!(other.header("access-control-allow-origin"), None);
}

#[actix_web::test]
async fn a_service_that_has_lost_all_its_keys_is_closed_and_not_open() {
    use mirrorgate::config::Location;
    use mirrorgate::store::Store;
    let folder = crate::helpers::temporary_folder();
    let app = spawn(&[("DATA_DIR", &folder), ("GATEWAY_API_KEYS", "")]).await;
    let store = Store::new(Location::File(format!("{folder}/mirrorgate.db").into())).expect("a store");
    let keys = store.keys().await.expect("keys");
    assert_eq!(keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["generated"]);
    store.remove_key("generated").await.expect("removed");
    let key = mirrorgate::domain::keys::GatewayKey::new("x", KEY);
    for _ in 0..60 {
        assert_eq!(status(&app, "/api/models", &[]).await, 401);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    store.add_key(&key).await.expect("added");
    let start = std::time::Instant::now();
    while app.get("/api/models").await.status != 200 {
        assert!(start.elapsed().as_secs() < 5, "a new key is accepted within seconds");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
