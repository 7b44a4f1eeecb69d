//! Where a protocol's paths begin: people write an upstream's address with or without them.

use url::Url;

/// The base of this address, without a slash at its end.
pub fn of(mut url: Url, path: fn(&str) -> String) -> Url {
    let path = path(url.path().trim_end_matches('/'));
    url.set_path(&path);
    url
}

/// The URL of a path under a base; `segments` are percent-encoded one by one.
pub fn under(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// The base path of a protocol whose paths begin after a version: `/v1`, unless the address names
/// another one, or is the full one of this `endpoint`.
pub fn versioned(path: &str, endpoint: &str) -> String {
    if let Some(base) = path.strip_suffix(endpoint) {
        return base.to_string();
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let is_version =
        last.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    // Gemini's dialect of OpenAI's protocol lies under `/v1beta/openai`.
    if is_version || last == "openai" { path.to_string() } else { format!("{path}/v1") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Protocol;

    /// The full URL of a path of the protocol, of an address as people write it.
    fn full(protocol: Protocol, url: &str, segments: &[&str]) -> String {
        let url = Url::parse(url).expect("a URL");
        under(&of(url, super::super::Protocol::named(protocol).base_path), segments).into()
    }

    #[test]
    fn every_way_to_write_a_base_that_ends_in_a_version_works() {
        for (text, base) in [
            ("https://m.example.com", "https://m.example.com/v1"),
            ("https://m.example.com/", "https://m.example.com/v1"),
            ("https://m.example.com/v1", "https://m.example.com/v1"),
            ("https://m.example.com/v1/", "https://m.example.com/v1"),
            ("https://m.example.com/v1/ENDPOINT", "https://m.example.com/v1"),
            ("https://m.example.com/v1/ENDPOINT/", "https://m.example.com/v1"),
            ("http://127.0.0.1:8000/api", "http://127.0.0.1:8000/api/v1"),
            ("https://m.example.com/openai/v1beta", "https://m.example.com/openai/v1beta"),
            ("https://m.example.com/ENDPOINT", "https://m.example.com"),
            ("https://m.example.com/v1beta/openai/", "https://m.example.com/v1beta/openai"),
        ] {
            for (protocol, endpoint) in
                [(Protocol::OpenAi, "chat/completions"), (Protocol::Anthropic, "messages")]
            {
                let segments: Vec<&str> = endpoint.split('/').collect();
                let full = full(protocol, &text.replace("ENDPOINT", endpoint), &segments);
                assert_eq!(full, format!("{base}/{endpoint}"), "{text}");
            }
        }
    }

    #[test]
    fn a_web_chat_base_ends_before_the_protocol() {
        for text in [
            "https://m.example.com/x",
            "https://m.example.com/x/",
            "https://m.example.com/x/rest/app-chat/conversations/new",
        ] {
            let full = full(Protocol::WebChat, text, &["rest", "a/b"]);
            assert_eq!(full, "https://m.example.com/x/rest/a%2Fb");
        }
    }
}
