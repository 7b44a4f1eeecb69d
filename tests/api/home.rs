//! The page at `/`.

use serde_json::json;

use crate::helpers::{spawn, spawn_before};
use crate::upstream::{Fake, response, send};

#[actix_web::test]
async fn the_page_speaks_to_people_and_programs() {
    let app = spawn(&[]).await;
    let page = app
        .call("GET", "/", &[("accept", "text/html,*/*"), ("accept-language", "zh-TW,zh;q=0.9")], None)
        .await;
    assert!(page.header("content-type").is_some_and(|media| media.starts_with("text/html")));
    assert!(page.text.contains("lang=\"zh-Hant\"") && page.text.contains("/console"));
    let english = app.call("GET", "/?lang=en", &[("accept-language", "zh-TW")], None).await;
    assert!(english.text.contains("lang=\"en\""));
    let data = app.call("GET", "/", &[("accept", "application/json")], None).await.json();
    assert_eq!(
        (&data["name"], &data["demo"], &data["status"]),
        (&"mirrorgate".into(), &true.into(), &"ok".into())
    );
    assert_eq!(data["endpoints"]["document"], format!("http://{}/openapi.json", app.address));
}

#[actix_web::test]
async fn a_hostile_host_header_is_no_markup() {
    let app = spawn(&[("TRUST_PROXY_HEADERS", "true")]).await;
    let page = app
        .call(
            "GET",
            "/",
            &[("x-forwarded-host", "\"><script>alert(1)</script>"), ("accept", "text/html")],
            None,
        )
        .await;
    assert!(page.status == 200 && !page.text.contains("<script>alert"));
}

#[actix_web::test]
async fn the_page_tells_nothing_that_a_key_protects() {
    let app =
        spawn(&[("UPSTREAM_URL", "http://127.0.0.1:1/secret-path"), ("UPSTREAM_API_KEY", "sk-canary-1234")])
            .await;
    let page = app.call("GET", "/", &[("accept", "text/html")], None).await;
    assert!(
        !page.text.contains("secret-path")
            && !page.text.contains("canary")
            && !page.text.contains("127.0.0.1:1/")
    );
}

#[actix_web::test]
async fn what_is_wrong_stands_on_the_page_in_sentences_and_not_in_codes() {
    let fake = Fake::start(|request| match request.line.starts_with("GET") {
        true => send(response("200 OK", "application/json", "{}")),
        false => send(response("401 Unauthorized", "application/json", "{}")),
    })
    .await;
    let app = spawn_before(&fake.url, "web-chat", &[("UPSTREAM_COOKIE", "sso=1")]).await;
    assert_eq!(app.chat(json!({"message": "Hello"})).await.code(), "upstream_auth_expired");
    for (language, sentence) in
        [("en", "The mirror does not accept the login any more."), ("zh-Hant", "鏡像站不再接受目前的登入。")]
    {
        let page = app.call("GET", &format!("/?lang={language}"), &[("accept", "text/html")], None).await;
        assert!(page.text.contains(sentence), "{}", page.text);
        assert!(!page.text.contains("upstream_auth_expired"));
    }
}
