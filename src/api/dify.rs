//! Ready apps for Dify: files that it imports by URL, with this service's address filled in, and the page
//! that lists them. Both are public, so they hold no key and nothing that a key protects.

use std::collections::HashMap;
use std::sync::LazyLock;

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse, Responder, get};
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde_json::{Map, Value};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::domain::error::{Error, Kind};
use crate::http::base_url::Peers;
use crate::http::documents::yaml;
use crate::http::failure::Failure;
use crate::http::page::{self, Language, messages};
use crate::http::reply::FailureBody;
use crate::reachability::Unreachable;

/// The apps, by the names of their files, in the order of the page.
const APPS: [(&str, &str); 3] = [
    ("chatflow", include_str!("dify/chatflow.yml")),
    ("streaming", include_str!("dify/streaming.yml")),
    ("batch", include_str!("dify/batch.yml")),
];

/// Adds the apps to an application and to the full document.
pub fn routes(config: &mut ServiceConfig) {
    config.service(ready_app);
}

/// Adds the page, which is no operation.
pub fn pages(config: &mut actix_web::web::ServiceConfig) {
    config.service(root).service(index);
}

/// A ready app for Dify
///
/// An app in Dify's DSL with this service's address filled in, for Dify's import from a URL:
/// `chatflow.yml`, `streaming.yml`, `batch.yml`, and each in Traditional Chinese, as
/// `chatflow.zh-Hant.yml`.
#[utoipa::path(
    tag = "documents",
    params(("file" = String, Path, description = "The file's name", example = "chatflow.yml")),
    responses(
        (status = 200, description = "An app in Dify's DSL", body = Object, content_type = "application/yaml"),
        (status = "4XX", description = "The request is at fault", body = FailureBody),
    ),
    security(()),
)]
#[get("/dify/{file}")]
async fn ready_app(
    request: HttpRequest,
    file: Path<String>,
    peers: Data<Peers>,
) -> Result<HttpResponse, Failure> {
    let (template, language) = TEMPLATES
        .get(file.as_str())
        .ok_or_else(|| Failure::new(&request, Error::new(Kind::NotFound, "there is no such app")))?;
    let app = yaml(&filled(template, *language, &peers.base_url(&request)));
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/yaml"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(app))
}

#[get("/dify")]
async fn root() -> impl Responder {
    HttpResponse::build(StatusCode::PERMANENT_REDIRECT).insert_header((header::LOCATION, "dify/")).finish()
}

#[get("/dify/")]
async fn index(request: HttpRequest, peers: Data<Peers>) -> HttpResponse {
    static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
        let mut pages = Environment::new();
        pages.add_template("page.html", include_str!("dify/page.html")).expect("the page is a good template");
        pages
    });
    let (language, base) = (Language::of(&request), peers.base_url(&request));
    let context = context! {
        lang => language.tag(),
        t => Serde(&texts(language)["page"]),
        apps => Serde(listed(language, &base)),
        reach => Unreachable::of(&base).map(Unreachable::name),
        base_url => base,
    };
    let page = PAGES.get_template("page.html").and_then(|template| template.render(context));
    page::html(page.expect("the page names only what the context holds"))
}

/// The apps as pages list them: name, when to take it, and address.
pub fn listed(language: Language, base: &str) -> Vec<Value> {
    let texts = texts(language);
    let app = |(name, _): &(&str, &str)| {
        serde_json::json!({
            "id": name,
            "name": texts["app"][format!("{name}_name")],
            "when": texts["page"][format!("{name}_when")],
            "url": format!("{base}/dify/{}", file_name(name, language)),
        })
    };
    APPS.iter().map(app).collect()
}

