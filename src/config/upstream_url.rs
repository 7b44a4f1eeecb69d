//! `UPSTREAM_URL` as people write it, turned into the base under which the protocol's paths lie.

use url::Url;

use super::Protocol;

/// What is wrong, and what to do.
type Mistake = (String, &'static str);

/// The base URL, without a trailing slash in its path: for the OpenAI protocol it ends in the
/// version (`/v1`) unless a full `/chat/completions` address says otherwise, for a web chat it is
/// what stands before `/rest/app-chat`.
pub fn normalize(text: &str, protocol: Protocol) -> Result<Url, Mistake> {
    let bad = |what: &str, advice: &'static str| (format!("`{text}` {what}"), advice);
    let mut url = Url::parse(text).map_err(|_| {
        bad(
            "is not a URL",
            "give scheme and host, such as https://mirror.example.com or http://127.0.0.1:8000/v1",
        )
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(bad(
            "is not an http or https URL",
            "start it with https:// or http://, such as https://mirror.example.com",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err((
            "holds a user name or a password".into(),
            "move them out of the URL: `Authorization: Basic …` in UPSTREAM_HEADERS",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("holds a query or a fragment", "leave out everything from `?` or `#` on"));
    }
    let path = url.path().trim_end_matches('/').to_string();
    let path = match protocol {
        Protocol::OpenAi => match path.strip_suffix("/chat/completions") {
            Some(base) => base.to_string(),
            None => {
                let last = path.rsplit('/').next().unwrap_or_default();
                let is_version =
                    last.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
                if is_version { path } else { format!("{path}/v1") }
            }
        },
        Protocol::WebChat => path.split("/rest/app-chat").next().unwrap_or_default().to_string(),
    };
    url.set_path(&path);
    Ok(url)
}

/// The URL of a path under a normalized base; `segments` are percent-encoded one by one.
pub fn under(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_an_openai_base_works() {
        for (text, chat) in [
            ("https://m.example.com", "https://m.example.com/v1/chat/completions"),
            ("https://m.example.com/", "https://m.example.com/v1/chat/completions"),
            ("https://m.example.com/v1", "https://m.example.com/v1/chat/completions"),
            ("https://m.example.com/v1/", "https://m.example.com/v1/chat/completions"),
            ("https://m.example.com/v1/chat/completions", "https://m.example.com/v1/chat/completions"),
            ("https://m.example.com/v1/chat/completions/", "https://m.example.com/v1/chat/completions"),
            ("http://127.0.0.1:8000/api", "http://127.0.0.1:8000/api/v1/chat/completions"),
            ("https://m.example.com/openai/v1beta", "https://m.example.com/openai/v1beta/chat/completions"),
            ("https://m.example.com/chat/completions", "https://m.example.com/chat/completions"),
        ] {
            let base = normalize(text, Protocol::OpenAi).expect(text);
            assert_eq!(under(&base, &["chat", "completions"]).as_str(), chat, "{text}");
        }
    }

    #[test]
    fn a_web_chat_base_ends_before_the_protocol() {
        for text in [
            "https://m.example.com/x",
            "https://m.example.com/x/",
            "https://m.example.com/x/rest/app-chat/conversations/new",
        ] {
            let base = normalize(text, Protocol::WebChat).expect(text);
            assert_eq!(under(&base, &["rest", "a/b"]).as_str(), "https://m.example.com/x/rest/a%2Fb");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for text in [
            "m.example.com",
            "ftp://m",
            "https://u:p@m.example.com",
            "https://m.example.com/?a=1",
            "localhost:8000",
        ] {
            assert!(normalize(text, Protocol::OpenAi).is_err(), "{text}");
        }
    }
}
