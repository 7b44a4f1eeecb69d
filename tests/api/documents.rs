//! The documents: equal to the committed ones, true to their server, within importers' rules.

use serde_json::Value;

use crate::helpers::spawn;

#[actix_web::test]
async fn the_committed_documents_are_what_the_program_prints() {
    let documents = mirrorgate::api::documents(false);
    use mirrorgate::http::documents::{Document, pretty, yaml};
    let server = "https://your-app.example.com";
    let tools = documents.at(Document::Tools, server);
    for (file, printed) in [
        ("dify.json", pretty(&documents.at(Document::Dify, server))),
        ("tools.json", pretty(&tools)),
        ("tools.yaml", yaml(&tools)),
        ("full.json", pretty(&documents.at(Document::Full, server))),
    ] {
        let path = format!("{}/openapi/{file}", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == printed, "openapi/{file} differs: print it anew, see CONTRIBUTING.md");
    }
}

#[actix_web::test]
async fn the_server_is_the_public_url_or_what_a_trusted_peer_says() {
    let server = |text: &str| {
        serde_json::from_str::<Value>(text).expect("JSON")["servers"][0]["url"].as_str().map(String::from)
    };
    let poison = [
        ("host", "evil.example.com"),
        ("x-forwarded-host", "evil.example.com"),
        ("x-forwarded-proto", "https"),
    ];
    let app = spawn(&[("PUBLIC_URL", "https://gate.example.com/base/")]).await;
    let answer = app.call("GET", "/openapi.json", &poison, None).await;
    assert_eq!(server(&answer.text).as_deref(), Some("https://gate.example.com/base"));
    let app = spawn(&[
        ("RENDER", "true"),
        ("RENDER_EXTERNAL_URL", "https://a.onrender.com"),
        ("HOST", "127.0.0.1"),
    ])
    .await;
    let answer = app.call("GET", "/openapi.json", &poison, None).await;
    assert_eq!(server(&answer.text).as_deref(), Some("https://a.onrender.com"));
    let app = spawn(&[]).await;
    let tunnel = [("x-forwarded-host", "abc.trycloudflare.com"), ("x-forwarded-proto", "https")];
    let answer = app.call("GET", "/openapi.json", &tunnel, None).await;
    assert_eq!(server(&answer.text).as_deref(), Some("https://abc.trycloudflare.com"));
    assert_eq!(server(&app.get("/openapi.json").await.text), Some(format!("http://{}", app.address)));
}

#[actix_web::test]
async fn documents_are_not_cached_and_open_to_browsers() {
    let app = spawn(&[]).await;
    for path in ["/openapi.json", "/openapi.yaml", "/openapi/full.json", "/.well-known/ai-plugin.json"] {
        let answer = app.call("GET", path, &[("origin", "https://cloud.dify.ai")], None).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("last-modified"), None, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        assert_eq!(app.call("HEAD", path, &[], None).await.status, 200, "{path}");
    }
    let manifest = app.get("/.well-known/ai-plugin.json").await.json();
    assert_eq!(manifest["api"]["url"], format!("http://{}/openapi.json", app.address));
}

#[actix_web::test]
async fn swagger_ui_is_served_from_the_binary() {
    let app = spawn(&[]).await;
    let answer = app.get("/docs").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (308, Some("docs/")));
    let answer = app.get("/docs/").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.header("content-security-policy").expect("a policy").contains("unsafe"));
    for path in ["/docs/nothing.js", "/docs/../Cargo.toml", "/docs/%2e%2e/Cargo.toml"] {
        assert_eq!(app.get(path).await.code(), "not_found", "{path}");
    }
}

/// The names under which types become schemas of the full document.
fn schema_names(text: &str) -> Vec<String> {
    let is_derived = |line: &str| line.starts_with("#[derive(") && line.contains("ToSchema");
    let mut names = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while lines.any(is_derived) {
        let words = lines.by_ref().find(|line| line.contains("struct ") || line.contains("enum "));
        let mut words = words.unwrap_or_default().split(|c: char| !c.is_alphanumeric() && c != '_');
        words.find(|word| ["struct", "enum"].contains(word));
        names.extend(words.next().map(String::from));
    }
    names
}

#[test]
fn no_two_schemas_share_a_name() {
    // Of two schemas of one name the document would hold one, and refer to it for both.
    let text =
        "#[derive(ToSchema)]\nstruct A {\n}\n#[derive(X, ToSchema)]\n#[serde(y)]\npub(super) enum B<T> {";
    assert_eq!(schema_names(text), ["A", "B"]);
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut places = std::collections::BTreeMap::new();
    for file in crate::layering::files(&source) {
        let text = std::fs::read_to_string(&file).expect("a source file");
        for name in schema_names(&text) {
            let before = places.insert(name.clone(), file.clone());
            assert_eq!(before, None, "{name} is a schema here and in {}", file.display());
        }
    }
    // What is looked for is found: each schema of the document is one of these types.
    let document = mirrorgate::api::documents(true).at(mirrorgate::http::documents::Document::Full, "");
    for name in document["components"]["schemas"].as_object().expect("schemas").keys() {
        assert!(places.contains_key(name), "{name} is none of the types that were looked at");
    }
}
