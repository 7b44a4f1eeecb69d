//! The ready apps for Dify and their page.

use crate::helpers::spawn;

const FILES: [&str; 6] = [
    "chatflow.yml",
    "chatflow.zh-Hant.yml",
    "streaming.yml",
    "streaming.zh-Hant.yml",
    "batch.yml",
    "batch.zh-Hant.yml",
];

#[actix_web::test]
async fn each_app_has_this_services_address_and_no_secret() {
    const KEY: &str = "a-gateway-key-of-the-tests";
    let app = spawn(&[
        ("PUBLIC_URL", "https://gate.example.com/base/"),
        ("GATEWAY_API_KEYS", KEY),
        ("UPSTREAM_URL", "http://127.0.0.1:1/secret-path"),
        ("UPSTREAM_API_KEY", "sk-canary-1234"),
        ("MODELS", "secret-model"),
    ])
    .await;
    for file in FILES {
        let path = format!("/dify/{file}");
        let answer = app.get(&path).await;
        assert_eq!(answer.status, 200, "{file}");
        assert_eq!(answer.header("content-type"), Some("application/yaml"), "{file}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{file}");
        let asks = answer.text.matches("https://gate.example.com/base/api/chat\n").count();
        assert_eq!(asks, usize::from(!file.starts_with("streaming")), "{file}");
        for secret in [KEY, "canary", "secret"] {
            // The type of the variable for the key is called so.
            let text = answer.text.replace("value_type: secret", "");
            assert!(!text.contains(secret), "`{secret}` in {file}");
        }
    }
    let none = app.get("/dify/nothing.yml").await;
    assert_eq!((none.status.as_u16(), none.code().as_str()), (404, "not_found"));
}

#[actix_web::test]
async fn the_page_lists_the_apps_of_its_language() {
    let app = spawn(&[]).await;
    assert_eq!(app.get("/dify").await.header("location"), Some("dify/"));
    for (lang, own, other) in [("en", ".yml", ".zh-Hant.yml"), ("zh-Hant", ".zh-Hant.yml", "chatflow.yml")] {
        let page = app.call("GET", &format!("/dify/?lang={lang}"), &[], None).await;
        assert!(
            page.header("content-security-policy")
                .is_some_and(|policy| policy.starts_with("default-src 'none'"))
        );
        for name in ["chatflow", "streaming", "batch"] {
            // minijinja writes `/` as `&#x2f;`.
            let url = format!("http://{}/dify/{name}{own}<", app.address).replace('/', "&#x2f;");
            assert!(page.text.contains(&url), "{url}");
        }
        assert!(!page.text.contains(other), "{lang}");
    }
}
