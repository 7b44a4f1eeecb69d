//! What the pages for people have in common: their language, their policy, and their messages. What they
//! say is each page's own.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;

/// The languages of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Chinese, as it is written in Taiwan and Hong Kong.
    TraditionalChinese,
}

impl Language {
    /// Both.
    pub const ALL: [Language; 2] = [Language::English, Language::TraditionalChinese];

    /// Its tag, RFC 5646.
    pub fn tag(self) -> &'static str {
        match self {
            Language::English => "en",
            Language::TraditionalChinese => "zh-Hant",
        }
    }

    /// The language that the address asks for, else the one that the browser prefers.
    pub fn of(request: &HttpRequest) -> Self {
        let query = url::form_urlencoded::parse(request.query_string().as_bytes());
        let asked = query.filter(|(name, _)| name == "lang").find_map(|(_, tag)| Language::of_tag(&tag));
        let header = request.headers().get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        asked.unwrap_or_else(|| preferred(header.unwrap_or_default()))
    }

    /// Whether the browser prefers Chinese as it is written in China and Singapore: such a reader may rather
    /// read English than our Chinese.
    pub fn is_near(request: &HttpRequest) -> bool {
        let header = request.headers().get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let tags =
            header.unwrap_or_default().split(',').map(|range| range.split(';').next().unwrap_or_default());
        let first = tags.map(str::trim).find(|tag| Language::of_tag(tag).is_some()).unwrap_or_default();
        ["zh-cn", "zh-sg", "zh-hans"].iter().any(|near| first.to_ascii_lowercase().starts_with(near))
    }

    /// The language of a tag, if it is one of ours.
    fn of_tag(tag: &str) -> Option<Self> {
        match tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "en" => Some(Language::English),
            "zh" => Some(Language::TraditionalChinese),
            _ => None,
        }
    }
}

/// The best of our languages in an Accept-Language header, RFC 9110, section 12.5.4.
fn preferred(header: &str) -> Language {
    let mut best = (0.0, Language::English);
    for range in header.split(',') {
        let (tag, quality) = range.split_once(";q=").unwrap_or((range, "1"));
        let quality: f32 = quality.trim().parse().unwrap_or_default();
        if let Some(language) = Language::of_tag(tag).filter(|_| quality > best.0) {
            best = (quality, language);
        }
    }
    best.1
}

/// The texts of a page in one language.
pub fn messages(text: &str) -> Value {
    serde_json::from_str(text).expect("the messages are JSON")
}

/// A page that may load what this service serves, and nothing else.
pub fn html(page: String) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ))
        .insert_header((header::VARY, "accept-language"))
        .body(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn readers_of_simplified_chinese_are_known() {
        for (header, expected) in [
            ("zh-CN,zh;q=0.9", true),
            ("fr, zh-Hans-SG;q=0.5", true),
            ("zh-TW,zh-CN;q=0.5", false),
            ("en, zh-CN", false),
        ] {
            let request = TestRequest::default().insert_header(("Accept-Language", header)).to_http_request();
            assert_eq!(Language::is_near(&request), expected, "{header}");
        }
    }

    #[test]
    fn the_preferred_language_of_ours_is_chosen() {
        for (header, expected) in [
            ("", Language::English),
            ("fr, *;q=0.1", Language::English),
            ("zh-TW,zh;q=0.9,en;q=0.8", Language::TraditionalChinese),
            ("en;q=0.4, zh-Hant;q=0.9", Language::TraditionalChinese),
            ("zh;q=0, en", Language::English),
        ] {
            assert_eq!(preferred(header), expected, "{header}");
        }
    }
}