/// The texts of the apps and of the page.
fn texts(language: Language) -> &'static Value {
    static ENGLISH: LazyLock<Value> = LazyLock::new(|| messages(include_str!("dify/messages.en.json")));
    static CHINESE: LazyLock<Value> = LazyLock::new(|| messages(include_str!("dify/messages.zh-Hant.json")));
    match language {
        Language::English => &ENGLISH,
        Language::TraditionalChinese => &CHINESE,
    }
}

fn file_name(app: &str, language: Language) -> String {
    match language {
        Language::English => format!("{app}.yml"),
        Language::TraditionalChinese => format!("{app}.{}.yml", language.tag()),
    }
}

/// Each file: the app as it is written here, and the language of its texts.
static TEMPLATES: LazyLock<HashMap<String, (Value, Language)>> = LazyLock::new(|| {
    let files = APPS.iter().flat_map(|(name, text)| {
        Language::ALL.map(|language| (file_name(name, language), (parsed(text), language)))
    });
    files.collect()
});

fn parsed(text: &str) -> Value {
    yaml_serde::from_str(text).expect("the apps are YAML")
}

/// An app for a service at `server`, an absolute URL without a trailing slash.
fn filled(template: &Value, language: Language, server: &str) -> Value {
    static PARTS: LazyLock<Value> = LazyLock::new(|| parsed(include_str!("dify/parts.yml")));
    let mut words: Map<String, Value> = Map::new();
    words.extend(PARTS.as_object().cloned().unwrap_or_default());
    words.extend(texts(language)["app"].as_object().cloned().unwrap_or_default());
    words.insert("read_code".into(), include_str!("dify/read.py").into());
    words.insert("server".into(), server.into());
    let mut app = template.clone();
    fill(&mut app, &words);
    app
}

/// Puts values for their names: `${name}` alone is the value itself, which may be a list or a map and name
/// others; in a text it is the value's text.
fn fill(value: &mut Value, words: &Map<String, Value>) {
    match value {
        Value::String(text) => {
            let alone = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            if let Some(word) = alone.and_then(|name| words.get(name)) {
                *value = word.clone();
                if !value.is_string() {
                    fill(value, words);
                }
            } else if text.contains("${") {
                for (name, word) in words {
                    if let Some(word) = word.as_str() {
                        *text = text.replace(&format!("${{{name}}}"), word);
                    }
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(item, words)),
        Value::Object(object) => object.values_mut().for_each(|inner| fill(inner, words)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value with every text of the language left out: what both languages share.
    fn without_texts(value: &Value, texts: &[&str]) -> Value {
        match value {
            Value::String(text) => {
                texts.iter().fold(text.clone(), |text, word| text.replace(word, "")).into()
            }
            Value::Array(items) => items.iter().map(|item| without_texts(item, texts)).collect(),
            Value::Object(object) => object
                .iter()
                .map(|(key, inner)| (key.clone(), without_texts(inner, texts)))
                .collect::<Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    #[test]
    fn every_file_is_filled_and_the_languages_differ_in_their_words_alone() {
        for (name, text) in APPS {
            let [english, chinese] = Language::ALL.map(|language| {
                let app = filled(&parsed(text), language, "https://gate.example.com/base");
                assert!(!yaml(&app).contains("${"), "{name} has a name that nothing fills");
                let mut words: Vec<&str> = texts(language)["app"]
                    .as_object()
                    .expect("texts")
                    .values()
                    .map(|word| word.as_str().expect("a text"))
                    .collect();
                // The longest first, since one may be a part of another.
                words.sort_by_key(|word| std::cmp::Reverse(word.len()));
                without_texts(&app, &words)
            });
            assert_eq!(english, chinese, "{name}");
        }
    }

    #[test]
    fn both_languages_have_the_same_texts() {
        let keys = |language: Language, part: &str| {
            let texts = texts(language)[part].as_object().expect("texts");
            texts.keys().cloned().collect::<Vec<_>>()
        };
        for part in ["app", "page"] {
            assert_eq!(keys(Language::English, part), keys(Language::TraditionalChinese, part));
        }
    }
}
